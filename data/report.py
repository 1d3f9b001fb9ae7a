"""What a store holds and what is odd about it, as JSON and as tables."""

import json
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.bundle import is_bundle
from data.kinds import kind_of
from data.splits import SplitRule
from data.staging import staged_blocks
from data.store import FeatureStore
from data.terminal import milliseconds, print_fitting, printable, size
from data.views import View
from data.words import WAITING, counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Columns of the table of features that a terminal may be too narrow for; --json has them.
_SAME_FOR_MOST = ("input", "dtype", "extract", "computed by")


def is_store(path: Path) -> bool:
    """Whether a path is, was or should be a store, by looking: an HDF5 file, a folder of such, a bundle, or blocks."""
    if path.is_dir():
        return is_bundle(path) or bool(FeatureStore(path).part_paths() or staged_blocks(path))
    if path.suffix.lower() in (".h5", ".hdf5") or staged_blocks(path):
        return True
    return kind_of(path) == "a feature store"


def describe_store(path: Path) -> dict[str, Any]:
    """Return what `info --json` prints of a store; `kept` are features that training keeps to go on from there.

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
                "kept": item.kept,
                "extract_milliseconds": item.extract_milliseconds,
                "provenance": item.provenance,
            }
            for fingerprint, item in features.items()
        ],
        "datasets": [
            {
                "name": view.name,
                "root": view.root,
                "source": view.source or view.root,
                "images": len(view.paths),
                "classes": view.classes,
                "splits": view.split_counts(),
                "split_rule": view.split_rule,
                "duplicates": len(view.paths) - len(set(view.digests.tolist())),
                "skipped": [{"path": s.path, "reason": s.reason} for s in view.skipped],
            }
            for view in views.values()
        ],
    }


def oddities(view: View, held: Mapping[str, View], where: str) -> list[str]:
    """Say what about an image set is worth a second look.

    Parameters
    ----------
    view : View
        The image set.
    held : dict of str to View
        What the store held before, by name.
    where : str
        How messages name the store.
    """
    old = held.get(view.name)
    if old is None:
        notes = _moved(view, held.values(), where)
    else:
        notes = [f"{view.name} was read from {old.root} before"] if old.root != view.root else []
    return [*notes, *_few_classes(view), *_copies(view), *_split_anew(view)]


def _moved(view: View, others: Iterable[View], where: str) -> list[str]:
    """Say which other image set holds mostly the same pictures, if one does: after a move there are two of it."""
    mine = np.unique(view.digests)
    for other in others:
        theirs = np.unique(other.digests)
        shared = len(np.intersect1d(mine, theirs, assume_unique=True))
        if view.classes and other.classes and 2 * shared >= max(len(mine), len(theirs)):
            some = "all" if shared == len(mine) else f"{shared:,} of {len(mine):,}"
            return [
                f"{some} pictures of {view.name!r} are in the image set {other.name!r} too, read from {other.root}: if "
                f"they moved, `drop {where} --dataset {shlex.quote(other.name)}` takes the old set out; to keep its "
                f"name, drop {view.name!r} instead and extract with --name {shlex.quote(other.name)}"
            ]
    return []


def _few_classes(view: View) -> list[str]:
    """Say so if nothing can be fitted, and which folder was meant where the classes are further down."""
    if not view.classes:
        return ["no picture has a label: to fit a head, put each class into a folder of its own, and name that above"]
    if len(view.classes) > 1:
        return []
    above = posixpath.commonpath([posixpath.dirname(path) for path in view.paths])
    below = {
        path.removeprefix(f"{above}/").split("/")[0] for path in view.paths if path.count("/") > above.count("/") + 1
    }
    meant = (
        f"; if {', '.join(sorted(below)[:3])} are the classes, name {shlex.quote(posixpath.join(view.root, above))}"
        if above and len(below) > 1
        else ""
    )
    return [f"one class ({view.classes[0]}), and a head needs two{meant}"]


def _copies(view: View) -> list[str]:
    contents, content = np.unique(view.digests, return_inverse=True)
    copies = len(view.digests) - len(contents)
    if not copies:
        return []
    across, two_labels = (
        len(np.unique(np.stack([content, np.unique(column, return_inverse=True)[1]]), axis=1).T) - len(contents)
        for column in (view.splits, view.targets)
    )
    are = counted(copies, "picture is an exact copy of another", "pictures are exact copies of others")
    stand = ("content stands", "contents stand")
    return [
        f"{are} (extracted once)"
        + (f"; {counted(across, *stand)} in two splits" if across else "")
        + (f"; {counted(two_labels, *stand)} under two labels" if two_labels else "")
    ]


def _split_anew(view: View) -> list[str]:
    if not view.split_rule:
        return []
    r = SplitRule(**view.split_rule)
    kept = f"{r.test_fraction:.0%} of each class for test" + (f", {r.val_fraction:.0%} for val" * (r.val_fraction > 0))
    return [f"no split of its own was used: {kept}, by seed {r.seed} (--test-fraction, --split-seed)"]


def print_info(console: "Console", result: dict[str, Any]) -> None:
    """Print the tables of `info`."""
    files = f" in {result['files']} files" if result["files"] > 1 else ""
    console.print(f"{result['path']}: {size(result['bytes'])}{files}")
    if result["staged_blocks"]:
        console.print(f"note: {counted(result['staged_blocks'], *WAITING)}: run `extract` again to publish")
    print_fitting(console, _feature_table(result["features"]), _narrowed(_feature_table(result["features"])))
    console.print(_set_table(result["datasets"]))


def _feature_table(features: list[dict[str, Any]]) -> "Table":
    columns = ("network", "layer", "input", "dim", "dtype", "pictures", "extract", "computed by", "fingerprint")
    table = _table("features", columns, right=("dim", "pictures", "extract"))
    for f in features:
        spec = f["spec"]
        engines = ", ".join(sorted({run["engine"] for run in f["provenance"]}))
        layer = f["title"].removeprefix(f"{spec['backbone']}/")
        table.add_row(
            spec["backbone"],
            f"{layer} (kept)" if f["kept"] else layer,
            f"{spec['crop'][0]}x{spec['crop'][1]}",
            str(f["dim"]),
            f["dtype"],
            str(f["rows"]),
            milliseconds(f["extract_milliseconds"]),
            engines,
            f["fingerprint"][:12],
        )
    return table


def _narrowed(features: "Table") -> "Table":
    """Return a table of features without what is the same for most of them."""
    features.columns = [column for column in features.columns if column.header not in _SAME_FOR_MOST]
    return features


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
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
