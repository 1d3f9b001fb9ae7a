"""Verb `finetune`: train the network itself."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import MODES, Adder, Result, png_file, positive, wrong_usage
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

    from finetune.beginnings import LinearStart

TEXT = "train the network itself, to see whether it would have been worth it"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `finetune`."""
    # fmt: off
    add("images", metavar="IMAGES|STORE", help="pictures as for extract, or a store of them, which then keeps the "
        "activations of frozen stages")
    add("--mode", default="full", choices=MODES, help="head: the last layer alone; partial: what follows the first "
        "stages; full: everything; scratch: everything, from random weights; lp-ft: everything, from a linear head "
        "fitted on the frozen features (default: %(default)s)")
    add("-o", "--output", metavar="CHECKPOINT", required=True, help="file to write the network to; eval and predict "
        "take it for a head, extract --weights for a backbone")
    add_preset(add)
    add = add.group("what it starts from")
    add_start(add)
    add("--start", metavar="HEAD", help="linear head whose weights lp-ft starts from (default: lr, fitted first)")
    add = add.group("which pictures train, and which measure")
    add_parts(add)
    add("--keep", choices=("best", "last"), help="epoch whose weights are written (default: best, on val or "
        "on pictures held out of train)")
    add("--patience", type=positive, metavar="N", help="stop after so many epochs without a better one")
    add = add.group("what is trained, and how (in brackets: --preset default)")
    add("--freeze", type=positive, metavar="K", help="stages that partial leaves as they are (all but the last)")
    add("--epochs", type=positive, metavar="N", help="passes over the training pictures (15; 30 from scratch)")
    add("--schedule", choices=("constant", "step", "cosine", "cooldown"), help="how rates fall (cosine, to zero; "
        "cooldown: from half way)")
    add("--step-epochs", type=positive, metavar="N", help="of the schedule step: how often they fall (7)")
    add("--gamma", type=float, metavar="G", help="of the schedule step: to what share (0.1)")
    add_recipe(add, "crop; head and partial flip")
    add_preprocessing(add)
    add = add_running(add)
    add("--png", type=png_file, metavar="FILE.png", help="draw the curves of loss and accuracy")
    add("--csv", metavar="FILE", help="write a row for each epoch there (- is standard output)")
    add("--tensorboard", metavar="FOLDER", help="write TensorBoard's events there")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `finetune`."""
    from classify.folding import fit_probe
    from classify.statistics import wilson_interval
    from data.terminal import ProgressDisplay
    from finetune.epochs import Epoch
    from finetune.logs import Logs
    from finetune.report import print_epoch, print_note, print_resumed, print_tuning
    from finetune.strategies import make_strategy

    if arguments.mode == "scratch" and arguments.weights not in ("default", "random"):
        wrong_usage("finetune", "--mode scratch begins with random weights: leave out --weights, or take another mode")
    strategy = make_strategy(arguments.mode, arguments.preset, changes_of(arguments, "mode"))
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    network = network_to_tune(arguments)
    logs = Logs(arguments.png, arguments.csv, arguments.tensorboard)

    def told(epoch: Epoch) -> None:
        first = not logs.epochs
        logs.add(epoch)
        print_epoch(console, epoch, strategy.epochs, header=first)

    def resumed(epochs: list[Epoch]) -> None:
        logs.add(*epochs)
        print_resumed(console, epochs, strategy.epochs)

    def stepped(done: int, total: int) -> None:
        if display.what != "steps":
            display.count("steps")
        display.update(done, total)

    with ProgressDisplay(console, "pictures") as display, logs:
        tuner = dataclasses.replace(
            tuner_of(arguments, output, strategy, network, display),
            start=_start_of(arguments.start) if arguments.start else None,
            probe=lambda samples: fit_probe(samples, strategy.seed),
            on_step=stepped,
            on_epoch=told,
            on_resume=resumed,
            on_note=lambda note: print_note(console, note),
        )
        logs.title = f"{tuner.network[0]}, {arguments.mode}, on {Path(arguments.images).name}"
        tuning = tuner.run()
    interval = wilson_interval(int(tuning.right.sum()), len(tuning.targets))
    print_tuning(console, tuning, interval)
    print_kept_activations(console, arguments.images)
    return {**tuning.as_json(), "accuracy_ci95": list(interval), "chart": arguments.png}, 0


def _start_of(path: str) -> "LinearStart":
    from classify.artifact import load_head
    from finetune.beginnings import LinearStart

    head = load_head(Path(path))
    return LinearStart(*head.linear(), head.classes, head.spec.fingerprint, head.name)
