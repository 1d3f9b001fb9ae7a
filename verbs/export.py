"""Verb `export`: features for other tools, and heads with their networks as models."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, MOVED, Adder, Result, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

TEXT = (
    "write features of a store as .npz, .parquet or .csv, or a head with its network as one model: .onnx or .pt2; "
    "or a script that predicts with such a model and needs nothing of Penult: .py"
)
_MODELS = (".onnx", ".pt2")
_INT8 = ("dynamic", "static")


def add_arguments(add: Adder) -> None:
    """Name the arguments of `export`."""
    # fmt: off
    add("store", metavar="STORE|HEAD|MODEL.onnx", help="features come from a store, a model from a head, a script "
        "from a model")
    add("-o", "--output", metavar="FILE", required=True, help="its ending says what to write")
    add("--split", help="of features: what to export (default: all pictures of the image set); of a model: what to "
        "measure on (default: test, or val where there is no test)")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="as for fit")
    add = add.group("of a model")
    add("--store", dest="measured", metavar="STORE", help="compare the model with the head on pictures of this store "
        "(default: on drawn ones)")
    add("--int8", nargs="?", const="dynamic", choices=_INT8, help="8-bit weights, and what they cost on the split; "
        "static measures the range of activations beforehand, on train (default: %(const)s)")
    add("--weights", action="append", default=[], metavar="FILE", help=MOVED)
    add("--projection", action="append", default=[], metavar="FILE", help="components file of the features, where "
        "they have one")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `export`."""
    if Path(arguments.output).suffix == ".py":
        return _write_script(arguments, console)
    if Path(arguments.output).suffix in _MODELS:
        from verbs.model import run_model

        if arguments.features:
            wrong_usage("export", "a head has its features: leave out --features")
        if arguments.int8 and not arguments.measured:
            wrong_usage("export", "--int8 costs accuracy, which is measured on pictures: name --store STORE")
        if arguments.int8 and Path(arguments.output).suffix != ".onnx":
            wrong_usage("export", "--int8 is for ONNX Runtime: end -o in .onnx")
        if (arguments.split or arguments.dataset) and not arguments.measured:
            wrong_usage("export", "--split and --dataset say what a model is compared on: name its --store STORE too")
        return run_model(arguments, console)
    from data.export import export_table, print_export, refuse_head
    from data.table import choose_table
    from data.terminal import ProgressDisplay

    if arguments.measured or arguments.int8 or arguments.weights or arguments.projection:
        wrong_usage("export", "--store, --int8, --weights and --projection are for a model: end -o in .onnx or .pt2")
    refuse_head(Path(arguments.store))
    table = choose_table(arguments.store, arguments.split, dataset=arguments.dataset, features=arguments.features)
    with ProgressDisplay(console, "rows") as display:
        export_table(table, arguments.output, display.update)
    return print_export(console, table, Path(arguments.output)), 0


def _write_script(arguments: argparse.Namespace, console: "Console") -> Result:
    """Write the script that predicts with an exported model."""
    from data.errors import HeadError, OutputError
    from data.kinds import kind_of
    from data.terminal import printable

    model, path = arguments.store, Path(arguments.output)
    script = Path(__file__).resolve().parent.parent / "extract" / "predict_onnx.py"
    if not Path(model).is_file() or kind_of(Path(model)) != "an exported model":
        raise HeadError(f"{model} is no exported model, which a script is for: run `export HEAD -o model.onnx` first")
    if path.exists() and path.read_bytes() != script.read_bytes():
        raise OutputError(f"{path} exists and is another script: name another file with -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, path)
    console.print(f"run it with numpy, Pillow and onnxruntime alone: python {printable(str(path))} {model} PICTURES")
    return {"file": str(path), "model": model}, 0
