"""`export HEAD -o model.onnx`: a head and its network as one file."""

import argparse
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from verbs.arguments import Result

if TYPE_CHECKING:
    from rich.console import Console

    from data.images import ImageSet
    from extract.export import Export
    from extract.quantise import Cost


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Pictures of a store: those of the split that is measured on, and those of train."""

    images: "ImageSet"
    split: str
    rows: list[int]
    train: list[int]


def run_model(arguments: argparse.Namespace, console: "Console") -> Result:
    """Fuse, compare, quantise if asked for, write and say so."""
    from classify.artifact import load_head
    from classify.tail import exportable
    from data.errors import HeadError
    from data.images import Subset
    from data.kinds import kind_of
    from extract.export import export_head

    if kind_of(Path(arguments.store)) == "a feature store":
        raise HeadError(
            f"{arguments.store} is a feature store, and a model is made of a head: name one (`fit {arguments.store} "
            "--head lr -o lr.head` makes it), or end -o in .npz, .parquet or .csv to export features"
        )
    head = exportable(load_head(Path(arguments.store)))
    measured = _measured(arguments, head.classes) if arguments.measured else None
    projections = arguments.projection or _components(arguments, head.sources)
    path = Path(arguments.output)
    with TemporaryDirectory(prefix="penult-export-") as folder:
        plain = Path(folder, "model.onnx") if arguments.int8 else path
        done = export_head(
            head,
            plain,
            weights=arguments.weights,
            projections=projections,
            pictures=Subset(measured.images, measured.rows) if measured else None,
        )
        done = dataclasses.replace(done, path=str(path))
        cost = _quantise(arguments, console, measured, plain) if arguments.int8 and measured else None
    _print_export(console, done, cost)
    result = {**done.as_json(), "bytes": path.stat().st_size}
    if cost and measured:
        result["int8"] = _print_cost(console, cost, arguments.int8, measured.split)
    if done.opset:
        console.print(f"predict with it: penult predict {path} PICTURES")
        console.print(f"without Penult: penult export {path} -o predict.py writes the script that does it")
    else:
        console.print(
            f"load it with torch.export.load({str(path)!r}).module(): uint8 pixels in, as docs/onnx.md has them"
        )
    return result, 0


def _measured(arguments: argparse.Namespace, classes: list[str]) -> _Measured:
    from data.errors import StoreError
    from data.splits import measured_split
    from data.store import FeatureStore
    from extract.datasets import image_set_of

    store = FeatureStore(arguments.measured)
    view = store.view(arguments.dataset)
    split = arguments.split or measured_split(store.splits(arguments.dataset))
    labelled = view.targets >= 0
    rows: list[int] = ((view.splits == split) & labelled).nonzero()[0].tolist()
    if not rows:
        known = ", ".join(store.splits(arguments.dataset)) or "none"
        raise StoreError(f"{view.name!r} has no labelled pictures in split {split!r} (it has {known}): name another")
    foreign = sorted({view.classes[i] for i in view.targets[rows].tolist()} - set(classes))
    if foreign:
        raise StoreError(
            f"split {split!r} of {view.name!r} has the class {foreign[0]!r}, which head {arguments.store} does not "
            "know: name the store that it was fitted on"
        )
    return _Measured(image_set_of(view), split, rows, (view.splits == "train").nonzero()[0].tolist())


def _components(arguments: argparse.Namespace, sources: Any) -> list[str]:
    """Return the components files beside the store that is named, of features that have any."""
    from extract.components import components_file

    wanted = [s.spec.projection for s in sources if s.spec.projection.startswith("pca")]
    return [str(components_file(Path(arguments.measured), name)) for name in wanted] if arguments.measured else []


def _quantise(arguments: argparse.Namespace, console: "Console", measured: _Measured, plain: Path) -> "Cost":
    from data.errors import StoreError
    from data.images import Subset
    from data.terminal import ProgressDisplay
    from extract.quantise import write_int8

    train = None
    if arguments.int8 == "static":
        if not measured.train:
            raise StoreError(f"{arguments.measured} has no split train to calibrate on: export with --int8 dynamic")
        train = Subset(measured.images, measured.train)
    what, began = "pictures, by both models", False

    def told(done: int, total: int, unread: int) -> None:
        nonlocal began
        if not began:  # quantising comes before it and counts no pictures
            display.count(what)
            began = True
        display.update(done, total, unread)

    with ProgressDisplay(console, what) as display:
        return write_int8(plain, Path(arguments.output), measured.images, measured.rows, train, told)


def _print_export(console: "Console", done: "Export", cost: "Cost | None") -> None:
    from data.terminal import duration, printable, size

    where = (
        "pictures of the store" if done.checked_on == "pictures" else "drawn pictures (--store compares on real ones)"
    )
    what = f"ONNX, opset {done.opset}" if done.opset else "torch.export"
    which = " before the 8 bits" if cost else ""
    console.print(
        f"largest difference of a probability from the head{which}: {done.difference:.1e}, on {done.checked} {where}; "
        f"{done.same_label} of {done.checked} get the same class"
    )
    nbytes = cost.int8.bytes if cost else done.bytes
    console.print(
        f"wrote {printable(done.path)}: {done.kind} and its network in one graph, {len(done.classes)} classes, "
        f"{size(nbytes)} ({what}), in {duration(done.seconds)}"
    )
    licence = done.licence or "not known: ask whoever made the weights before you pass it on"
    console.print(f"licence of the network's weights: {licence}")


def _print_cost(console: "Console", cost: "Cost", method: str, split: str) -> dict[str, Any]:
    """Print what 8 bits cost, and return it."""
    from classify.statistics import ALPHA, mcnemar_exact, wilson_interval
    from data.terminal import milliseconds, size

    result: dict[str, Any] = {"method": method, "split": split, "n": len(cost.int8.right)}
    console.print(f"8 bits ({method}) on the {len(cost.int8.right)} pictures of {split}:")
    for name, of in (("float32", cost.float32), ("int8", cost.int8)):
        right = int(of.right.sum())
        low, high = wilson_interval(right, len(of.right))
        console.print(
            f"  {name:7}  accuracy {right / len(of.right):.4f} [{low:.3f}, {high:.3f}]  {size(of.bytes):>8}  "
            f"{milliseconds(of.milliseconds)} a picture on one core"
        )
        result[name] = {
            "accuracy": right / len(of.right),
            "accuracy_ci95": [low, high],
            "bytes": of.bytes,
            "milliseconds": of.milliseconds,
        }
    result["difference"] = cost.difference
    result["p_value"] = mcnemar_exact(cost.float32.right, cost.int8.right)
    changed = int((cost.float32.right != cost.int8.right).sum())
    console.print(
        f"  right or wrong differently: {changed} pictures (McNemar p = {result['p_value']:.3g}); "
        f"largest difference of a probability {cost.difference:.2f}"
    )
    if result["p_value"] < ALPHA and cost.int8.right.sum() < cost.float32.right.sum():
        console.print(
            f"note: with {method} 8 bits it is worse, beyond chance: look at the accuracies before you use it"
        )
    if cost.int8.milliseconds > cost.float32.milliseconds:
        console.print(f"note: it is smaller and slower: {method} 8-bit convolutions are slow on this CPU")
    if method == "dynamic":
        console.print("note: compare --int8 static, whose ranges are measured beforehand (figures in docs/onnx.md)")
    return result
