"""Fitting from a store that is larger than memory may be, and what fitting costs in the number of rows.

The rows are drawn: classes with overlapping normal clouds in 32 directions and noise in all 1,280, float16, so that
the held-out accuracy lies below 1. A process of its own makes the store, so that its memory is not counted.

million
    `pipeline.py fit --head lr --tune val --grid 1e-6 1e-4 3 --memory 2GB` as a process, on --rows training rows and
    20,000 for val: its peak of resident memory (which does not count the disk's cache), its seconds, its accuracy.
equal
    On 50,000 of the rows: the objective that `--memory 50MB` reaches against that in memory.
slope
    `classify.paths.logistic_path` in memory on 1,000 to --rows rows of 10 classes, all of it (moments, decomposition,
    solving), with C = 10 / n so that the problem stays the same; the slope of log seconds on log rows.

    python benchmarks/bench_memory.py
    python benchmarks/bench_memory.py --rows 100000 --parts million equal
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_fit import lr_objective
from benchmarks.bench_store import RUN, SPEC, publish_view, rows_of
from benchmarks.timing import ROOT, CheckFailed, finish, positive, say, work_folder
from classify.artifact import load_head
from classify.paths import Task, logistic_path
from classify.rows import Moments, Rows
from data.layout import block_image
from data.staging import new_run_id, stage_block
from data.store import FeatureStore
from data.views import View

PARTS = ("million", "equal", "slope")
DIM, CLASSES, VAL = 1280, 100, 20_000
DIRECTIONS = 32
BLOCK = 20_000
EQUAL_ROWS = 50_000
GAP = 1e-4
LIMIT_GB = 2.0
# Three values of C, a tenfold apart, around the best one for a million rows.
GRID = ("--grid", "1e-6", "1e-4", "3")

_PEAK = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"peak_kb": peak, "seconds": time.perf_counter() - start, "result": done.stdout}))
sys.exit(done.returncode)
"""

Half = npt.NDArray[np.float16]


def drawn(start: int, n: int, classes: int = CLASSES) -> tuple[Half, npt.NDArray[np.int32]]:
    """Return rows `start` to `start + n` of the drawn set, (n, DIM), and their classes."""
    world = np.random.default_rng(0)
    centres = world.normal(size=(classes, DIRECTIONS)).astype(np.float32) * 0.45
    directions = (world.normal(size=(DIRECTIONS, DIM)) / np.sqrt(DIRECTIONS)).astype(np.float32)
    rng = np.random.default_rng([1, start])
    y = rng.integers(0, classes, n)
    inner = centres[y] + rng.standard_normal((n, DIRECTIONS), dtype=np.float32) * 0.5
    X = inner @ directions
    X += rng.standard_normal((n, DIM), dtype=np.float32) * 0.5
    return X.astype(np.float16), y.astype(np.int32)


def write_store(path: Path, n: int) -> None:
    """Write a store of n training rows and VAL for val, block by block."""
    total = n + VAL
    y = np.concatenate([drawn_labels(a, min(BLOCK, total - a)) for a in range(0, total, BLOCK)])
    view = View(
        name="drawn",
        root="/nowhere",
        classes=[f"class{i:03d}" for i in range(CLASSES)],
        paths=[f"{i:07d}.jpg" for i in range(total)],
        digests=np.char.zfill(np.arange(total).astype("S64"), 64),
        targets=y,
        splits=np.where(np.arange(total) < n, "train", "val"),
        sizes=np.full(total, 1, dtype=np.int64),
        mtimes=np.full(total, 1, dtype=np.int64),
    )
    run = new_run_id()
    for number, a in enumerate(range(0, total, BLOCK)):
        X, _ = drawn(a, min(BLOCK, total - a))
        part = rows_of(view, a, a + len(X))
        features = {
            "spec": SPEC,
            "provenance": [{"run": run, **RUN}],
            "requests": [],
            "rows": len(X),
            "dim": DIM,
            "dtype": X.dtype,
            "slabs": [(part.digests, X)],
        }
        stage_block(path, run, number, block_image(features, part))
    publish_view(path, view)


def drawn_labels(start: int, n: int) -> npt.NDArray[np.int32]:
    """Return the classes of rows `start` to `start + n`."""
    return np.random.default_rng([1, start]).integers(0, CLASSES, n).astype(np.int32)


def fit_process(store: Path, head: Path, memory: str | None, *more: str) -> tuple[dict[str, Any], float, float]:
    """Run `fit` as a process; return its JSON, its seconds, and its peak of memory in GB.

    Raises
    ------
    CheckFailed
        If it fails.
    """
    command = [sys.executable, str(ROOT / "pipeline.py"), "fit", str(store), "--head", "lr", "-o", str(head)]
    command += ["--memory", memory] if memory else []
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *command, *more, "--json", "-"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise CheckFailed(f"`{' '.join(command[1:])}` exited with {done.returncode}")
    found = json.loads(done.stdout)
    return json.loads(found["result"]), found["seconds"], found["peak_kb"] / 1e6


def measure_million(folder: Path, n: int) -> dict[str, Any]:
    """Fit from a store of n rows within 2 GB.

    Raises
    ------
    CheckFailed
        If more memory was taken, or nothing was learnt.
    """
    store = made(folder, n)
    result, seconds, peak = fit_process(store, folder / "lr.head", "2GB", "--tune", "val", *GRID)
    accuracy = max(candidate["accuracy"] for candidate in result["candidates"])
    if result["n_train"] != n or accuracy < 0.5:
        raise CheckFailed(f"trained on {result['n_train']} of {n} rows, accuracy on val {accuracy:.3f}")
    if peak > LIMIT_GB:
        raise CheckFailed(f"{peak:.2f} GB were taken where {LIMIT_GB} GB are allowed")
    size = store.stat().st_size / 1e9
    say(
        f"{n:,} rows x {DIM}, {CLASSES} classes ({size:.2f} GB of float16): {len(result['candidates'])} values of C on "
        f"val and the last fit in {seconds:.0f} s, peak {peak:.2f} GB, gap {result['objective_gap']:.1e}, accuracy on "
        f"val {accuracy:.4f}"
    )
    return {
        "million_s": seconds,
        "million_peak_gb": peak,
        "million_rows": n,
        "million_store_gb": size,
        "million_val_accuracy": accuracy,
        "million_gap": result["objective_gap"],
    }


def measure_equal(folder: Path) -> dict[str, Any]:
    """Compare the objectives of a fit in memory and one in chunks.

    Raises
    ------
    CheckFailed
        If they differ by more than 1e-4.
    """
    store = made(folder, EQUAL_ROWS)
    C = 10 / EQUAL_ROWS
    objectives = []
    for memory in (None, "50MB"):
        result, _, peak = fit_process(store, folder / "equal.head", memory, "--tune", "val", "--param", f"C={C}")
        head = load_head(folder / "equal.head")
        samples = FeatureStore(store).load("train")
        Z = head.scaler.transform(samples.X)
        objectives.append(lr_objective(Z, samples.y, head.head.coef_, head.head.intercept_, C))
        say(f"memory {memory}: objective {objectives[-1]:.6f}, gap {result['objective_gap']:.1e}, peak {peak:.2f} GB")
    difference = abs(objectives[1] / objectives[0] - 1)
    if difference > GAP:
        raise CheckFailed(f"the objectives differ by {difference:.1e}, allowed {GAP:g}")
    return {"chunked_objective_gap": difference}


def measure_slope(rows: int) -> dict[str, Any]:
    """Measure seconds against rows, in memory."""
    sizes = [n for n in (1000, 10_000, 100_000, 1_000_000) if n <= rows]
    X = np.empty((sizes[-1], DIM), dtype=np.float16)
    y = np.empty(sizes[-1], dtype=np.int32)
    for a in range(0, sizes[-1], BLOCK):
        X[a : a + BLOCK], y[a : a + BLOCK] = (part[: sizes[-1] - a] for part in drawn(a, BLOCK, 10))
    seconds = {}
    for n in sizes:
        times = []
        for _ in range(3 if n <= 10_000 else 1):
            start = time.perf_counter()
            rows_of_n = Rows([X[:n]])
            (fit,) = logistic_path(Task(rows_of_n, y[:n], 10, None, Moments.of(rows_of_n)), [10 / n])
            times.append(time.perf_counter() - start)
        if fit.gap > 1e-4:
            raise CheckFailed(f"{n} rows: the gap is {fit.gap:.1e}")
        seconds[n] = float(np.median(times))
        say(f"{n:,} rows: {seconds[n]:.2f} s, {fit.steps} steps, gap {fit.gap:.1e}")
    logs = np.log(np.array([[n, s] for n, s in seconds.items()]))
    slope = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    last = float((logs[-1, 1] - logs[-2, 1]) / (logs[-1, 0] - logs[-2, 0]))
    say(f"slope in log-log {slope:.3f}, of the last tenfold {last:.3f}")
    return {"slope": slope, "slope_last": last, "slope_s": {str(n): s for n, s in seconds.items()}}


def made(folder: Path, n: int) -> Path:
    """Return the store of n rows, made by a process of its own if need be."""
    store = folder / f"drawn-{n}.h5"
    if not store.exists():
        subprocess.run([sys.executable, __file__, "--make", str(store), "--rows", str(n)], check=True)
    return store


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    if arguments.make:
        write_store(arguments.make, arguments.rows)
        return {"made": str(arguments.make)}
    figures: dict[str, Any] = {}
    with work_folder(arguments.folder) as folder:
        if "million" in arguments.parts:
            figures |= measure_million(folder, arguments.rows)
        if "equal" in arguments.parts:
            figures |= measure_equal(folder)
    if "slope" in arguments.parts:
        figures |= measure_slope(arguments.rows)
    return figures


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Fitting from a store larger than memory, and its cost in rows")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where stores are made and kept (default: a temporary one)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(finish(measure, build_parser().parse_args()))
