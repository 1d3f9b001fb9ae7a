"""Workers on a Ray cluster: each makes a pass over the chunks of pictures that Ray Data gives it.

A chunk's blocks are staged before its outcomes are returned, so a chunk whose worker died is simply done again by
another; rows that are staged twice so are dropped when they are published. What travels between driver and workers
is JSON in one column; the plan, and what is known, are put into Ray's object store once.
"""

import collections
import dataclasses
import json
import socket
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import data.errors
from data import VERSION
from data.depot import has_block
from data.errors import ClusterError, ImageSetError, PenultError, first_line
from data.images import ImageSet
from data.spec import FeatureSpec
from data.staging import staging_folder
from data.views import Digests
from extract.components import stored_components
from extract.networks import Feature
from extract.passes import Known, Outcome, Pass, Tally
from extract.projection import Pca
from extract.raylink import Link, Share, share_out
from extract.target import Plan, Target
from extract.wanted import Wanted

# Pictures of a chunk, which is what a dead worker costs: some seconds on a CPU or on a GPU; small sets make smaller
# ones, so that every worker gets several.
_MOST = {"cpu": 512, "gpu": 4096}
_LEAST, _CHUNKS_EACH = 8, 4
# Workers that die over one chunk before it is given up. Machines that are taken away cost one each.
_DEATHS = 3
# Seconds that a network file system may take to show another machine's new file.
_PATIENCE = 30.0


class SortedDigests:
    """Contents as a set, in one array that processes of a machine share."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests

    def __contains__(self, digest: object) -> bool:
        row = int(np.searchsorted(self._digests, np.array(digest, dtype=self._digests.dtype)))
        return row < len(self._digests) and self._digests[row] == digest


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker must know.

    Parameters
    ----------
    version : str
        Penult's, which must be the worker's.
    plan : Plan
        As for `Target`; readers is 0 for one a core.
    images : ImageSet
        The set without its pictures, which come with the chunks.
    wanted : list of Wanted
        The networks.
    features : list of lists of (FeatureSpec, dict, str)
        Spec, command and dtype of each vector of each network.
    components : list of Pca or None
        Of each network's projection.
    lacking : list of lists of int
        Which vectors of each network are to be computed.
    known : list of lists of ndarray of shape (n,), S64, sorted
        Contents that have these features.
    """

    version: str
    plan: Plan
    images: ImageSet
    wanted: list[Wanted]
    features: list[list[tuple[FeatureSpec, dict[str, Any], str]]]
    components: list[Pca | None]
    lacking: list[list[int]]
    known: list[list[Digests]]


class Cluster:
    """Computes an extraction on a Ray cluster, as `Pass` does in this process.

    Parameters
    ----------
    plan : Plan
        How networks are run; cores are shared out here.
    targets : sequence of Target
        The networks. They are opened again by each worker.
    known : sequence of sequences of sets of bytes
        As for `Pass`.
    images : ImageSet
        The set.
    address : str
        ``local``, ``auto`` or an address.
    workers : int
        How many; 0 takes one a GPU, or all cores.
    """

    def __init__(
        self, plan: Plan, targets: Sequence[Target], known: Known, images: ImageSet, *, address: str, workers: int
    ) -> None:
        self.plan = plan
        self.targets = targets
        self.known = known
        self.images = images
        self.address = address
        self.workers = workers
        self.tally = Tally()
        self.cores = self.readers = 1  # of a worker
        self._seen: set[str] = set()
        self._redone = 0

    @property
    def processes(self) -> int:
        """How many workers computed."""
        return len(self._seen)

    def run(self, images: ImageSet, indices: Sequence[int]) -> Generator[Outcome]:
        """Yield what became of each picture; the blocks behind it are staged.

        Raises
        ------
        MissingDependency
            If Ray is not installed.
        ClusterError
            If there is no cluster, or its machines do not see the pictures or the store.
        PenultError
            What a worker raised.
        """
        on_gpu = self._wants_gpu()
        with Link(self.address) as link:
            share = share_out(link.machines(), self.workers, on_gpu=on_gpu, address=self.address)
            self.tally.notes += share.notes
            self.cores, self.readers = share.cores, self.plan.readers or share.cores
            job = self._job(share)
            kind = "gpu" if share.gpu else "cpu"
            size = max(_LEAST, min(_MOST[kind], -(-len(indices) // (_CHUNKS_EACH * share.workers))))
            chunks = [chunk_of(images, indices[i : i + size]) for i in range(0, len(indices), size)]
            for text in link.map(Worker, job, chunks, share):
                yield from self._take(json.loads(text))
        if self._redone:
            self.tally.notes.append(
                f"workers died {self._redone} times: their pictures were done again by others, and no row is twice"
            )

    def flush(self) -> None:
        """Do nothing: workers stage each chunk before they speak of it."""

    def close(self) -> None:
        """Do nothing: `run` has ended the workers."""

    def _wants_gpu(self) -> bool:
        device = self.plan.setup.device
        if device not in ("auto", "cpu", "cuda"):
            raise ClusterError(f"--device {device} does not go with --ray, which gives a worker its GPU: use cuda")
        return device != "cpu" and self.plan.setup.engine != "onnx"

    def _job(self, share: Share) -> Job:
        setup = dataclasses.replace(self.plan.setup, cores=share.cores)
        if setup.device == "auto":
            setup = dataclasses.replace(setup, device="cuda" if share.gpu else "cpu")
        components = [
            stored_components(self.plan.store, target.features[0].spec.projection)
            if target.wanted.projection.startswith("pca:")
            else None
            for target in self.targets
        ]
        return Job(
            version=VERSION,
            plan=dataclasses.replace(self.plan, setup=setup, readers=self.readers),
            images=_subset(self.images, []),
            wanted=[target.wanted for target in self.targets],
            features=[
                [(f.spec, f.request, writer.dtype.name) for f, writer in zip(t.features, t.writers, strict=True)]
                for t in self.targets
            ],
            components=components,
            lacking=[target.lacking for target in self.targets],
            known=[[_sorted(rows) for rows in known] for known in self.known],
        )

    def _take(self, report: dict[str, Any]) -> Iterator[Outcome]:
        """Add one chunk's report."""
        if report["error"]:
            kind, message, trace = report["error"]
            raise getattr(data.errors, kind)(f"worker on {report['machine']}: {message}") from RuntimeError(trace)
        if report["worker"] not in self._seen:
            self._find(report)
            self._seen.add(report["worker"])
        self._redone += report["deaths"]
        self.tally.add(
            Tally(
                report["seconds"],
                {int(network): engine for network, engine in report["engines"].items()},
                {digest.encode() for digest in report["not_finite"]},
                report["notes"],
                report["wall"],
            )
        )
        for index, digest, reason, size, mtime, given in report["outcomes"]:
            yield Outcome(index, digest.encode(), reason, size, mtime, given)

    def _find(self, report: dict[str, Any]) -> None:
        """Raise if a worker's first block is not where it is to be published from."""
        plan = self.plan
        name = report["block"]
        until = time.monotonic() + _PATIENCE
        while name and report["machine"] != socket.gethostname():
            there = has_block(plan.address, name) if plan.address else (staging_folder(plan.store) / name).exists()
            if there:
                return
            if time.monotonic() > until:
                where = plan.address or str(staging_folder(plan.store))
                raise ClusterError(
                    f"a block that the worker on {report['machine']} wrote to {where} is not there for this machine: "
                    "put the store on storage that all machines share at one path, or name an address with --staging"
                )
            time.sleep(0.5)


class Worker:
    """What runs on the cluster: a `Pass` over one chunk after the other.

    Parameters
    ----------
    job : Job
        What to compute.
    name : str
        Of this worker; no other has it.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.name = name
        self._machine = socket.gethostname()
        self._pass: Pass | None = None
        self._began = False

    def run(self, chunk: str, earlier: int) -> str:
        """Compute a chunk and return the report, both JSON.

        Parameters
        ----------
        chunk : str
            As `chunk_of` makes it.
        earlier : int
            Workers that have begun this chunk before, and died.
        """
        report: dict[str, Any] = {"worker": self.name, "machine": self._machine, "error": None}
        try:
            report.update(self._compute(json.loads(chunk), earlier))
        except PenultError as error:  # the driver raises it again
            report["error"] = [type(error).__name__, str(error), traceback.format_exc()]
        except Exception as error:
            message = f"{type(error).__name__}: {first_line(error)}: this is a defect of Penult; --debug shows where"
            report["error"] = [ClusterError.__name__, message, traceback.format_exc()]
        return json.dumps(report)

    def _compute(self, rows: list[list[Any]], earlier: int) -> dict[str, Any]:
        if self.job.version != VERSION:
            raise ClusterError(f"it has Penult {VERSION}, the driver {self.job.version}: install the same everywhere")
        images = _subset(self.job.images, rows)
        if earlier >= _DEATHS:
            raise ClusterError(
                f"{earlier} workers died over the {len(images)} pictures from {images.title(0)} to "
                f"{images.title(len(images) - 1)}: run without --ray to see which one it is, or give workers more "
                "memory with fewer of them (--ray-workers)"
            )
        worker = self._pass = self._pass or self._open()
        worker.tally = tally = Tally()
        outcomes = list(worker.run(images, range(len(images))))
        self._refuse_blindness(images, outcomes)
        return {
            "outcomes": [[rows[o.index][0], o.digest.decode(), o.reason, o.size, o.mtime, o.given] for o in outcomes],
            "seconds": tally.seconds,
            "engines": tally.engines,
            "not_finite": [digest.decode() for digest in tally.not_finite],
            "notes": tally.notes,
            "wall": tally.wall,
            "block": next((w.latest for t in worker.targets for w in t.writers if w.latest), ""),
            "deaths": earlier,
        }

    def _open(self) -> Pass:
        job = self.job
        targets = []
        for wanted, features, components in zip(job.wanted, job.features, job.components, strict=True):
            known = [Feature(spec, request) for spec, request, _ in features]
            dtypes = {spec.fingerprint: dtype for spec, _, dtype in features}
            targets.append(Target(job.plan, wanted, known, dtypes.__getitem__, _giver(components)))
        for target, lacking in zip(targets, job.lacking, strict=True):
            target.compute_only(lacking)
        known_rows = [[SortedDigests(rows) for rows in known] for known in job.known]
        return Pass(targets, known_rows, job.plan.readers, job.plan.setup.cores)

    def _refuse_blindness(self, images: ImageSet, outcomes: list[Outcome]) -> None:
        """Raise if none of the first pictures can be read, though the driver saw their files."""
        first, self._began = not self._began, True
        if first and all(o.reason.startswith("cannot be read") for o in outcomes) and (images.sizes >= 0).all():
            raise ImageSetError(
                f"it can read none of the first {len(outcomes)} pictures ({images.title(0)}: {outcomes[0].reason}): "
                "the pictures must lie at the same path on every machine, or at an address"
            )


class Ledger:
    """Counts how often each chunk was begun; an actor of its own, so that it outlives the workers."""

    def __init__(self) -> None:
        self._begun: collections.Counter[int] = collections.Counter()

    def begin(self, chunk: int) -> int:
        """Return how many workers have begun this chunk before."""
        self._begun[chunk] += 1
        return self._begun[chunk] - 1


def chunk_of(images: ImageSet, indices: Sequence[int]) -> str:
    """Return some pictures of a set as JSON: index, path, target, split, size and modification time of each."""
    return json.dumps(
        [
            [i, images.paths[i], int(images.targets[i]), str(images.splits[i]), int(images.sizes[i]), int(mtime)]
            for i, mtime in zip(indices, images.mtimes[list(indices)], strict=True)
        ]
    )


def _subset(images: ImageSet, rows: list[list[Any]]) -> ImageSet:
    _, paths, targets, splits, sizes, mtimes = zip(*rows, strict=True) if rows else ((),) * 6
    return dataclasses.replace(
        images,
        paths=list(paths),
        targets=np.array(targets, dtype=np.int32),
        splits=np.array(splits, dtype=np.str_),
        sizes=np.array(sizes, dtype=np.int64),
        mtimes=np.array(mtimes, dtype=np.int64),
    )


def _sorted(digests: Any) -> npt.NDArray[np.bytes_]:
    return np.sort(np.array(list(digests), dtype="S64"))


def _giver(components: Pca | None) -> Any:
    def give(_: object) -> Pca:
        assert components is not None, "sent where the projection asks for them"
        return components

    return give
