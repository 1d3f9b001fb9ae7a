"""The store: reading a split, appending, looking at an unchanged folder again, and the memory of an extraction.

read
    `FeatureStore.load` of the train split (X, y, paths, every checksum checked) against `np.load` of the same X and y
    from two .npy files, in turn, both warm. The split lies in one run of rows, as train/ and test/ folders do;
    `read_ratio_scattered` is the same with every picture's split drawn at random. Ratio = np.load / Penult.
append
    New rows to a store that exists: blocks staged by `extract.blocks.BlockWriter` as an extraction does, in batches
    of 32, then published; all flushed to disk. `append_mb_s` = MB of new vectors / seconds of both, for a store of one
    file, which publishing writes anew; `append_folder_mb_s` for a folder store, which gets one more file;
    `stage_mb_s` is the staging alone.
rescan
    25,000 drawn PNG files, an hour old, are extracted with a tiny random network; then the same `pipeline.py extract`
    again, as a whole process. Its JSON must say that nothing was extracted, read or decoded and no engine opened.
memory
    Peak resident memory of `pipeline.py extract` on 1,000 and on 20,000 drawn photographs with the default backbone.

Everything is drawn from fixed seeds in a temporary folder, or in --work, where the drawn pictures are used again.

    python benchmarks/bench_store.py
    python benchmarks/bench_store.py --rows 5000 --dim 256 --files 500 --pictures 20 60
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import ROOT, CheckFailed, finish, in_turn, medians, positive, run_pipeline, say, work_folder
from data.publish import publish
from data.spec import FeatureSpec
from data.store import FeatureStore
from data.views import View
from extract.blocks import BlockWriter

PARTS = ("read", "append", "rescan", "memory")
SPEC = FeatureSpec("benchmark/drawn", "sha256:" + "0" * 64)
REQUEST: dict[str, Any] = {"backbone": "benchmark/drawn", "weights": {"random": 0}, "options": {}, "versions": {}}
RUN: dict[str, Any] = {"engine": "none", "device": "none", "batch_size": 32, "request": REQUEST}
BATCH = 32  # rows that an engine gives at once on a CPU
CLASSES = 10
TRAIN = 0.8
HOUR_NS = 3_600_000_000_000
RESCAN_NETWORK = ("--backbone", "timm/test_resnet", "--weights", "random", "--input-size", "32")

# Peak memory in kB of a command, on the last line. In a small process of its own, since a child starts with the peak
# of the one that made it.
_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""

Floats = npt.NDArray[np.float32]


def drawn_rows(n: int, dim: int, seed: int) -> Floats:
    """Return normally distributed vectors, (n, dim)."""
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def drawn_view(n: int, scattered: bool = False) -> View:
    """Return an image set of `n` pictures that are nowhere: the test split first, as folders are listed."""
    n_test = n - round(TRAIN * n)
    splits = np.where(np.arange(n) < n_test, "test", "train")
    if scattered:
        splits = np.random.default_rng(0).permutation(splits)
    targets = np.arange(n) % CLASSES
    return View(
        name="drawn",
        root="/nowhere",
        classes=[f"class{i}" for i in range(CLASSES)],
        paths=[f"class{t}/picture{i:07d}.jpg" for i, t in enumerate(targets.tolist())],
        digests=np.array([hashlib.sha256(b"%d" % i).hexdigest() for i in range(n)], dtype="S64"),
        targets=targets.astype(np.int32),
        splits=splits,
        sizes=np.full(n, 100_000, dtype=np.int64),
        mtimes=np.full(n, HOUR_NS, dtype=np.int64),
    )


def rows_of(view: View, start: int, stop: int) -> View:
    """Return the pictures `start` to `stop` of a view."""
    columns = ("paths", "digests", "targets", "splits", "sizes", "mtimes")
    return dataclasses.replace(view, **{name: getattr(view, name)[start:stop] for name in columns})


def stage(store: Path, X: Floats, view: View, first: int = 0) -> float:
    """Stage X, (n, dim), the features of the pictures of `view` from `first` on; return the seconds."""
    began = time.perf_counter()
    writer = BlockWriter(store, SPEC, "float32")
    writer.run = {"run": writer.run_id, **RUN}
    digests = view.digests[first:].tolist()
    staged = 0
    try:
        for at in range(0, len(X), BATCH):
            writer.add(digests[at : at + BATCH], X[at : at + BATCH])
            if writer.due:
                end = min(at + BATCH, len(X))
                writer.stage(rows_of(view, first + staged, first + end))
                staged = end
        writer.stage(rows_of(view, first + staged, first + len(X)))
        writer.wait()
    finally:
        writer.close()
    return time.perf_counter() - began


def publish_view(store: Path, view: View) -> None:
    """Publish what is staged, with `view` as the image set."""
    publish(store, view, commands={SPEC.fingerprint: REQUEST})


def require_rows(store: Path, X: Floats, y: npt.NDArray[np.int32], split: str | None = None) -> None:
    """Raise unless the store gives back exactly these rows in this order."""
    samples = FeatureStore(store).load(split)
    if not (np.array_equal(samples.X, X) and np.array_equal(samples.y, y)):
        raise CheckFailed(f"{store} does not give back the rows that were written")


def measure_read(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure loading the train split in both layouts."""
    X = drawn_rows(arguments.rows, arguments.dim, 0)
    store = folder / "read.h5"
    figures: dict[str, Any] = {}
    for layout in ("", "_scattered"):
        view = drawn_view(len(X), scattered=bool(layout))
        if not layout:
            stage(store, X, view)
        publish_view(store, view)
        train = np.flatnonzero(view.splits == "train")
        np.save(folder / "X.npy", X[train])
        np.save(folder / "y.npy", view.targets[train])
        require_rows(store, X[train], view.targets[train], "train")  # and both are warm from here on
        seconds, results = in_turn(
            {
                "np_load": lambda: (np.load(folder / "X.npy"), np.load(folder / "y.npy")),
                "penult": lambda: FeatureStore(store).load("train"),
            },
            1 + arguments.repeats,
        )
        samples, (plain_X, plain_y) = results["penult"], results["np_load"]
        if not (np.array_equal(samples.X, plain_X) and np.array_equal(samples.y, plain_y)):
            raise CheckFailed("np.load and FeatureStore.load give different arrays")
        seconds = {name: values[1:] for name, values in seconds.items()}  # the first run warms up
        typical = medians(seconds)
        figures[f"read_ratio{layout}"] = typical["np_load"] / typical["penult"]
        figures[f"read_mb_s{layout}"] = plain_X.nbytes / 1e6 / typical["penult"]
        figures[f"np_load_mb_s{layout}"] = plain_X.nbytes / 1e6 / typical["np_load"]
        figures[f"read_seconds{layout}"] = seconds
    say(f"read: {figures['read_ratio']:.2f} of np.load's speed, {figures['read_ratio_scattered']:.2f} scattered")
    for name in ("read.h5", "X.npy", "y.npy"):
        (folder / name).unlink()
    return figures


def measure_append(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure adding a quarter more rows to a store of `rows` rows."""
    n_old = arguments.rows
    X = drawn_rows(n_old + n_old // 4, arguments.dim, 1)
    view = drawn_view(len(X))
    base = folder / "base.h5"
    stage(base, X[:n_old], view)
    publish_view(base, rows_of(view, 0, n_old))
    seconds: dict[str, list[float]] = {"stage": [], "file": [], "folder": []}
    for number in range(arguments.repeats):
        for kind in ("file", "folder"):
            store = folder / f"append-{kind}"
            part = store / "part-000001.h5" if kind == "folder" else store
            part.parent.mkdir(exist_ok=True)
            shutil.copyfile(base, part)
            os.sync()  # so that the copy is not flushed on our time
            start = time.perf_counter()
            seconds["stage"].append(stage(store, X[n_old:], view, n_old))
            publish_view(store, view)
            seconds[kind].append(time.perf_counter() - start)
            if number == arguments.repeats - 1:
                require_rows(store, X, view.targets)
            shutil.rmtree(store) if kind == "folder" else store.unlink()
    base.unlink()
    typical, new_mb = medians(seconds), X[n_old:].nbytes / 1e6
    figures = {
        "append_mb_s": new_mb / typical["file"],
        "append_folder_mb_s": new_mb / typical["folder"],
        "stage_mb_s": new_mb / typical["stage"],
        "append_mb": new_mb,
        "append_to_mb": X[:n_old].nbytes / 1e6,
    }
    say(
        f"append: {figures['append_mb_s']:.0f} MB/s to a file, {figures['append_folder_mb_s']:.0f} to a folder, "
        f"{figures['stage_mb_s']:.0f} staging alone ({new_mb:.0f} MB to {figures['append_to_mb']:.0f})"
    )
    return figures


def measure_rescan(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the second extraction of an unchanged folder, as a whole process."""
    n = arguments.files
    pictures = folder / f"png-{n}"
    draw_pngs(pictures, n)
    store = folder / "rescan.h5"
    store.unlink(missing_ok=True)
    command = ("extract", pictures, "-o", store, *RESCAN_NETWORK)
    first_s, first = run_pipeline(*command)
    if (first["images"], first["extracted"], first["skipped"]) != (n, n, []):
        raise CheckFailed(f"the first extraction of {n} pictures says {_brief(first)}")
    seconds = []
    for _ in range(arguments.repeats):
        wall, again = run_pipeline(*command)
        stages = again["stage_seconds"]
        untouched = again["engine"] == "none" and not (stages["read"] or stages["decode"] or stages["forward"])
        if (again["extracted"], again["reused"], again["skipped"]) != (0, n, []) or not untouched:
            raise CheckFailed(f"the extraction of the unchanged folder says {_brief(again)}")
        seconds.append(wall)
    store.unlink()
    typical = medians({"rescan": seconds})["rescan"]
    say(f"rescan: {typical:.2f} s for {n} unchanged pictures (the first extraction took {first_s:.1f} s)")
    return {"rescan_25k_s": typical, "rescan_files": n, "rescan_first_s": first_s}


def draw_pngs(folder: Path, n: int) -> None:
    """Draw `n` pictures of 8 x 8 random pixels below ten class folders, changed an hour ago; keep what is there."""
    rng = np.random.default_rng(0)
    then = time.time_ns() - HOUR_NS
    for i in range(n):
        file = folder / str(i % CLASSES) / f"{i:06d}.png"
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            os.utime(file, ns=(then, then))


def measure_memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the peak memory of an extraction for each number of pictures."""
    counts = sorted(arguments.pictures)
    draw_photographs(folder / "jpg", counts[-1])
    peaks: dict[str, float] = {}
    for n in counts:
        manifest, store, result = folder / f"jpg-{n}.csv", folder / f"memory-{n}.h5", folder / f"memory-{n}.json"
        rows = [f"jpg/{i:06d}.jpg,class{i % 2}" for i in range(n)]
        manifest.write_text("\n".join(["path,label", *rows, ""]))
        store.unlink(missing_ok=True)
        command = ["extract", manifest, "-o", store, "--backbone", arguments.backbone, "--weights", arguments.weights]
        call = [sys.executable, "-c", _PEAK, sys.executable, ROOT / "pipeline.py", *command, "--json", result]
        done = subprocess.run([*map(str, call)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckFailed(f"the extraction of {n} drawn pictures failed: {done.stderr.strip()[-2000:]}")
        extraction = json.loads(result.read_text())
        if extraction["extracted"] != n:
            raise CheckFailed(f"the extraction of {n} drawn pictures says {_brief(extraction)}")
        peaks[str(n)] = int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024) / 1e6
        store.unlink()
        say(f"memory: {peaks[str(n)]:.0f} MB at the peak of extracting {n} pictures with {arguments.backbone}")
    growth = peaks[str(counts[-1])] / peaks[str(counts[0])]
    return {"memory_mb": peaks, "memory_growth": growth, "memory_backbone": arguments.backbone}


def draw_photographs(folder: Path, n: int) -> None:
    """Draw `n` smooth JPEG pictures of 500 x 375 pixels; keep what is there."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for i in range(n):
        file = folder / f"{i:06d}.jpg"
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        if not file.exists():
            Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)


def _brief(extraction: dict[str, Any]) -> str:
    kept = ("images", "extracted", "reused", "engine", "stage_seconds")
    return json.dumps({**{k: extraction[k] for k in kept}, "skipped": extraction["skipped"][:2]})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    parts = {"read": measure_read, "append": measure_append, "rescan": measure_rescan, "memory": measure_memory}
    figures: dict[str, Any] = {}
    with work_folder(arguments.work) as folder:
        for name in arguments.parts:
            figures |= parts[name](arguments, folder)
    return {**figures, "rows": arguments.rows, "dim": arguments.dim, "repeats": arguments.repeats}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="reading, appending, rescanning and memory of feature stores")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rows", type=positive, default=100_000, help="rows of the store (default: %(default)s)")
    parser.add_argument("--dim", type=positive, default=1280, help="length of a vector (default: %(default)s)")
    parser.add_argument("--files", type=positive, default=25_000, help="pictures to rescan (default: %(default)s)")
    parser.add_argument("--pictures", type=positive, nargs=2, default=[1000, 20_000], help="for memory: few and many")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="for memory (default: %(default)s)")
    parser.add_argument("--weights", default="default", help="for memory (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each measurement (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep drawn pictures there (default: a temporary one)")
    return parser


if __name__ == "__main__":
    sys.exit(finish(measure, build_parser().parse_args()))
