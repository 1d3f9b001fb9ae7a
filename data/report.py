"""What a store holds and what is odd about it, as JSON and as tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.bundle import is_bundle
from data.kinds import kind_of
from data.splits import SplitRule
from data.staging import staged_blocks
from data.store import FeatureStore
from data.terminal import milliseconds, printable, size
from data.views import View

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def is_store(path: Path) -> bool:
    """Whether a path is, was or should be a store, by looking: an HDF5 file, a folder of such, a bundle, or blocks."""
    if path.is_dir():
        return is_bundle(path) or any(path.glob("*.h5")) or bool(staged_blocks(path))
    if path.suffix.lower() in (".h5", ".hdf5") or staged_blocks(path):
        return True
    return kind_of(path) == "a feature store"


def describe_store(path: Path) -> dict[str, Any]:
    """Return what `info --json` prints of a store.

    Raises
    ------
    MissingFile, StoreError, DamagedStore
        If there is no store, or something else in its place.
    """
    store = FeatureStore(path)
    features, views = store.features(), store.views()
    return {
        "path": str(store.path),
        "files": len(store.part_paths()),
        "bytes": sum(path.stat().st_size for path in store.part_paths()),
        "staged_blocks": len(staged_blocks(store.path)),
        "features": [
            {
                "fingerprint": fingerprint,
                "title": item.spec.title,
                "spec": json.loads(item.spec.canonical_json()),
                "rows": item.rows,
                "dim": item.dim,
                "dtype": item.dtype,
                "extract_milliseconds": item.extract_milliseconds,
                "provenance": item.provenance,
            }
            for fingerprint, item in features.items()
        ],
        "datasets": [
            {
                "name": view.name,
                "root": view.root,
                "images": len(view.paths),
                "classes": view.classes,
                "splits": store.splits(view.name),
                "split_rule": view.split_rule,
                "duplicates": len(view.paths) - len(set(view.digests.tolist())),
                "skipped": [{"path": s.path, "reason": s.reason} for s in view.skipped],
            }
            for view in views.values()
        ],
    }


def oddities(view: View, old: View | None) -> list[str]:
    """Say what about an image set, and about what the store held under its name, is worth a second look."""
    notes = [f"{view.name} was read from {old.root} before"] if old and old.root != view.root else []
    contents, content = np.unique(view.digests, return_inverse=True)
    copies = len(view.digests) - len(contents)
    if copies:
        across, two_labels = (
            len(np.unique(np.stack([content, np.unique(column, return_inverse=True)[1]]), axis=1).T) - len(contents)
            for column in (view.splits, view.targets)
        )
        are = "picture is an exact copy of another" if copies == 1 else "pictures are exact copies of others"
        note = f"{copies} {are} (extracted once)"
        note += f"; {across} contents stand in two splits" if across else ""
        note += f"; {two_labels} contents stand under two labels" if two_labels else ""
        notes.append(note)
    if view.split_rule:
        r = SplitRule(**view.split_rule)
        kept = f"{r.test_fraction:.0%} of each class for test" + (
            f", {r.val_fraction:.0%} for val" if r.val_fraction else ""
        )
        notes.append(f"no split of its own was used: {kept}, by seed {r.seed} (--test-fraction, --split-seed)")
    return notes


def print_info(console: "Console", result: dict[str, Any]) -> None:
    """Print the tables of `info`."""
    files = f" in {result['files']} files" if result["files"] > 1 else ""
    console.print(f"{result['path']}: {size(result['bytes'])}{files}")
    if result["staged_blocks"]:
        console.print(
            f"note: {result['staged_blocks']} blocks of an unfinished extraction wait: "
            "run `extract` again to publish them"
        )
    console.print(_feature_table(result["features"]))
    console.print(_set_table(result["datasets"]))


def _feature_table(features: list[dict[str, Any]]) -> "Table":
    columns = ("network", "layer", "input", "dim", "dtype", "pictures", "extract", "computed by", "fingerprint")
    table = _table("features", columns, right=("dim", "pictures", "extract"))
    for f in features:
        spec = f["spec"]
        engines = ", ".join(sorted({run["engine"] for run in f["provenance"]}))
        crop = f"{spec['crop'][0]}x{spec['crop'][1]}"
        table.add_row(
            spec["backbone"],
            f["title"].removeprefix(f"{spec['backbone']}/"),
            crop,
            str(f["dim"]),
            f["dtype"],
            str(f["rows"]),
            milliseconds(f["extract_milliseconds"]),
            engines,
            f["fingerprint"][:12],
        )
    return table


def _set_table(datasets: list[dict[str, Any]]) -> "Table":
    columns = ("name", "pictures", "classes", "splits", "copies", "skipped", "from")
    table = _table("image sets", columns, right=("pictures", "copies", "skipped"))
    for d in datasets:
        names = ", ".join(map(printable, d["classes"][:3])) + (", ..." if len(d["classes"]) > 3 else "")
        classes = f"{len(d['classes'])}: {names}" if d["classes"] else "none"
        splits = ", ".join(f"{printable(k) or 'none'} {v}" for k, v in d["splits"].items())
        counts = (str(d["duplicates"]), str(len(d["skipped"])))
        table.add_row(printable(d["name"]), str(d["images"]), classes, splits, *counts, printable(d["root"]))
    return table


def _table(title: str, columns: Sequence[str], right: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title=f"\n{title}", title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table
