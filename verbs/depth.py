"""Verb `depth`: the number of stages that are best left frozen."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import Adder, Result, natural, png_file, positive, wrong_usage
from verbs.tuning import (
    add_parts,
    add_preprocessing,
    add_preset,
    add_recipe,
    add_running,
    add_start,
    changes_of,
    network_to_tune,
    print_kept_activations,
    tuner_of,
)

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "search how many stages of a network are best left frozen"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `depth`."""
    # fmt: off
    add("images", metavar="IMAGES|STORE", help="as for finetune; a store keeps the activations of every depth")
    add("-o", "--output", metavar="CHECKPOINT", help="file to write the best network to; a search that is stopped can "
        "then be taken up again")
    add("--depths", type=natural, nargs="+", default=[], metavar="K", help="frozen stages to try: 0 trains all "
        "layers, one more than there are the last layer alone (default: every number)")
    add("--budget", type=positive, metavar="N", help="epochs of every depth before the first half of them is dropped; "
        "twice as many before the next (default: 2)")
    add("--epochs", type=positive, metavar="N", help="instead: epochs of the best depth in all")
    add_preset(add)
    add = add.group("what it starts from")
    add_start(add)
    add = add.group("which pictures train, and which choose and measure")
    add_parts(add)
    add = add.group("how every depth is trained (in brackets: --preset default; rates fall from half way)")
    add_recipe(add, "flip")
    add_preprocessing(add)
    add = add_running(add)
    add("--png", type=png_file, metavar="FILE.png", help="draw the held-out accuracy of every depth after every rung")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `depth`."""
    from tempfile import TemporaryDirectory

    from classify.statistics import holm, mcnemar_exact, wilson_interval
    from data.canvas import Canvas
    from data.terminal import ProgressDisplay
    from finetune.depth import DepthSearch, Judge
    from finetune.depth_report import draw_search, print_rung, print_search, show_epoch
    from finetune.strategies import make_strategy

    if arguments.budget and arguments.epochs:
        wrong_usage("depth", "--epochs and --budget say the same: name one of them")
    if arguments.png:
        Canvas(Path(arguments.png), 1).check()
    # the rates of every depth fall only once the race is over, and some pictures must choose
    changes = {"augment": "flip", **changes_of(arguments, "mode", "epochs"), "schedule": "cooldown", "keep": "best"}
    with contextlib.ExitStack() as stack:
        spare = "" if arguments.output else stack.enter_context(TemporaryDirectory(prefix="penult-depth-"))
        output = Path(arguments.output or spare, "" if arguments.output else "network")
        output.parent.mkdir(parents=True, exist_ok=True)
        display = stack.enter_context(ProgressDisplay(console, "pictures"))
        strategy = make_strategy("full", arguments.preset, changes)
        tuner = tuner_of(arguments, output, strategy, network_to_tune(arguments), display)
        job = DepthSearch(
            tuner,
            Judge(wilson_interval, mcnemar_exact, holm),
            arguments.budget or 2,
            arguments.epochs or 0,
            arguments.depths,
            bool(arguments.output),
            lambda *told: show_epoch(display, *told),
            lambda *told: print_rung(console, *told),
        )
        try:
            search = job.run()
        except KeyboardInterrupt:
            if arguments.output:
                raise
            raise KeyboardInterrupt("interrupted: without -o nothing is kept, the same command starts anew") from None
    print_search(console, search)
    print_kept_activations(console, arguments.images)
    if arguments.png:
        title = f"{search.backbone} on {Path(arguments.images).name}"
        draw_search(Path(arguments.png), search, title)
    return {**search.as_json(), "chart": arguments.png}, 0
