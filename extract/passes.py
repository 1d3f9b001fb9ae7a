"""A pass over pictures: they are read, run through the networks, and their rows staged as blocks.

An extraction makes one in its own process; each worker of a cluster makes one over the pictures that it is given.
"""

import dataclasses
import time
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.images import ImageSet
from data.splits import SplitRule
from data.views import Digests, Skipped, View
from extract.flow import Batch, decoding, flow
from extract.reader import Picture
from extract.target import Target

# What is known of the features of each network: for each, the contents that have them.
Known = Sequence[Sequence[Container[bytes]]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Parameters
    ----------
    index : int
        Which it is.
    digest : bytes
        Of its content; empty if it could not be read.
    reason : str
        Why it was skipped; empty if it was not.
    size, mtime : int
        As `extract.reader.Picture` has them.
    given : bool
        Whether a network is given it: nothing of this content was known.
    """

    index: int
    digest: bytes
    reason: str
    size: int
    mtime: int
    given: bool


@dataclasses.dataclass
class Tally:
    """What passes did, summed.

    Parameters
    ----------
    seconds : dict of str to float
        Work in ``read``, ``decode``, ``forward`` and ``write``.
    engines : dict of int to str
        What ran each network that ran.
    not_finite : set of bytes
        Contents for which a network gives NaN or infinity.
    notes : list of str
        What the user should know, each once.
    wall : float
        Seconds that processes took from their first picture to their last, summed.
    """

    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"read": 0.0, "decode": 0.0, "forward": 0.0, "write": 0.0}
    )
    engines: dict[int, str] = dataclasses.field(default_factory=dict)
    not_finite: set[bytes] = dataclasses.field(default_factory=set)
    notes: list[str] = dataclasses.field(default_factory=list)
    wall: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add what another pass did."""
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        self.wall += other.wall
        self.engines.update(other.engines)
        self.not_finite |= other.not_finite
        self.notes += [note for note in other.notes if note not in self.notes]


class Pass:
    """Runs networks over pictures and stages their rows; engines are kept from one `run` to the next.

    Parameters
    ----------
    targets : sequence of Target
        The networks.
    known : sequence of sequences of containers of bytes
        Contents that need not be computed, for each feature of each network.
    readers : int
        Threads that read and decode.
    cores : int
        What the process computes on.

    Attributes
    ----------
    tally : Tally
        What was done since it was last replaced.
    """

    processes = 1

    def __init__(self, targets: Sequence[Target], known: Known, readers: int, cores: int) -> None:
        self.targets = targets
        self.cores = cores
        self.readers = readers
        self.tally = Tally()
        self._known = known
        # what a network has been given in this pass: from then on a copy of it is reused
        self._given: list[set[bytes]] = [set() for _ in targets]
        self._forward = [0.0 for _ in targets]  # seconds of each network
        self._began = self._earlier = 0.0  # when this run began, and what those before it took
        self._images: ImageSet | None = None
        self._scanned: list[Outcome] = []  # read since the last block: the next one remembers their files

    def run(self, images: ImageSet, indices: Iterable[int]) -> Generator[Outcome]:
        """Yield what became of each picture, in order; when all have come, every row is on the disk."""
        self._images, self._scanned = images, []
        networks = [target.network for target in self.targets]
        began = self._began = time.perf_counter()
        with decoding():
            for item in flow(images, indices, networks, lacking=self._lacking, start=self._start, workers=self.readers):
                if isinstance(item, Batch):
                    self._take(item)
                else:
                    yield self._settle(item)
        self.tally.wall += time.perf_counter() - began
        engines = [network.engine for network in networks if network.engine]
        self.tally.add(Tally(notes=[note for engine in engines for note in engine.notes]))
        self.flush()
        self._earlier = self._elapsed

    def flush(self) -> None:
        """Stage the rows so far, and wait until they are on the disk."""
        self._stage()
        for target in self.targets:
            for writer in target.writers:
                writer.wait()
                self.tally.seconds["write"] += writer.seconds
                writer.seconds = 0.0

    def close(self) -> None:
        """End the writers; blocks in flight are finished."""
        for target in self.targets:
            for writer in target.writers:
                writer.close()

    def _lacking(self, digest: bytes) -> list[int]:
        """Return the networks that have not seen a content, all of whose features they must give."""
        return [
            i
            for i, known in enumerate(self._known)
            if digest not in self._given[i] and not all(digest in rows for rows in known)
        ]

    def _start(self, network: int, first: list[Picture]) -> None:
        target = self.targets[network]
        notes = target.start_engine(first)
        assert target.network.engine is not None
        if not any(self._forward):  # to open networks is no cost of a picture
            self._began = time.perf_counter()
        self.tally.add(Tally(engines={network: target.network.engine.name}, notes=notes))

    def _settle(self, picture: Picture) -> Outcome:
        """Note what became of a file."""
        self.tally.seconds["read"] += picture.read_seconds
        self.tally.seconds["decode"] += picture.decode_seconds
        lacking = self._lacking(picture.digest) if picture.inputs else []
        for network in lacking:
            self._given[network].add(picture.digest)
        outcome = Outcome(
            picture.index, picture.digest, picture.reason, picture.size, picture.mtime, given=bool(lacking)
        )
        self._scanned.append(outcome)
        return outcome

    def _take(self, batch: Batch) -> None:
        """Give the writers those rows of a batch that they do not have."""
        self.tally.seconds["forward"] += batch.seconds
        self._forward[batch.network] += batch.seconds
        target = self.targets[batch.network]
        finite = np.all([np.isfinite(vectors).all(axis=1) for vectors in batch.vectors], axis=0)
        digests = [picture.digest for picture in batch.pictures]
        bad = {digest for digest, good in zip(digests, finite.tolist(), strict=True) if not good}
        self.tally.not_finite |= bad
        for i, vectors in zip(target.lacking, batch.vectors, strict=True):
            known = self._known[batch.network][i]
            keep = [row for row, digest in enumerate(digests) if digest not in known and digest not in bad]
            target.writers[i].add([digests[row] for row in keep], vectors[keep])
        if any(writer.due for writer in target.writers):
            self._stage()

    def _stage(self) -> None:
        """Hand the rows so far to the writers; the first block also says which files were read."""
        total = sum(self._forward)
        for target, forward in zip(self.targets, self._forward, strict=True):
            for writer in target.writers:
                if writer.rows:
                    scanned, self._scanned = self._scanned, []
                    writer.stage(self._block_view(scanned), self._elapsed * (forward / total if total else 1.0))

    @property
    def _elapsed(self) -> float:
        return self._earlier + time.perf_counter() - self._began

    def _block_view(self, scanned: list[Outcome]) -> View:
        assert self._images is not None
        indices = [outcome.index for outcome in scanned]
        return make_view(
            self._images,
            indices,
            np.array([o.digest for o in scanned], dtype="S64"),
            np.array([o.size for o in scanned], dtype=np.int64),
            np.array([o.mtime for o in scanned], dtype=np.int64),
            {o.index: o.reason for o in scanned if o.reason},
            self._images.splits[indices],
            None,
        )


def make_view(
    images: ImageSet,
    indices: Sequence[int],
    digests: Digests,
    sizes: npt.NDArray[np.int64],
    mtimes: npt.NDArray[np.int64],
    reasons: Mapping[int, str],
    splits: npt.NDArray[np.str_],
    rule: SplitRule | None,
) -> View:
    """Return a view of some pictures of a set.

    Parameters
    ----------
    images : ImageSet
        The set.
    indices : sequence of int
        Which of its pictures.
    digests, sizes, mtimes, splits : ndarray of shape (n,)
        Of these pictures.
    reasons : mapping of int to str
        Why pictures were skipped, by their index.
    rule : SplitRule, optional
        What made the splits.
    """
    good = [row for row, index in enumerate(indices) if index not in reasons]
    skipped = [row for row, index in enumerate(indices) if index in reasons]
    chosen: Any = [indices[row] for row in good]
    return View(
        name=images.name,
        root=images.root,
        classes=images.classes,
        paths=[images.paths[index] for index in chosen],
        digests=digests[good],
        targets=images.targets[chosen],
        splits=splits[good],
        sizes=sizes[good],
        mtimes=mtimes[good],
        skipped=[
            Skipped(images.paths[indices[row]], reasons[indices[row]], int(sizes[row]), int(mtimes[row]))
            for row in skipped
        ],
        split_rule=dataclasses.asdict(rule) if rule else None,
        source=images.source,
        named=images.named,
    )
