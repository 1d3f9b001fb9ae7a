"""What an extraction would take, before it starts: some of the pictures are run through the networks."""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.errors import ImageSetError
from data.images import ImageSet
from data.layout import BLOCK_ROWS
from extract.apart import Yielded
from extract.at_hand import has_weights
from extract.flow import SAMPLE, decoding, flow
from extract.glance import Glance
from extract.networks import Network, Setup
from extract.reader import Picture, read_picture
from extract.wanted import Wanted

# Pictures of a part of the sample: their seconds are measured part by part, to see how much they differ.
_PARTS, _FIRST, _FEWEST, _MOST = 3, 8, 8, 256
# Bytes of a vector's digest; of a picture's digest, class, split, size and time, to which its path comes.
_DIGEST, _ROW = 64, 64 + 4 + 8 + 16
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an extraction of a set would take.

    Parameters
    ----------
    pictures : int
        Of the set.
    measured : int
        Pictures of the sample that was run.
    milliseconds : float
        Of a picture, in the mean over the sample.
    least, most : float
        The same of its fastest and its slowest part.
    start_seconds : float
        Until the first picture: libraries, weights, engines.
    dims : list of int
        Length of each vector.
    engines : list of str
        What would run each network.
    store_bytes : int
        Of the finished store, uncompressed float32.
    disk_bytes : int
        While it is published: staged blocks and the store.
    memory_bytes : int
        Of the process that ran the sample, at most.
    notes : list of str
        What the user should know.
    """

    pictures: int
    measured: int
    milliseconds: float
    least: float
    most: float
    start_seconds: float
    dims: list[int]
    engines: list[str]
    store_bytes: int
    disk_bytes: int
    memory_bytes: int
    notes: list[str]

    @property
    def seconds(self) -> float:
        """The whole extraction."""
        return self.start_seconds + self.pictures * self.milliseconds / 1000

    @property
    def range(self) -> tuple[float, float]:
        """The whole extraction if all pictures were like the fastest part of the sample, or like the slowest."""
        low, high = (self.start_seconds + self.pictures * value / 1000 for value in (self.least, self.most))
        return low, high


@dataclasses.dataclass(frozen=True)
class Job:
    """An extraction before it starts.

    Parameters
    ----------
    source : str
        As it was named.
    pictures, classes : int
    splits : dict of str to int
    glance : Glance
    estimate : Estimate or None
        None where it could not be measured.
    free : int or None
        Bytes on the disk of the working folder.
    """

    source: str
    pictures: int
    classes: int
    splits: dict[str, int]
    glance: Glance
    estimate: Estimate | None
    free: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the job as `doctor IMAGES --json` prints it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        estimate = self.estimate
        told = estimate and {
            **vars(estimate),
            "seconds": round(estimate.seconds, 1),
            "seconds_range": [round(value, 1) for value in estimate.range],
        }
        return {**own, "glance": vars(self.glance), "estimate": told}


def draw(images: ImageSet, seed: int = 0) -> ImageSet:
    """Return as many pictures as `measure_job` may want, drawn by seed."""
    return images.take(np.random.default_rng(seed).permutation(len(images))[: _FIRST + _PARTS * _MOST])


def measure_job(
    sample: ImageSet, pictures: int, wanted: Sequence[Wanted], setup: Setup, budget: float, spare: str
) -> Yielded:
    """Run the networks over a sample as an extraction would, without storing anything, and yield the `Estimate`.

    Networks whose weights are not on this machine get random ones, which take as long; nothing is fetched.

    Parameters
    ----------
    sample : ImageSet
        As `draw` gives it.
    pictures : int
        Of the whole set.
    wanted : sequence of Wanted
        The networks, and the vectors of each.
    setup : Setup
        How they are run.
    budget : float
        Seconds of running pictures, about.
    spare : str
        A folder for graphs of random weights; the caller removes it, since this process may be killed.

    Raises
    ------
    PenultError
        If the networks or the pictures refuse.
    """
    began = time.perf_counter()
    import torch  # noqa: F401  (whose loading is a part of what an extraction waits for)

    notes: list[str] = []
    at_hand = [_at_hand(one, spare, notes) for one in wanted]
    opened = [(one.open(), one) for one in at_hand]
    networks = [Network(one.features(backbone)) for backbone, one in opened]
    loading = time.perf_counter() - began
    first = _read(sample, networks)
    opening = _start([backbone for backbone, _ in opened], networks, first, setup, notes)
    job = _Job(sample, networks)
    job.run(range(min(_FIRST, len(sample))))
    once = job.run(range(min(_FIRST, len(sample))))
    n = int(min(max(budget / _PARTS / once, _FEWEST), _MOST))
    rest = np.arange(min(_FIRST, max(len(sample) - 1, 0)), len(sample))
    parts = [part for part in np.array_split(rest[: _PARTS * n], min(_PARTS, len(rest))) if len(part)]
    seconds = [job.run(part.tolist()) for part in parts]
    weights = [len(part) for part in parts]
    mean = sum(s * w for s, w in zip(seconds, weights, strict=True)) / sum(weights)
    store_bytes = _store_bytes(sample, pictures, job.dims)
    yield (
        "estimate",
        Estimate(
            pictures=pictures,
            measured=sum(weights),
            milliseconds=1000 * mean,
            least=1000 * min(seconds),
            most=1000 * max(seconds),
            start_seconds=loading + opening,
            dims=job.dims,
            engines=[network.engine.name for network in networks if network.engine],
            store_bytes=store_bytes,
            disk_bytes=2 * store_bytes,
            memory_bytes=_peak_memory(),
            notes=notes,
        ),
    )


class _Job:
    """Networks over some pictures, again and again."""

    def __init__(self, sample: ImageSet, networks: list[Network]) -> None:
        self.sample = sample
        self.networks = networks
        self._widths: dict[int, list[int]] = {}

    @property
    def dims(self) -> list[int]:
        """Length of each vector, of the networks in their order."""
        return [dim for network in range(len(self.networks)) for dim in self._widths.get(network, [])]

    def run(self, rows: Sequence[int]) -> float:
        """Return the seconds of a picture."""
        every = range(len(self.networks))
        with decoding():
            began = time.perf_counter()
            items = flow(
                self.sample,
                rows,
                self.networks,
                lacking=lambda _: every,
                start=lambda *_: None,
                workers=available_cores(),
            )
            for item in items:
                if not isinstance(item, Picture):
                    self._widths[item.network] = [vectors.shape[1] for vectors in item.vectors]
            taken = time.perf_counter() - began
        return taken / len(rows)


def _at_hand(wanted: Wanted, spare: str, notes: list[str]) -> Wanted:
    """Return a network with weights that are here; graphs of random ones are exported into a spare folder."""
    if has_weights(wanted.backbone, wanted.weights):
        return wanted
    os.environ["PENULT_CACHE"] = spare  # of this process, which ends with the measurement
    notes.append(
        f"the weights of {wanted.backbone} are not on this machine, and extract will fetch them: measured with random "
        "ones"
    )
    return dataclasses.replace(wanted, weights="random")


def _read(sample: ImageSet, networks: Sequence[Network]) -> list[Picture]:
    """Return the first pictures that can be decoded, as every network wants them."""
    recipes = tuple(dict.fromkeys(recipe for network in networks for recipe in network.recipes))
    found: list[Picture] = []
    with decoding():
        for row in range(len(sample)):
            picture = read_picture(sample, row, lambda _: recipes)
            if not picture.reason:
                found.append(picture)
            if len(found) == SAMPLE:
                return found
    if not found:
        raise ImageSetError(f"none of {len(sample)} pictures of {sample.root} could be read: see `penult info`")
    return found


def _start(
    backbones: Sequence[Any], networks: Sequence[Network], first: Sequence[Picture], setup: Setup, notes: list[str]
) -> float:
    """Set every network's engine, and return the seconds that it takes where its graph has been exported before."""
    from extract.engines import open_engine

    seconds = 0.0
    for backbone, network in zip(backbones, networks, strict=True):
        inputs: npt.NDArray[np.uint8] = np.stack([picture.inputs[network.recipes[0]] for picture in first])
        with decoding():
            open_engine(backbone, setup, inputs)
            began = time.perf_counter()
            network.engine = open_engine(backbone, setup, inputs)
            seconds += time.perf_counter() - began
        notes += [note for note in network.engine.notes if note not in notes]
    return seconds


def _store_bytes(sample: ImageSet, pictures: int, dims: Sequence[int]) -> int:
    """Return about how large a store gets: float32 vectors in whole blocks, their digests, and one image set."""
    path = max(len(os.fsencode(path)) for path in sample.paths)
    rows = -(-pictures // BLOCK_ROWS) * BLOCK_ROWS
    return rows * 4 * sum(dims) + pictures * (_DIGEST * len(dims) + _ROW + path)


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
