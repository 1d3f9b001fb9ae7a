"""Verb `probe-preprocess`: what preprocessing is worth, on a sample, before the full extraction."""

import argparse
import shlex
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from verbs.arguments import ENGINES, Adder, Result, add_device, natural, png_file, positive

if TYPE_CHECKING:
    from rich.console import Console

    from classify.preprocessing import Comparison
    from data.images import ImageSet
    from data.terminal import ProgressDisplay
    from extract.wanted import Wanted
    from extract.ways import Tryout

TEXT = "try other shapes, sizes, interpolations and grey on a sample of pictures, before they are all extracted"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `probe-preprocess`."""
    # fmt: off
    add("images", metavar="IMAGES", help="labelled pictures, as for extract; the training split alone is read where "
        "there is one")
    add("-o", "--output", metavar="STORE", help="store that keeps the features, or has some of them (default: none is "
        "kept)")
    add("--backbone", metavar="NAME", help="as for extract (default: efficientnet_lite0)")
    add("--weights", default="default", metavar="FILE|default|random", help="as for extract")
    add("--sample", type=positive, default=500, metavar="N", help="pictures to try it on, every class in proportion "
        "(default: %(default)s)")
    add("--engine", default="auto", choices=ENGINES, help="what runs the network (default: %(default)s)")
    add_device(add)
    add("--png", type=png_file, metavar="FILE.png", help="draw the differences")
    add("--seed", type=natural, default=0, metavar="N", help="of the sample and the folds (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `probe-preprocess`."""
    from classify.preprocessing_report import draw_comparison, power_note, print_comparison, verdict
    from data.canvas import Canvas
    from data.terminal import duration, printable
    from extract.backbones import DEFAULT_BACKBONE, Options
    from extract.checkpoints import read_checkpoint
    from extract.datasets import open_source
    from extract.wanted import Wanted

    began = time.perf_counter()
    if arguments.png:
        Canvas(Path(arguments.png), 1).check()
    images = open_source(arguments.images)
    checkpoint = read_checkpoint(Path(arguments.weights)) if Path(arguments.weights).is_file() else None
    backbone = arguments.backbone or (checkpoint.spec.backbone if checkpoint else DEFAULT_BACKBONE)
    wanted = Wanted(backbone, arguments.weights, checkpoint.options() if checkpoint else Options())
    job, found, notes = _measure(arguments, images, wanted, console)
    lines = verdict(found)
    console.print(
        f"{printable(images.name)}: {found.n:,} training pictures of {found.n_classes} classes, {backbone}; its own "
        f"preprocessing: {job.own}\none thing is changed at a time, and measured on the same {found.folds} folds; "
        "accuracy with 95% interval"
    )
    print_comparison(console, found)
    for name, reason in job.refused.items():
        console.print(f"left out: {name}: {printable(reason)}")
    for note in notes:
        console.print(f"note: {note}")
    console.print(power_note(found))
    command = _command(arguments, found.best.flags)
    for line in lines:
        console.print(line, style="bold" if line is lines[0] else "")
    console.print(f"  {printable(command)}")
    if arguments.png:
        draw_comparison(Path(arguments.png), found, f"{backbone} on {images.name}: what preprocessing is worth")
    seconds = time.perf_counter() - began
    console.print(f"{len(found.entries)} ways in {duration(seconds)}")
    result: dict[str, Any] = {
        "images": arguments.images,
        "backbone": backbone,
        "own": job.own,
        "sample": len(job.images),
        **found.as_json(),
        "refused": job.refused,
        "notes": notes,
        "verdict": lines,
        "command": command,
        "store": arguments.output,
        "dataset": job.images.name,
        "chart": arguments.png,
        "seconds": round(seconds, 2),
    }
    return result, 0


def _measure(
    arguments: argparse.Namespace, images: "ImageSet", wanted: "Wanted", console: "Console"
) -> "tuple[Tryout, Comparison, list[str]]":
    """Extract a sample in every way and measure it; return also what the user should know."""
    from classify.preprocessing import compare_ways
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay
    from extract.networks import Setup
    from extract.ways import Tryout

    with TemporaryDirectory(prefix="penult-probe-") as spare, ProgressDisplay(console, "pictures") as display:
        store = Path(arguments.output or Path(spare, "features.h5"))
        store.parent.mkdir(parents=True, exist_ok=True)
        sample, notes = _sample(arguments, images, display)
        display.count("pictures")
        job = Tryout(
            sample,
            store,
            wanted,
            Setup(arguments.engine, arguments.device),
            display.update,
            lambda name: display.remark(f"trying {name}"),
        )
        tried = job.run()
        display.count("fits")
        display.remark("measuring")
        found = compare_ways(FeatureStore(store), sample.name, tried, arguments.seed, display.update)
    return job, found, [*notes, *job.notes, *[f"{len(job.skipped)} pictures cannot be read"][: len(job.skipped)]]


def _sample(
    arguments: argparse.Namespace, images: "ImageSet", display: "ProgressDisplay"
) -> "tuple[ImageSet, list[str]]":
    from extract.sampling import as_sample, stratified_sample, training_pictures

    display.count("files read")
    rows, note = training_pictures(images, display.update)
    drawn = stratified_sample(images, rows, arguments.sample, arguments.seed)
    notes = [note] if note else []
    if len(drawn) > arguments.sample:
        notes.append(f"{len(drawn):,} pictures instead of {arguments.sample:,}: two of each class are needed")
    return as_sample(images, drawn, f"{images.name}-probe-{arguments.sample}-{arguments.seed}"), notes


def _command(arguments: argparse.Namespace, flags: str) -> str:
    """Return the extraction to run, as it can be copied."""
    words = ["penult extract", shlex.quote(arguments.images), "-o STORE"]
    words += [f"--backbone {arguments.backbone}"] if arguments.backbone else []
    words += [f"--weights {shlex.quote(arguments.weights)}"] if arguments.weights != "default" else []
    return " ".join([*words, flags]).strip()
