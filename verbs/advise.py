"""Verb `advise`: stay frozen, go back to earlier layers, or fine-tune."""

import argparse
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, Adder, Result, natural
from verbs.original import original_of

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "say whether to stay frozen, go back to earlier layers or fine-tune, and what that may give and cost"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `advise`."""
    # fmt: off
    add("store", metavar="STORE", help="best with --layers all-stages penultimate; the training split alone is read")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--features", metavar="NAME", help="network or fingerprint to advise on (default: all, the best first)")
    add("--seed", type=natural, default=0, help="of the folds and of the draw of pictures (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `advise`."""
    from classify.advise import advise
    from classify.advise_report import print_advice
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    with ProgressDisplay(console, "measurements") as display:
        advice = advise(
            FeatureStore(arguments.store),
            original_of,
            dataset=arguments.dataset,
            features=arguments.features,
            seed=arguments.seed,
            on_progress=display.update,
        )
    print_advice(console, advice)
    return advice.as_json(), 0
