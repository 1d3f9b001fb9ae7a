"""The only file that knows Ray: a connection, its machines, and the mapping of chunks over workers."""

import contextlib
import dataclasses
import io
import logging
import os
import socket
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from data.cores import available_cores
from data.errors import ClusterError, MissingDependency, first_line, how_to_install

# Cores of a worker on a CPU: more workers are more copies of the network in memory, more threads wait for each other.
_CORES = 8
# What a cluster of this machine alone keeps chunks and reports in; what does not fit goes to the disk.
_OBJECT_STORE = 256 << 20
# Seconds that a cluster may take to answer.
_KNOCK = 10.0
# Nothing is reported to Ray's makers.
_NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclasses.dataclass(frozen=True)
class Share:
    """What each worker gets of a cluster.

    Parameters
    ----------
    workers : int
        How many there are.
    cores : int
        Cores of each.
    gpu : bool
        Whether each has a GPU.
    notes : tuple of str
        What the user should know.
    """

    workers: int
    cores: int
    gpu: bool
    notes: tuple[str, ...] = ()


def share_out(machines: Sequence[Mapping[str, float]], wanted: int, *, on_gpu: bool, address: str) -> Share:
    """Share a cluster's machines out among workers.

    Parameters
    ----------
    machines : sequence of mappings
        What each machine offers: ``CPU`` and ``GPU``, by number.
    wanted : int
        How many workers; 0 takes one a GPU, or all cores.
    on_gpu : bool
        Whether GPUs are to be used where there are any.
    address : str
        Of the cluster, for messages.

    Raises
    ------
    ClusterError
        If the cluster has no cores.

    Examples
    --------
    >>> share_out([{"CPU": 16, "GPU": 4}], 0, on_gpu=True, address="auto")
    Share(workers=4, cores=4, gpu=True, notes=())
    """
    with_gpu = [m for m in machines if m.get("GPU", 0) >= 1] if on_gpu else []
    if with_gpu:
        there = sum(int(m["GPU"]) for m in with_gpu)
        cores = max(1, min(int(m.get("CPU", 0)) // int(m["GPU"]) for m in with_gpu))
        unit = "GPUs"
    else:
        cpus = [int(m["CPU"]) for m in machines if m.get("CPU", 0) >= 1]
        if not cpus:
            raise ClusterError(f"the Ray cluster {address} has no cores: add machines to it, then run the same command")
        cores = min(_CORES, min(cpus))
        if wanted:
            cores = max(1, min(max(cpus), sum(cpus) // wanted))
            while cores > 1 and sum(n // cores for n in cpus) < wanted:
                cores -= 1
        there = sum(n // cores for n in cpus)
        unit = "cores"
    workers = min(wanted, there) if wanted else there
    notes = (f"the cluster has {there} {unit}: {workers} workers instead of {wanted}",) if workers < wanted else ()
    return Share(workers, cores, bool(with_gpu), notes)


class Link:
    """A connection to a Ray cluster, ended when the context is left; one that was there already is used and kept.

    Parameters
    ----------
    address : str
        ``local`` starts a cluster of this machine, which ends with the connection; ``auto`` or an address connects.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> "Link":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_environment(_NO_REPORTS))
            stack.enter_context(_quiet_streams())
            try:
                import ray
                import ray.data
            except ImportError as error:
                raise MissingDependency(
                    f"--ray needs {error.name}, which is not installed: {how_to_install('ray')}"
                ) from None
            self._ray: Any = ray
            stack.enter_context(_quiet_logs())
            if not ray.is_initialized():
                stack.callback(ray.shutdown)
                self._connect(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def machines(self) -> list[dict[str, float]]:
        """Return what each machine that is up offers."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def map(self, worker: Any, job: Any, chunks: Sequence[str], share: Share) -> Iterator[str]:
        """Yield the report of each chunk as it comes, in any order.

        Parameters
        ----------
        worker : class
            Made with the job and a name; has ``run(chunk, earlier)``.
        job : object
            Sent to each machine once.
        chunks : sequence of str
            The work; each is done by one worker at a time, and again by another if that one dies.
        share : Share
            How many workers there are, and what each gets.

        Raises
        ------
        ClusterError
            If Ray fails.
        """
        ray = self._ray
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray warns of its own defaults
            context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        from extract.cluster import Ledger

        ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
        try:
            rows = [{"number": number, "chunk": chunk} for number, chunk in enumerate(chunks)]
            reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Actor,
                batch_size=1,
                fn_constructor_args=(worker, [ray.put(job)], ledger),
                compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(rows))),
                num_cpus=share.cores,
                num_gpus=1 if share.gpu else None,
            )
            for row in reports.iter_rows():
                yield str(row["report"])
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the Ray cluster {self.address} failed ({first_line(error)}): what was computed is kept; run the same "
                "command again"
            ) from error
        finally:
            ray.kill(ledger)

    def _connect(self, stack: contextlib.ExitStack) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self.address == "local":
            # workers import what this process runs, installed or not
            root = str(Path(__file__).resolve().parent.parent)
            path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
            stack.enter_context(_environment({"PYTHONPATH": path}, replace=True))
            folder = stack.enter_context(_folder())
            stack.callback(self._ray.shutdown)  # before its folder goes
            options |= {"num_cpus": available_cores(), "include_dashboard": False}
            options |= {"object_store_memory": _OBJECT_STORE, "_temp_dir": folder}
        try:
            _knock(self.address)
            self._ray.init(address=self.address, **options)
        except (ConnectionError, ValueError, RuntimeError, OSError, AssertionError) as error:
            raise ClusterError(
                f"no Ray cluster at {self.address} ({first_line(error)}): start one with `ray start --head`, check "
                "the address, or run with --ray alone for one of this machine"
            ) from None


class Actor:
    """A worker as Ray Data calls it: rows of chunks in, rows of reports out."""

    def __init__(self, worker: Any, job: list[Any], ledger: Any) -> None:
        import ray

        self._ray: Any = ray
        self._worker = worker(ray.get(job[0]), uuid.uuid4().hex)
        self._ledger = ledger

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[str]]:
        """Compute the chunk of a batch of one."""
        earlier = self._ray.get(self._ledger.begin.remote(int(rows["number"][0])))
        return {"report": [self._worker.run(str(rows["chunk"][0]), earlier)]}


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at an address, for which Ray itself waits five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()


class _WithoutRay(io.TextIOBase):
    """A stream without what Ray's own threads say, such as how a worker died, in a paragraph each."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write what others than Ray say."""
        if not threading.current_thread().name.startswith("ray_"):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self.stream.fileno())


@contextlib.contextmanager
def _quiet_streams() -> Iterator[None]:
    """Keep Ray's lines off the terminal, whose place the progress has: its C++ side writes to descriptor 2 itself."""
    before = sys.stderr
    before.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    ours = _WithoutRay(before)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor is no terminal
        if before.fileno() == 2:
            ours.stream = os.fdopen(os.dup(kept), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        with contextlib.redirect_stderr(ours):
            yield
    finally:
        ours.stream.flush()
        os.dup2(kept, 2)
        os.close(kept)
        if ours.stream is not before:
            ours.stream.close()
            ours.stream = before  # Ray's log handlers may hold it for good


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Let Ray log to its files alone."""
    handlers = [h for name in ("ray", "ray.data") for h in logging.getLogger(name).handlers]
    levels = [handler.level for handler in handlers]
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    for handler in handlers:
        if "File" not in type(handler).__name__:
            handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler, then in zip(handlers, levels, strict=True):
            handler.setLevel(then)


@contextlib.contextmanager
def _environment(values: Mapping[str, str], *, replace: bool = False) -> Iterator[None]:
    """Set variables, for processes that are started meanwhile; those that the user set stay unless replaced."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if replace or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Make a folder for a local cluster's sockets and logs; its path must be short, as those of sockets are."""
    with tempfile.TemporaryDirectory(prefix="penult-ray-", ignore_cleanup_errors=True) as folder:
        yield folder
