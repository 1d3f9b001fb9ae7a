"""Verb `pack`: what one carries to the laptop, in one folder."""

import argparse
import importlib.util
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import MOVED, Adder, Result, positive, size_in_bytes, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

    from classify.artifact import TrainedHead
    from classify.packing import StageOne

_ROOM = 50_000_000  # for thumbnails: 8,000 at about 6 kB

TEXT = "carry features, heads, thumbnails and models away in one folder that every verb reads"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `pack`."""
    # fmt: off
    add("store", metavar="STORE", help="a store, or a bundle")
    add("heads", metavar="HEAD", nargs="*", help="heads fitted on it; predict takes the first of them where none is "
        "named (default: those of a bundle, else none)")
    add("-o", "--output", metavar="BUNDLE", required=True, help="folder to make; a bundle that is there is replaced "
        "when the new one is whole")
    add("--features", action="extend", nargs="+", default=[], metavar="NAME", help="as for fit: these besides those of "
        "the heads")
    add("--dataset", action="extend", nargs="+", default=[], metavar="NAME", help="image sets (default: those that the "
        "heads were fitted on)")
    add("--relabel", metavar="FILE.csv", help="corrected labels, those that heads were fitted with; all are measured "
        "on them")
    add = add.group("to make it smaller; what that costs in accuracy is measured")
    add("--dtype", choices=("float32", "float16"), help="how features are stored (default: as they are)")
    add("--pca", type=positive, metavar="N", help="keep N principal components of each feature, fitted on train; "
        "linear heads and mlp are folded into them, the others fitted anew")
    add("--thumbnails", type=size_in_bytes, metavar="SIZE", help="room for thumbnails, such as "
        "5MB; what is measured goes first (default: 50MB)")
    add("--without", action="extend", nargs="+", default=[], choices=("thumbnails", "models"), metavar="PART",
        help="leave out thumbnails or models, the ONNX files that predict runs without torch")
    add = add.group("for models")
    add("--weights", action="append", default=[], metavar="FILE", help=MOVED + "; once for each network")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `pack`."""
    from classify.cargo import Order
    from classify.packing import Packing
    from data.bundle_report import print_bundle
    from data.relabel import read_corrections
    from data.terminal import ProgressDisplay

    for option, part in (("thumbnails", "thumbnails"), ("weights", "models")):
        if part in arguments.without and getattr(arguments, option):
            wrong_usage("pack", f"--{option} is for {part}, which --without {part} leaves out: drop one of the two")
    room = _ROOM if arguments.thumbnails is None else arguments.thumbnails
    with ProgressDisplay(console, "vectors") as display:
        packing = Packing(
            Path(arguments.store),
            Path(arguments.output),
            Order(
                arguments.heads,
                arguments.features,
                arguments.dataset,
                arguments.dtype,
                arguments.pca,
                read_corrections(arguments.relabel),
            ),
            thumbnails=0 if "thumbnails" in arguments.without else room,
            models="models" not in arguments.without,
            stage_one=_stage_one(arguments.weights),
            command=_command(arguments),
            display=display,
        )
        try:
            result = packing.run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted: no bundle was made, the same command starts anew") from None
    print_bundle(console, Path(arguments.output), result)
    return {"bundle": arguments.output, **result}, 0


def _command(arguments: argparse.Namespace) -> str:
    """Return the command as one would type it."""
    words = ["penult", "pack", arguments.store, *arguments.heads, "-o", arguments.output]
    for option in ("features", "dataset", "without"):
        values = getattr(arguments, option)
        words += [f"--{option}", *values] if values else []
    words += ["--relabel", arguments.relabel] if arguments.relabel else []
    for file in arguments.weights:
        words += ["--weights", file]
    words += ["--dtype", arguments.dtype] if arguments.dtype else []
    words += ["--pca", str(arguments.pca)] if arguments.pca else []
    words += ["--thumbnails", f"{arguments.thumbnails / 1e6:g}MB"] if arguments.thumbnails is not None else []
    return shlex.join(words)


def _stage_one(weights: list[str]) -> "StageOne":
    from classify.packing import StageOne
    from data.errors import MissingDependency, how_to_install
    from data.images import PictureList
    from extract.components import components_file
    from extract.datasets import NAMED
    from extract.projection import fit_pca, save_pca
    from extract.thumbnails import SIDE, make_thumbnails

    def export(trained: "TrainedHead", file: Path, components: list[str]) -> None:
        for package in ("torch", "onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependency(f"a model needs {package}: {how_to_install('extract')}, and pack again")
        from classify.tail import exportable
        from extract.export import export_head

        export_head(exportable(trained), file, weights=weights, projections=components)

    return StageOne(
        fit=fit_pca,
        components_file=components_file,
        keep=save_pca,
        thumbnails=lambda places, digests, known: make_thumbnails(PictureList(places, NAMED), digests, known),
        side=SIDE,
        export=export,
    )
