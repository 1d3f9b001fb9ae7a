"""Verb `eval`: heads and fine-tuned networks on one split."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, Adder, Result, natural, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

    from classify.artifact import TrainedHead
    from data.store import FeatureStore

TEXT = "measure heads on a split and rank them"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `eval`."""
    # fmt: off
    add("heads", metavar="HEAD", nargs="*", help="heads, fine-tuned networks, or bundles for all of their heads")
    add("store", metavar="STORE", help="a store; a bundle, alone, with its own heads")
    add("--split", help="what to measure on (default: test, or val where there is no test)")
    add("--relabel", metavar="FILE.csv", help="corrected labels, as a report exports them")
    add("--seed", type=natural, default=0, help="of the bootstrap (default: %(default)s)")
    add("--dataset", metavar="NAME", help=DATASET)
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `eval`."""
    from classify.artifact import load_head
    from classify.evaluate import evaluate
    from classify.report import print_evaluation
    from data.bundle import named_heads
    from data.relabel import read_corrections
    from data.report import is_store
    from data.store import FeatureStore

    files = named_heads(arguments.heads, Path(arguments.store))
    if not files:
        store = arguments.store if is_store(Path(arguments.store)) else "features.h5"
        wrong_usage("eval", f"name heads and the store to measure them on, as in `penult eval lr.head {store}`")
    heads = [load_head(path) for path in files]
    store = FeatureStore(arguments.store, read_corrections(arguments.relabel))
    extract_of_checkpoints(heads, store, arguments, console)
    result = evaluate(heads, store, arguments.split, dataset=arguments.dataset, seed=arguments.seed)
    print_evaluation(console, result)
    return result.as_json(), 0


def extract_of_checkpoints(
    heads: "list[TrainedHead]", store: "FeatureStore", arguments: argparse.Namespace, console: "Console"
) -> None:
    """Add to a store what fine-tuned networks among the heads give for the pictures of a split."""
    from data.splits import measured_split

    tuned = [head for head in heads if head.kind == "finetuned"]
    held = store.features() if tuned else {}
    for head in tuned:
        split = arguments.split or measured_split(store.splits(arguments.dataset))
        view = store.view(arguments.dataset).of_split(split)
        lacking = set(view.digests.tolist())
        if head.spec.fingerprint in held:
            lacking -= set(store.digests(head.spec.fingerprint).tolist())
        if lacking:
            from data.terminal import ProgressDisplay
            from extract.checkpoints import extract_view

            with ProgressDisplay(console, "pictures") as display:
                extract_view(Path(head.name), view, store.path, lambda p: display.update(p.done, p.total, p.skipped))
            console.print(
                f"note: {len(lacking)} pictures of {split} went through {head.name}; {store.path} has them now"
            )
