"""What every benchmark shares: timing in turn, medians, whole processes, and one JSON object on the last line.

A figure is printed only after the benchmark has checked its own results: `CheckFailed` ends it with a message,
exit code 1 and no JSON.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cores import available_cores
from data.errors import PenultError

ROOT = Path(__file__).resolve().parents[1]


class CheckFailed(Exception):
    """A result is not what it must be, or something that the benchmark needs is not there."""


def in_turn(
    contestants: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run the contestants one after the other, `repeats` times over, so that a slow moment hits all of them.

    Returns
    -------
    seconds : dict of str to list of float
        Wall time of each run.
    results : dict of str to object
        What the last run of each returned.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in contestants.items():
            results.pop(name, None)  # two large results of one contestant never exist at once
            gc.collect()
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each list."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def run_pipeline(*arguments: str | Path) -> tuple[float, dict[str, Any]]:
    """Run a verb of `pipeline.py` as a process of its own; return its wall time in seconds and its JSON.

    Raises
    ------
    CheckFailed
        If it exits with another code than 0.
    """
    command = [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments), "--json", "-"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise CheckFailed(f"`{' '.join(command[1:])}` exited with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return seconds, json.loads(done.stdout)


def real_data() -> Path:
    """Return the folder of real pictures and features.

    Raises
    ------
    CheckFailed
        If PENULT_REAL_DATA does not name one.
    """
    named = os.environ.get("PENULT_REAL_DATA", "")
    if not named or not Path(named).is_dir():
        raise CheckFailed(
            f"PENULT_REAL_DATA is {repr(named) if named else 'unset'}: set it to the folder of the real image sets"
        )
    return Path(named)


@contextlib.contextmanager
def work_folder(named: Path | None) -> Iterator[Path]:
    """Yield the folder that was named, made if need be, or a temporary one."""
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named
    else:
        with tempfile.TemporaryDirectory(prefix="penult-bench-") as temporary:
            yield Path(temporary)


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine; the load is that of the last minute, others' work included."""
    return {
        "cpu": _cpu(),
        "cores": available_cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def say(text: str) -> None:
    """Print a line for people: standard error, so that standard output ends with the JSON."""
    print(text, file=sys.stderr, flush=True)


def finish(measure: Callable[[argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace) -> int:
    """Measure, print the result as one JSON object on the last line of standard output, and return the exit code."""
    around = machine()
    try:
        result = measure(arguments)
    except (CheckFailed, PenultError) as error:
        say(f"{Path(sys.argv[0]).name}: error: {error}")
        return 1
    print(json.dumps({**result, "machine": around}, allow_nan=False), flush=True)
    return 0


def positive(text: str) -> int:
    """Return an argument that must be a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].partition(":")[2].strip() if lines else platform.processor() or platform.machine()
