"""Verb `compare`: heads on every kind of features; with `--strategies` against fine-tuning."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import (
    AUGMENTS,
    HEADS,
    PRESETS,
    STRATEGIES,
    TUNE,
    Adder,
    Result,
    natural,
    png_file,
    positive,
    size_in_bytes,
    wrong_usage,
)
from verbs.contest import run_contest

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "fit every head on every kind of features and rank them"


# What belongs to one of the two halves alone, and what it is where it is not named.
_HEADS_ALONE: dict[str, Any] = {"heads": ("lr", "svm", "ridge"), "split": "train", "tune": "cv", "memory": None}
_STRATEGIES_ALONE: dict[str, Any] = {
    "colors": ("rgb",),
    "preset": "default",
    "epochs": None,
    "lr": None,
    "batch_size": None,
    "augment": None,
    "repeats": 1,
    "device": "auto",
}


def add_arguments(add: Adder) -> None:
    """Name the arguments of `compare`."""
    # fmt: off
    add("stores", metavar="STORE", nargs="+", help="several image sets, or several extractions of one")
    add("--features", nargs="+", default=[], metavar="NAME", help="networks, layers or fingerprints (default: all that "
        "cover the image set, in the centre view)")
    add("--dataset", metavar="NAME", help="one image set (default: all, each with a ranking of its own)")
    add("--on", metavar="SPLIT", help="what to measure on (default: test, or val where there is no test)")
    add("--seed", type=natural, default=0, help="of the folds, the heads and the bootstrap (default: %(default)s)")
    add("--save", metavar="FOLDER", help="write the heads or networks there")
    add("--png", type=png_file, metavar="FILE.png", help="draw the ranking (of further image sets: FILE-2.png, ...)")
    add = add.group("heads on frozen features")
    add("--heads", nargs="+", choices=(*HEADS, "all"), metavar="HEAD", help="kinds of classifiers, or all (default: "
        "lr svm ridge)")
    add("--split", help="what to train on (default: train)")
    add("--tune", choices=TUNE, help="as for fit (default: cv)")
    add("--memory", type=size_in_bytes, metavar="SIZE", help="such as 2GB: features that take more are read in chunks, "
        "and heads that cannot are left out")
    add = add.group("instead, against fine-tuning")
    add("--strategies", nargs="*", metavar="NAME", choices=STRATEGIES, help=f"{', '.join(STRATEGIES)}; without "
        "a name all: heads on frozen features and fine-tuned networks, on the same pictures")
    add("--colors", nargs="+", choices=("rgb", "gray"), help="with colour, without, or both (default: rgb)")
    add("--preset", choices=PRESETS, help="recipe of fine-tuning (default: default)")
    add("--epochs", type=positive, metavar="N", help="of fine-tuning (default: the recipe's)")
    add("--lr", type=float, metavar="RATE", help="of fine-tuning (default: the recipe's)")
    add("--batch-size", type=positive, metavar="N", help="of fine-tuning (default: the recipe's)")
    add("--augment", choices=AUGMENTS, help="of fine-tuning (default: the recipe's)")
    add("--repeats", type=positive, metavar="N", help="seeds from --seed on (default: 1)")
    add("--device", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `compare`."""
    contest = arguments.strategies is not None
    for name in _HEADS_ALONE if contest else _STRATEGIES_ALONE:
        if getattr(arguments, name) is not None:
            option = "--" + name.replace("_", "-")
            belongs = "is for heads alone: leave it out" if contest else "belongs to --strategies: name that too"
            wrong_usage("compare", f"{option} {belongs}")
    for name, value in (_STRATEGIES_ALONE if contest else _HEADS_ALONE).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return run_contest(arguments, console) if contest else _run_heads(arguments, console)


def _run_heads(arguments: argparse.Namespace, console: "Console") -> Result:
    from classify.compare import all_kinds, compare
    from classify.compare_report import draw_rankings, print_ranking
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    with ProgressDisplay(console, "heads") as display:
        rankings = compare(
            [FeatureStore(path) for path in dict.fromkeys(arguments.stores)],
            all_kinds(arguments.heads),
            features=arguments.features,
            dataset=arguments.dataset,
            split=arguments.split,
            on=arguments.on,
            tune=arguments.tune,
            seed=arguments.seed,
            save=Path(arguments.save) if arguments.save else None,
            memory=arguments.memory,
            on_progress=display.update,
        )
    for i, ranking in enumerate(rankings):
        console.print("\n" * bool(i), end="")
        print_ranking(console, ranking)
    if arguments.save:
        console.print(f"wrote {sum(len(r.entries) for r in rankings)} heads to {arguments.save}")
    charts = draw_rankings(Path(arguments.png), rankings) if arguments.png else []
    for path in charts:
        console.print(f"wrote {path}")
    return {"rankings": [r.as_json() for r in rankings], "charts": [str(path) for path in charts]}, 0
