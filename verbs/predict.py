"""Verb `predict`: labels of new pictures."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import ENGINES, MOVED, Adder, Result, add_batch_size, add_device

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "classify new pictures"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `predict`."""
    # fmt: off
    add("head", metavar="HEAD")
    add("images", metavar="IMAGES", nargs="+", help="pictures, or sources as for extract")
    add("--csv", metavar="FILE", help="write path, label and every class's probability there (- is standard output)")
    add("--weights", action="append", default=[], metavar="FILE", help=MOVED + "; once for each network")
    add("--projection", action="append", default=[], metavar="FILE", help="components file of the features, where "
        "they have one; once for each")
    add("--engine", default="auto", choices=ENGINES, help="what runs the network (default: %(default)s)")
    add_device(add)
    add_batch_size(add)
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `predict`."""
    from classify.artifact import load_head
    from classify.report import print_predictions, write_csv
    from data.images import Selection
    from data.terminal import ProgressDisplay, printable
    from extract.datasets import open_source
    from extract.embed import embed_all, reopen_all

    head = load_head(Path(arguments.head))
    pictures = Selection([(source, open_source(source)) for source in arguments.images])
    opened = reopen_all(head.sources, f"head {head.name}", weights=arguments.weights, projections=arguments.projection)
    with ProgressDisplay(console, "pictures") as display:
        found = embed_all(
            pictures,
            opened,
            head.specs,
            engine=arguments.engine,
            device=arguments.device,
            batch_size=arguments.batch_size,
            on_progress=display.update,
        )
    predictions = head.predictions([pictures.title(i) for i in found.indices.tolist()], found.vectors)
    if arguments.csv:
        write_csv(arguments.csv, predictions, head.classes)
    if arguments.csv != "-":
        print_predictions(console, predictions)
    for note in found.notes:
        console.print(f"note: {note}")
    for item in found.skipped:
        console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
    if not predictions:
        print(f"penult: error: none of the {len(pictures)} pictures could be read: check the files", file=sys.stderr)
    skipped_json = [{"path": s.path, "reason": s.reason} for s in found.skipped]
    return {"predictions": predictions, "skipped": skipped_json}, 0 if predictions else 1
