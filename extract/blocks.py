"""Writing what was computed: rows become staged blocks, in a thread of its own."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.depot import put_block
from data.errors import SpecError
from data.layout import DTYPES, block_image
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.views import View

# A block is staged when it has this many rows or bytes, or is this old: a crash costs no more than that.
_ROWS = 512
_BYTES = 64 << 20
_SECONDS = 20.0


class BlockWriter:
    """Collects feature rows and stages them as immutable blocks beside the store, at most one in flight.

    Parameters
    ----------
    store : Path
        The store that the blocks are for.
    spec : FeatureSpec
        What the rows are.
    dtype : str
        ``float32`` or ``float16``.
    address : str
        Where the blocks wait instead of beside the store; see `data.depot`.

    Attributes
    ----------
    latest : str
        Name of the last block that was written.
    run : dict
        Provenance of the rows, to be set before the first block; `run_id` is its key ``run``.
    requests : list of dict
        Commands that are known to give this spec.
    """

    def __init__(self, store: Path, spec: FeatureSpec, dtype: str, address: str = "") -> None:
        self.store = store
        self.spec = spec
        self.address = address
        self.latest = ""
        self.dtype = DTYPES[dtype]
        self.run_id = new_run_id()
        self.run: dict[str, Any] = {"run": self.run_id}
        self.requests: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._digests: list[bytes] = []
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._bytes = 0
        self._began = time.monotonic()
        self._blocks = self._staged = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="penult-writer")
        self._flight: Future[float] | None = None

    def add(self, digests: Sequence[bytes], vectors: npt.NDArray[np.float32]) -> None:
        """Take a batch of rows, (B, dim), finite.

        Raises
        ------
        SpecError
            If a value does not fit the dtype.
        """
        if self.dtype.itemsize == 2 and (np.abs(vectors) > np.finfo(np.float16).max).any():
            raise SpecError("a feature is too large for float16: extract with --dtype float32")
        self._digests.extend(digests)
        self._vectors.append(vectors)
        self._bytes += vectors.nbytes

    @property
    def due(self) -> bool:
        """Whether the rows so far should be staged."""
        full = len(self._digests) >= _ROWS or self._bytes >= _BYTES or time.monotonic() - self._began > _SECONDS
        return bool(self._digests) and full

    def stage(self, view: View, seconds: float | None = None) -> None:
        """Start writing the rows so far; waits for the block before them.

        Parameters
        ----------
        view : View
            The files behind them, so that a resumed run need not read these again.
        seconds : float, optional
            What the run has taken so far: the provenance says so, beside the number of its rows so far.

        Raises
        ------
        DiskFull, StagingError
            If the block before did not fit, or could not be written to its address.
        """
        self.wait()
        if self._digests:
            vectors = np.concatenate(self._vectors)
            self._staged += len(vectors)
            timed = {} if seconds is None else {"seconds": round(seconds, 3), "pictures": self._staged}
            rows = {
                "spec": self.spec,
                "provenance": [{**self.run, **timed}],
                "requests": self.requests,
                "rows": len(vectors),
                "dim": vectors.shape[1],
                "dtype": self.dtype,
                "slabs": [(np.array(self._digests, dtype="S64"), vectors)],
            }
            self._digests, self._vectors, self._bytes = [], [], 0
            self._blocks += 1
            self._flight = self._thread.submit(self._write, rows, view, self._blocks)
        self._began = time.monotonic()

    def wait(self) -> None:
        """Wait until the block in flight is on the disk.

        Raises
        ------
        DiskFull
            If it did not fit.
        """
        flight, self._flight = self._flight, None
        if flight is not None:
            self.seconds += flight.result()

    @property
    def rows(self) -> int:
        """How many rows wait for the next block."""
        return len(self._digests)

    def close(self) -> None:
        """End the thread; a block in flight is finished."""
        self._thread.shutdown()

    def _write(self, rows: dict[str, Any], view: View, number: int) -> float:
        start = time.perf_counter()
        image = block_image(rows, view)
        if self.address:
            self.latest = put_block(self.address, self.run_id, number, image)
        else:
            self.latest = stage_block(self.store, self.run_id, number, image).name
        return time.perf_counter() - start
