"""What is known of how features came about: a record for each run that computed them, and the commands that gave them.

A command is marked as kept where nobody asked for the features themselves: training kept them, to go on from there.
"""

import functools
import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any

Run = dict[str, Any]
Request = dict[str, Any]

KEPT = "kept"  # the mark


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


def unmarked(request: Request) -> Request:
    """Return a command as it is where somebody asks for its features."""
    return {name: value for name, value in request.items() if name != KEPT}


def remembers(requests: Sequence[Request], request: Request) -> bool:
    """Whether a command is among others, or, if it is marked, would only say of one of them that it is kept."""
    return request in requests or unmarked(request) in requests


def merged_requests(requests: Iterable[Request]) -> list[Request]:
    """Return each command once, those that were asked for first; what was asked for is no longer kept.

    Examples
    --------
    >>> merged_requests([{"backbone": "a", "kept": True}, {"backbone": "b", "kept": True}, {"backbone": "a"}])
    [{'backbone': 'a'}, {'backbone': 'b', 'kept': True}]
    """
    merged: list[Request] = []
    for request in sorted(requests, key=lambda request: KEPT in request):
        if not remembers(merged, request):
            merged.append(request)
    return merged


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
