"""What is known of how features were computed: one record for each run, as every block of the run has it."""

import functools
import importlib.metadata
from collections.abc import Iterable
from typing import Any

Run = dict[str, Any]


@functools.cache  # it takes milliseconds, and what is installed does not change meanwhile
def version_of(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def merged_runs(runs: Iterable[Run]) -> list[Run]:
    """Return each run once: of what its blocks say the last, which has counted the most pictures."""
    latest: dict[str, Run] = {}
    for run in runs:
        known = latest.get(run["run"])
        if known is None or run.get("pictures", 0) >= known.get("pictures", 0):
            latest[run["run"]] = run
    return list(latest.values())


def extraction_milliseconds(runs: Iterable[Run]) -> float | None:
    """Return what a picture took, in milliseconds, over the runs that were timed; None if none was.

    Examples
    --------
    >>> extraction_milliseconds([{"seconds": 2.0, "pictures": 100}, {"seconds": 1.0, "pictures": 200}, {"run": "old"}])
    10.0
    """
    timed = [(run["seconds"], run["pictures"]) for run in runs if "seconds" in run and run.get("pictures")]
    pictures = sum(number for _, number in timed)
    return 1000 * sum(seconds for seconds, _ in timed) / pictures if pictures else None
