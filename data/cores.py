"""How many cores this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the cores that this process may use, which `taskset` or the quota of a container may have made fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the cores that control groups grant, of the process's own group and of those around it.

    Linux alone has them: cgroup-v2.rst of its documentation describes ``cpu.max``, scheduler/sched-bwc.rst what was
    before.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = _CONTROL_GROUPS / controllers
        inside = top / group.lstrip("/")
        # a container sees its own group as the top
        for folder in (inside, *(parent for parent in inside.parents if parent.is_relative_to(top))):
            quota = _quota(folder) if controllers else _quota_of_two(folder)
            if quota:
                yield quota


def _quota_of_two(folder: Path) -> float:
    """Return what a group of version 2 grants, in cores; 0 where it sets no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return 0.0


def _quota(folder: Path) -> float:
    """Return what a group of version 1 grants, in cores; 0 where it sets no limit."""
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return max(quota, 0) / period
    except (OSError, ValueError):
        return 0.0
