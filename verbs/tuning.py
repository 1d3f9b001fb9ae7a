"""What `finetune` and `depth` share: their arguments, and the tuner that these describe."""

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import (
    AUGMENTS,
    COLORS,
    DATASET,
    FITS,
    PRECISIONS,
    PRESETS,
    Adder,
    add_device,
    add_split_rule,
    add_workers,
    natural,
    positive,
)

if TYPE_CHECKING:
    from rich.console import Console

    from data.terminal import ProgressDisplay
    from extract.options import Options
    from finetune.strategies import Strategy
    from finetune.tuning import Tuner

# The table of arguments: one a line.
# fmt: off

def add_preset(add: Adder) -> None:
    """Add `--preset`."""
    add("--preset", default="default", choices=PRESETS, help="recipe; ants and hotdog are those of the tutorials "
        "(default: %(default)s)")


def add_start(add: Adder) -> None:
    """Add what a network starts from."""
    add("--backbone", metavar="NAME", help="torchvision or timm network (default: the checkpoint's, that "
        "of the store's features, or efficientnet_lite0)")
    add("--weights", default="default", metavar="FILE|default|random", help="as for extract; a checkpoint, too")
    add("--partial", action="store_true", help="take from the state dict what fits, and say what does not")
    add("--init", default="auto", choices=("auto", "random", "rows"), help="what the new last layer starts from: rows "
        "of the old one for classes that it knew by name, or chance (default: rows if it knew every class)")


def add_parts(add: Adder) -> None:
    """Add which pictures train, choose and measure."""
    add("--dataset", metavar="NAME", help=DATASET)
    add("--on", metavar="SPLIT", help="what to measure on (default: test, or val where there is no test); it chooses "
        "nothing")
    add_split_rule(add, "split pictures anew: share of each class for test")
    add("--hold-out", type=float, metavar="F", help="share of train that chooses, epochs and the like, where val "
        "cannot (default: 0.15)")


def add_recipe(add: Adder, augment: str) -> None:
    """Add how a network is trained; `augment` says what it is by default."""
    add("--batch-size", type=positive, metavar="N", help="pictures in a step (32)")
    add("--accumulate", type=positive, metavar="N", help="parts to sum a step's gradient from, for less memory (1)")
    add("--optimizer", choices=("sgd", "adamw"), help="(sgd)")
    add("--lr", type=float, metavar="RATE", help="of the pretrained layers (0.0005; lp-ft 0.0003, scratch 0.03)")
    add("--head-lr-factor", type=float, metavar="F", help="the new layer's rate is so many times that (10; 1 where "
        "it starts from what was known, and from scratch)")
    add("--layer-decay", type=float, metavar="F", help="each stage's rate is so many times the next one's (1)")
    add("--reduction", choices=("mean", "sum"), help="of a step's losses; with sum rates are for a picture, not for a "
        "step (mean)")
    add("--norm", choices=("kept", "batch"), help="BatchNorm keeps its statistics, or takes each batch's (kept; batch "
        "from scratch)")
    add("--momentum", type=float, metavar="M", help="of sgd (0.9)")
    add("--weight-decay", type=float, metavar="W", help="(0.0001)")
    add("--warmup", type=float, metavar="EPOCHS", help="over which rates rise from zero (1)")
    add("--label-smoothing", type=float, metavar="S", help="share of the target spread over all classes (0)")
    add("--mixup", type=float, metavar="A", help="mix pairs of pictures, with shares from Beta(A, A); frozen stages "
        "then run in every epoch (0: none)")
    add("--augment", choices=AUGMENTS, help="crop: random crops and mirroring, new in every epoch, so that no "
        "activations can be kept; views: a few such crops, kept with the activations of frozen stages; flip: mirroring "
        f"({augment})")
    add("--views", type=positive, metavar="N", help="crops of each picture, of --augment views (8)")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same, whatever its number of pictures")
    add("--precision", choices=PRECISIONS, help="of the passes (fp16 on CUDA, else float32)")
    add("--seed", type=natural, metavar="N", help="of the new layer, the order, augmentation and dropout (0)")


def add_preprocessing(add: Adder) -> None:
    """Add what can be changed about the preprocessing."""
    add = add.group("preprocessing (default: that of the store's features, else the network's own)")
    add("--input-size", type=positive, metavar="PX", help="side of the square that the network sees")
    add("--resize", type=positive, metavar="PX", help="shorter side before the crop")
    add("--fit", choices=FITS, help="as for extract")
    add("--color", choices=COLORS, help="as for extract")


def add_running(add: Adder) -> Adder:
    """Begin the group of how it is run."""
    add = add.group("running")
    add_device(add)
    add_workers(add)
    add("--no-cache", action="store_true", help="run frozen stages in every epoch")
    return add
# fmt: on


def changes_of(arguments: argparse.Namespace, *own: str) -> dict[str, Any]:
    """Return what the arguments change of a recipe, less fields that the verb fills by itself."""
    from finetune.strategies import Strategy

    named = {field.name for field in dataclasses.fields(Strategy)} - set(own)
    return {name: value for name, value in vars(arguments).items() if name in named and value is not None}


def network_to_tune(arguments: argparse.Namespace) -> "tuple[str, str, Options]":
    """Return network, weights and preprocessing: what is named, else those of a store's penultimate features.

    A checkpoint's own are left to `finetune.tuning.Tuner`.
    """
    from classify.sources import penultimate_sources
    from data.errors import StoreError
    from data.report import is_store
    from data.store import FeatureStore
    from extract.options import FITS as FITS_OF_SPECS
    from extract.options import Options
    from extract.wanted import wanted_of

    named = {"input_size": arguments.input_size, "resize": arguments.resize, "color": arguments.color}
    named["fit"] = FITS_OF_SPECS[arguments.fit] if arguments.fit else None
    changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if is_store(Path(arguments.images)) and arguments.weights == "default":
        with contextlib.suppress(StoreError):
            names = [arguments.backbone] if arguments.backbone else []
            found = penultimate_sources([FeatureStore(arguments.images)], names, arguments.dataset)[0].info.source
            wanted = wanted_of(found.request, found.weights, "")
            return wanted.backbone, wanted.weights, dataclasses.replace(wanted.options, **changes)
    return arguments.backbone or "", arguments.weights, Options(**changes)


def tuner_of(
    arguments: argparse.Namespace,
    output: Path,
    strategy: "Strategy",
    network: "tuple[str, str, Options]",
    display: "ProgressDisplay",
) -> "Tuner":
    """Return the tuner that the arguments of both verbs describe."""
    from data.report import is_store
    from data.store import FeatureStore
    from extract.datasets import open_source
    from finetune.tuning import Tuner
    from verbs.arguments import split_rule

    stored = is_store(Path(arguments.images))
    return Tuner(
        FeatureStore(arguments.images) if stored else open_source(arguments.images, arguments.dataset),
        output,
        strategy,
        *network,
        partial=arguments.partial,
        dataset=arguments.dataset,
        rule=split_rule(arguments),
        on=arguments.on,
        device=arguments.device,
        workers=arguments.workers,
        cache=not arguments.no_cache,
        init=arguments.init,
        on_progress=lambda p: display.update(p.done, p.total, p.skipped),
        on_picture=display.update,
    )


def print_kept_activations(console: "Console", source: str) -> None:
    """Say what activations of frozen stages take in a store, and how they leave it."""
    from data.report import is_store
    from data.store import FeatureStore
    from data.terminal import printable, size

    if not is_store(Path(source)):
        return
    kept = sum(info.nbytes for info in FeatureStore(source).features().values() if info.kept)
    if kept:
        name = printable(source)
        console.print(
            f"{name} keeps activations of frozen stages for next time, {size(kept)}: `penult drop {name} "
            "--activations` frees them"
        )
