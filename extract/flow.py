"""The way from files to vectors: reading and decoding in threads ahead of the networks, in order and bounded."""

import collections
import contextlib
import dataclasses
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from data.cores import available_cores
from data.images import Pictures
from extract.decode import pillow_settings
from extract.networks import Floats, Network
from extract.preprocess import Recipe
from extract.reader import Picture, read_picture

# Pictures that a network's engine is tried on before it runs the rest.
SAMPLE = 4
# Pictures that may at least wait, read, for the networks: work for the readers while an engine starts.
_AHEAD = 64
# Pictures in a batch on a CPU, where larger ones fall out of the caches.
BATCH_ON_CPU = 4
# More lanes than this gain nothing on pictures of usual size, and each holds a batch's activations.
_MOST_LANES = 16


@dataclasses.dataclass
class Batch:
    """Vectors of some pictures from one network.

    Parameters
    ----------
    network : int
        Which of the networks.
    pictures : list of Picture
        In the order of reading.
    vectors : list of ndarray of shape (B, dim), float32
        One for each feature of the network.
    seconds : float
        Time that the network took.
    """

    network: int
    pictures: list[Picture]
    vectors: list[Floats]
    seconds: float


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Set what is global in Pillow and the BLAS for a `flow`, and keep that and PyTorch's settings as they were."""
    with pillow_settings(), _torch_settings_kept(), _one_blas_thread():
        yield


def flow(
    pictures: Pictures,
    indices: Iterable[int],
    networks: Sequence[Network],
    *,
    lacking: Callable[[bytes], Sequence[int]],
    start: Callable[[int, list[Picture]], None],
    workers: int,
) -> Iterator[Picture | Batch]:
    """Read pictures and run networks over them; to be called within `decoding`.

    Decoding and the networks have threads of their own. Each task of either computes on one core (or on a device), so
    they share the cores without waiting for each other; queues are bounded, so the faster side waits for the slower.
    What is in a batch depends on the order of the pictures alone.

    Parameters
    ----------
    pictures : Pictures
        Where the files are.
    indices : iterable of int
        Which of them, in which order.
    networks : sequence of Network
        What to compute.
    lacking : callable
        From a digest to the numbers of the networks that must see this content. It is asked in a reader's thread,
        and again in order by the caller's, whose answer counts.
    start : callable
        Called with the number of a network and its first pictures (up to `SAMPLE`), before its first batch: sets its
        engine.
    workers : int
        Threads that read and decode.

    Yields
    ------
    Picture
        Every picture once, in the order given, before it is in a batch. `lacking` must know, when it is asked about
        the next picture, what this one will bring.
    Batch
        In the order of the pictures, for each network.
    """

    def wanted(digest: bytes) -> list[Recipe]:
        return list(dict.fromkeys(r for i in lacking(digest) for r in networks[i].recipes))

    reading: collections.deque[Future[Picture]] = collections.deque()
    readers = ThreadPoolExecutor(workers, thread_name_prefix="penult-reader")
    forward = _Forward(networks, start)
    try:
        for index in indices:
            reading.append(readers.submit(read_picture, pictures, index, wanted))
            if len(reading) > forward.ahead + workers:
                yield from _settle(reading.popleft().result(), lacking, forward)
        while reading:
            yield from _settle(reading.popleft().result(), lacking, forward)
        yield from forward.finish()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
        forward.close()


def _settle(
    picture: Picture, lacking: Callable[[bytes], Sequence[int]], forward: "_Forward"
) -> Iterator[Picture | Batch]:
    """Hand one picture to the caller and to the networks that lack it."""
    networks = lacking(picture.digest) if picture.inputs else ()
    yield picture
    for i in networks:
        forward.add(i, picture)
    yield from forward.done()


class _Forward:
    """Batches in the making and in flight."""

    def __init__(self, networks: Sequence[Network], start: Callable[[int, list[Picture]], None]) -> None:
        self._networks = networks
        self._start = start
        self._pending: list[list[Picture]] = [[] for _ in networks]
        self._flights: collections.deque[Future[Batch]] = collections.deque()
        self._pools: list[ThreadPoolExecutor] = []  # the last one is in use
        self._lanes = 0
        self._turns: dict[int, threading.Semaphore] = {}  # no network runs in more lanes than its own

    @property
    def ahead(self) -> int:
        """How many pictures may wait, read, for the networks: enough for the next batch of each lane."""
        sizes = [n.engine.batch_size * n.engine.lanes for n in self._networks if n.engine]
        return max([_AHEAD, *sizes])

    def add(self, network: int, picture: Picture) -> None:
        """Take a picture; a full batch is sent on its way."""
        pending = self._pending[network]
        pending.append(picture)
        engine = self._networks[network].engine
        if engine is None and len(pending) == SAMPLE:
            self._open(network)
            engine = self._networks[network].engine
        if engine is not None:
            self._send(network, engine.batch_size)

    def done(self) -> Iterator[Batch]:
        """Yield the batches that are ready, in order; wait where too many are in flight."""
        while self._flights and (self._flights[0].done() or len(self._flights) > self._lanes):
            yield self._flights.popleft().result()

    def finish(self) -> Iterator[Batch]:
        """Send what is left and yield all that comes."""
        for network, pending in enumerate(self._pending):
            if pending and self._networks[network].engine is None:
                self._open(network)
            self._send(network, 1)
        while self._flights:
            yield self._flights.popleft().result()

    def close(self) -> None:
        """End the threads; batches in flight are finished and thrown away."""
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, network: int) -> None:
        self._start(network, self._pending[network][:SAMPLE])
        assert self._networks[network].engine is not None, "`start` sets the engine"

    def _send(self, network: int, least: int) -> None:
        """Send batches as long as at least `least` pictures are there."""
        engine, pending = self._networks[network].engine, self._pending[network]
        while len(pending) >= least and pending:
            assert engine is not None
            if network not in self._turns:  # an engine may be there from an earlier flow
                self._turns[network] = threading.Semaphore(engine.lanes)
                if engine.lanes > self._lanes:
                    self._lanes = engine.lanes
                    self._pools.append(ThreadPoolExecutor(self._lanes, thread_name_prefix="penult-network"))
            batch = pending[: engine.batch_size]
            del pending[: engine.batch_size]
            self._flights.append(self._pools[-1].submit(self._compute, network, batch))

    def _compute(self, network: int, pictures: list[Picture]) -> Batch:
        runner = self._networks[network]
        assert runner.engine is not None
        clock = runner.engine.clock
        with self._turns[network]:
            began = clock()
            vectors = runner.compute([p.inputs for p in pictures])
            return Batch(network, pictures, vectors, clock() - began)


def _one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    """Let the BLAS compute in the thread that asks it; where threadpoolctl is not installed it is only slower."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = importlib.import_module("threadpoolctl").threadpool_limits(
        1, user_api="blas"
    )
    return limits


@contextlib.contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Put back what threads of a flow set for all: PyTorch's thread count, which new threads inherit, and TF32."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else available_cores()
    tf32 = _tf32(torch) if torch else None
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch:
            torch.set_num_threads(threads)
            for switch, name, value in tf32 or ((torch.backends.cudnn, "allow_tf32", True),):
                setattr(switch, name, value)


def _tf32(torch: Any) -> list[tuple[Any, str, Any]]:
    """Return the switches of TF32 and how they stand: by the newer names where the older cannot be read beside them."""
    found = []
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    for old, new in ((cudnn, ("conv", "rnn")), (matmul, ())):
        try:
            found.append((old, "allow_tf32", old.allow_tf32))
        except RuntimeError:
            newer = [getattr(old, name) for name in new] or [old]
            found += [(switch, "fp32_precision", switch.fp32_precision) for switch in newer]
    return found


def share_cores(cores: int = 0) -> tuple[int, int]:
    """Return how many batches to run at once on so many cores (0: all), and with how many threads each.

    One thread a batch is best as long as the activations of so many batches do not fight over the caches: the
    layers of one batch need no barrier between threads, and decoding finds its place between them.
    """
    cores = cores or available_cores()
    lanes = min(cores, _MOST_LANES)
    return lanes, max(1, cores // lanes)
