"""How long a device was busy, whatever overlapped on it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class DeviceClock:
    """Goes on while a device is busy, the slower the more lanes keep it so.

    What lanes read before and after their batches differs by what each had of the device, and adds up to the seconds in
    which it did anything.

    Parameters
    ----------
    seconds : callable
        The time, in seconds.

    Examples
    --------
    >>> clock = DeviceClock(iter([0, 0, 4, 10, 12, 12]).__next__)
    >>> began = clock()
    >>> with clock.busy():  # from 0 to 12
    ...     with clock.busy():  # another lane, from 4 to 10
    ...         pass
    >>> clock() - began  # 4 alone, 6 shared by two, 2 alone
    9.0
    """

    def __init__(self, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._lanes = 0
        self._then = self._reading = 0.0

    def __call__(self) -> float:
        """Return the reading, in seconds."""
        with self._lock:
            return self._go_on()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Count a lane as busy."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._go_on()
            self._lanes += more

    def _go_on(self) -> float:
        now = self._seconds()
        if self._lanes:
            self._reading += (now - self._then) / self._lanes
        self._then = now
        return self._reading
