"""Verb `extract`: pictures into a store."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import (
    COLORS,
    ENGINES,
    FITS,
    PRECISIONS,
    Adder,
    Result,
    add_batch_size,
    add_device,
    add_split_rule,
    add_workers,
    positive,
    split_rule,
)

if TYPE_CHECKING:
    from rich.console import Console

    from extract.options import Options
    from extract.wanted import Wanted

TEXT = "run a frozen network over pictures, once, into a store"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `extract`."""
    # fmt: off
    add("images", metavar="IMAGES", help="folder with a folder for each class, with or without train/ val/ test/ above "
        "them; its zip or tar; WebDataset shards; a CSV, JSON-lines or Parquet file with path,label[,split]; any of "
        "these at s3:// and the like; hf:NAME; torchvision:CLASS:FOLDER")
    add("-o", "--output", metavar="STORE", required=True, help="store to make or add to: a file, or a folder/ of files")
    add("--backbone", action="extend", nargs="+", metavar="NAME", help="any torchvision or timm "
        "classification networks (default: efficientnet_lite0, whose weights need no download)")
    add("--weights", default="default", metavar="FILE|default|random", help="state dict (.pth, .safetensors), the "
        "network's own, or random ones")
    add("--partial", action="store_true", help="take from the state dict what fits, and say what does not")
    add("--name", help="name of the image set in the store (default: the folder's)")
    add("--dtype", default="float32", choices=("float32", "float16"), help="how features are stored "
        "(default: %(default)s)")
    add = add.group("what a feature is")
    add("--layer", "--layers", action="extend", nargs="+", metavar="NODE", help="outputs of these layers; "
        "all-stages is the pooled output of every stage, list prints all there are (default: penultimate)")
    add("--pooling", default="", choices=("avg", "max", "gem", "cls", "flatten"), help="of layers with several "
        "positions (default: avg)")
    add("--view", "--views", action="extend", nargs="+", metavar="VIEW", help="center, flip, five-crop, random:N: "
        "each is stored apart (default: center)")
    add("--average", action="store_true", help="store the mean over the views instead")
    add("--normalize", action="store_const", const="l2", default="", help="make every vector 1 long (L2)")
    add("--projection", default="", metavar="KIND:DIM", help="make vectors shorter: random:DIM[:SEED], pca:DIM or a "
        "file of components")
    add = add.group("splits (a set that brings none gets 20% of each class as test)")
    add_split_rule(add, "split anew: share of each class for test")
    add = add.group("preprocessing (default: the network's own)")
    add("--input-size", type=positive, metavar="PX", help="side of the square that the network sees")
    add("--resize", type=positive, metavar="PX", help="shorter side before the crop; with squash both, with "
        "pad the longer one")
    add("--fit", choices=FITS, help="crop: what the square cuts out; squash: all of the picture, whatever its shape; "
        "pad: all of it in its shape, on the network's mean colour (default: the network's own, mostly crop)")
    add("--interpolation", choices=("nearest", "bilinear", "bicubic", "lanczos"))
    add("--decoder", choices=("pillow", "draft"), help="draft decodes large JPEGs at reduced size (default: pillow)")
    add("--gray", dest="color", action="store_const", const="gray", help="without colour, in three equal channels")
    add("--color", choices=COLORS, help="luma and rgba adapt the first convolution to one "
        "and four channels")
    add("--mean", type=float, nargs="+", metavar="M", help="one number or three")
    add("--std", type=float, nargs="+", metavar="S", help="one number or three")
    add = add.group("running")
    add("--engine", default="auto", choices=ENGINES, help="what runs the network (default: %(default)s)")
    add_device(add)
    add("--precision", default="auto", choices=PRECISIONS, help="default: fp16 on CUDA, else float32; checked "
        "against float32 on the first pictures")
    add("--compile", action="store_true", help="let PyTorch compile the network first: for long runs on a GPU")
    add_batch_size(add)
    add_workers(add)
    add("--ray", nargs="?", const="local", default="", metavar="ADDRESS", help="let workers on a Ray cluster compute, "
        "with a GPU each where there are GPUs: auto or an address; without one, all of this machine")
    add("--ray-workers", type=positive, default=0, metavar="N", help="default: one a GPU, else all cores")
    add("--staging", default="", metavar="URL", help="where blocks wait to be published, for machines that share no "
        "disk: s3://, gs:// and the like; one for each store (default: beside the store)")
    add("--rehash", action="store_true", help="read every file again, whatever its size and time say")
    add("--strict", action="store_true", help="fail on the first picture that cannot be read")
    add("--seed", type=int, default=0, help="of random weights (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `extract`."""
    from data.terminal import ProgressDisplay
    from extract.datasets import open_source
    from extract.extractor import Extractor
    from extract.report import print_extraction

    if arguments.layer == ["list"]:
        return _list_layers(arguments.backbone, console)
    store = Path(arguments.output)
    (store if arguments.output.endswith(os.sep) else store.parent).mkdir(parents=True, exist_ok=True)
    images = open_source(arguments.images, arguments.name)
    with ProgressDisplay(console, "pictures") as display:
        result = Extractor(
            images,
            store,
            _wanted(arguments),
            engine=arguments.engine,
            device=arguments.device,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
            compile=arguments.compile,
            workers=arguments.workers,
            dtype=arguments.dtype,
            split=split_rule(arguments),
            rehash=arguments.rehash,
            strict=arguments.strict,
            ray=arguments.ray,
            ray_workers=arguments.ray_workers,
            staging=arguments.staging,
            on_progress=lambda p: display.update(p.done, p.total, p.skipped),
        ).run()
    print_extraction(console, result, store)
    skipped_json = [{"path": s.path, "reason": s.reason} for s in result.skipped]
    features_json = [vars(feature) for feature in result.features]
    return {**vars(result), "skipped": skipped_json, "features": features_json}, 0


def _wanted(arguments: argparse.Namespace) -> "list[Wanted]":
    """Return the networks that the arguments name, and what is wanted of each; without a name a checkpoint's own."""
    from extract.backbones import DEFAULT_BACKBONE
    from extract.checkpoints import read_checkpoint
    from extract.preprocess import expand_views
    from extract.wanted import Wanted

    options, own = _options(arguments), DEFAULT_BACKBONE
    checkpoint = read_checkpoint(Path(arguments.weights)) if Path(arguments.weights).is_file() else None
    if checkpoint:
        options, own = checkpoint.options(options), checkpoint.spec.backbone
    return [
        Wanted(
            backbone,
            arguments.weights,
            options,
            arguments.seed,
            arguments.partial,
            layers=tuple(arguments.layer or ["penultimate"]),
            pooling=arguments.pooling,
            views=tuple(expand_views(arguments.view or ["center"])),
            average=arguments.average,
            projection=arguments.projection,
            normalize=arguments.normalize,
        )
        for backbone in dict.fromkeys(arguments.backbone or [own])
    ]


def _options(arguments: argparse.Namespace) -> "Options":
    from extract.options import FITS as FITS_OF_SPECS
    from extract.options import Options

    return Options(
        input_size=arguments.input_size,
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
        decoder=arguments.decoder,
        color=arguments.color,
        fit=FITS_OF_SPECS[arguments.fit] if arguments.fit else None,
    )


def _list_layers(backbones: list[str] | None, console: "Console") -> Result:
    from extract.backbones import DEFAULT_BACKBONE
    from extract.layers import layer_names

    layers = {name: layer_names(name) for name in backbones or [DEFAULT_BACKBONE]}
    for name, names in layers.items():
        console.print(f"{name}: {', '.join(names)}")
    return {"layers": layers}, 0
