"""Accuracy of the default backbone with each head on small real sets, by the command line that a user has.

For each set `pipeline.py extract`, `fit` for every head and `eval`, each as a process of its own: ants and bees
(train, measured on val), hot dogs (train, test), hand signs of the digits and five flowers (Penult's own stratified
80/20 split, seed 0), Caltech-101 by features computed elsewhere, and the demo's drawn digits (train, test). Nothing is
tuned by hand and the measured split is seen once, by `eval`.
Checked: no picture is skipped, and each eval measures every head on every picture of the split.

Prints a Markdown table and, as the last line, one JSON object. Seconds are those that the commands report, loading
of libraries excluded. With --work the stores are kept and used again; the extraction's seconds are then those of the
run that computed the features.

    python benchmarks/accuracy.py --work /tmp/penult-accuracy
    python benchmarks/accuracy.py --sets digits --heads lr svm
    python benchmarks/accuracy.py --heads all
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import CheckFailed, finish, real_data, run_pipeline, say, work_folder
from classify.digits import write_digits
from classify.heads import HEADS as ALL
from data.layout import block_image
from data.publish import publish
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.views import View

BACKBONE = "efficientnet_lite0"
HEADS = ("lr", "svm", "mlp")
# A set of which the features alone are at hand.
FEATURES = "caltech101_lite0_features"
# Set and the split that is measured.
SETS = {
    "hymenoptera": "val",
    "hotdog_kaggle": "test",
    "sign_digits": "test",
    "flowers_tiny": "test",
    FEATURES: "test",
    "digits": "test",
}
_COLUMNS = ("set", "train / measured", "head", "accuracy [95% interval]", "log-loss", "ECE", "setting", "fit, s")


def extract(images: Path, store: Path) -> dict[str, Any]:
    """Extract, and return the JSON of the run that computed the features, which is kept beside the store."""
    record = store.with_suffix(".extract.json")
    _, result = run_pipeline("extract", images, "-o", store, "--backbone", BACKBONE)
    if result["extracted"] or not record.exists():
        record.write_text(json.dumps(result))
    if result["skipped"]:
        raise CheckFailed(f"{len(result['skipped'])} pictures of {images} were skipped: {result['skipped'][:3]}")
    kept: dict[str, Any] = json.loads(record.read_text())
    if kept["fingerprint"] != result["fingerprint"] or kept["images"] != result["images"]:
        raise CheckFailed(f"{record} is of another extraction: delete {store} and it")
    return {**result, "seconds": kept["seconds"], "computed": kept["extracted"]}


def store_of_features(npz: Path, store: Path) -> dict[str, Any]:
    """Write features that were computed elsewhere, float16, as a store; return what `extract` would.

    The pictures are not there, so their paths stand for their contents.
    """
    with np.load(npz, allow_pickle=False) as file:
        X, names, splits, paths = file["X"], file["y"], file["split"], file["path"].tolist()
    classes, targets = np.unique(names, return_inverse=True)
    n = len(X)
    view = View(
        name=npz.stem,
        root="/nowhere",
        classes=classes.tolist(),
        paths=paths,
        digests=np.array([hashlib.sha256(path.encode()).hexdigest() for path in paths], dtype="S64"),
        targets=targets.astype(np.int32),
        splits=splits.astype(np.str_),
        sizes=np.ones(n, dtype=np.int64),
        mtimes=np.ones(n, dtype=np.int64),
    )
    spec = FeatureSpec("timm/tf_efficientnet_lite0", "sha256:" + "0" * 64)
    run = {"run": new_run_id(), "engine": "elsewhere"}
    shape = {"rows": n, "dim": X.shape[1], "dtype": X.dtype, "slabs": [(view.digests, X)]}
    if not store.exists():
        stage_block(
            store, run["run"], 0, block_image({"spec": spec, "provenance": [run], "requests": [], **shape}, view)
        )
        publish(store, view, commands={spec.fingerprint: {}})
    counts = {str(split): int((splits == split).sum()) for split in np.unique(splits)}
    return {"images": n, "splits": counts, "engine": "elsewhere", "seconds": 0.0, "computed": 0}


def measure_set(name: str, work: Path, heads: list[str]) -> dict[str, Any]:
    """Extract, fit and evaluate one set."""
    store, split = work / f"{name}.h5", SETS[name]
    if name == "digits":
        write_digits(work / "digits")
        extraction = extract(work / "digits", store)
    elif name == FEATURES:
        extraction = store_of_features(real_data() / f"{name}.npz", store)
    else:
        images = real_data() / name
        if not images.is_dir():
            raise CheckFailed(f"{images} does not exist: see the README of the real image sets")
        extraction = extract(images, store)
    files = [work / f"{name}-{kind}.head" for kind in heads]
    fits = {}
    for kind, file in zip(heads, files, strict=True):
        _, fits[kind] = run_pipeline("fit", store, "--head", kind, "-o", file)
    _, evaluation = run_pipeline("eval", *files, store, "--split", split)
    measured = {scores["kind"]: scores for scores in evaluation["heads"]}
    if evaluation["n"] != extraction["splits"][split] or set(measured) != set(heads):
        raise CheckFailed(f"eval measured {evaluation['n']} pictures and {sorted(measured)} on {split} of {store}")
    return {
        "images": extraction["images"],
        "split": split,
        "n_train": fits[heads[0]]["n_train"],
        "n": evaluation["n"],
        "classes": len(evaluation["classes"]),
        "engine": extraction["engine"],
        "extracted": extraction["computed"],
        "extract_seconds": extraction["seconds"],
        "heads": {
            kind: {
                "accuracy": measured[kind]["accuracy"],
                "accuracy_ci95": measured[kind]["accuracy_ci95"],
                "log_loss": measured[kind]["log_loss"],
                "ece": measured[kind]["ece"],
                "cv_accuracy": fits[kind]["cv_accuracy"],
                "params": fits[kind]["params"],
                "fit_seconds": fits[kind]["seconds"],
                "notes": fits[kind]["notes"],
            }
            for kind in heads
        },
        "pairs": evaluation["pairs"],
    }


def markdown(sets: dict[str, dict[str, Any]]) -> str:
    """Return the table."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for name, found in sets.items():
        for kind, head in found["heads"].items():
            low, high = head["accuracy_ci95"]
            cells = (
                name,
                f"{found['n_train']} / {found['n']} ({found['split']})",
                kind,
                f"{head['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
                f"{head['log_loss']:.3f}",
                f"{head['ece']:.3f}",
                ", ".join(
                    f"{k} = {v:.3g}" if isinstance(v, float) else f"{k} = {v}" for k, v in head["params"].items()
                ),
                f"{head['fit_seconds']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every set that was asked for."""
    real_data()  # fails at once where it is not set
    sets = {}
    heads = list(ALL) if arguments.heads == ["all"] else arguments.heads
    with work_folder(arguments.work) as work:
        for name in arguments.sets:
            sets[name] = measure_set(name, work, heads)
            say(f"{name}: " + ", ".join(f"{k} {h['accuracy']:.4f}" for k, h in sets[name]["heads"].items()))
    print(markdown(sets))
    return {"backbone": BACKBONE, "sets": sets}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="accuracy of the default backbone with each head on small real sets")
    parser.add_argument(
        "--sets", nargs="+", choices=list(SETS), default=list(SETS), metavar="SET", help=", ".join(SETS)
    )
    parser.add_argument("--heads", "--head", nargs="+", default=list(HEADS), metavar="HEAD", help="kinds, or all")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep stores and heads there, and use them again")
    return parser


if __name__ == "__main__":
    sys.exit(finish(measure, build_parser().parse_args()))
