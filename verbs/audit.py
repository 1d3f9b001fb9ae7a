"""Verb `audit`: what is wrong with a data set."""

import argparse
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, HEADS, Adder, Result, folds, natural

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "find out what is wrong with a data set: copies, labels, classes, splits"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `audit`."""
    # fmt: off
    add("store", metavar="STORE")
    add("--head", default="lr", choices=HEADS, help="classifier that judges the labels (default: %(default)s)")
    add("--split-pair", nargs=2, metavar=("TRAIN", "TEST"), help="splits to compare (default: train with test, else "
        "with val)")
    add("--folds", type=folds, default=5, metavar="N", help="folds of what is held out (default: %(default)s)")
    add("--csv", metavar="FILE", help="write every finding there, a row for each picture (- is standard output)")
    add("--relabel", metavar="FILE.csv", help="corrected labels, as a report exports them")
    add("--seed", type=natural, default=0, help="of folds and samples (default: %(default)s)")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--features", metavar="NAME", help="network or fingerprint, where the store has several")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `audit`."""
    from classify.audit import Audit, splits_of
    from classify.audit_report import print_audit, write_audit_csv
    from classify.duplicates import find_copies
    from data.relabel import read_corrections
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    store = FeatureStore(arguments.store, read_corrections(arguments.relabel))
    samples = store.load(dataset=arguments.dataset, features=arguments.features)
    splits = splits_of(samples, store.view(samples.dataset))
    with ProgressDisplay(console, "pictures compared") as display:
        copies = find_copies(samples.X, samples.digests, display.update)
    pair = (arguments.split_pair[0], arguments.split_pair[1]) if arguments.split_pair else None
    with ProgressDisplay(console, "fits") as display:
        audit = Audit(samples, splits, copies, arguments.head, arguments.folds, arguments.seed)
        result = {"store": arguments.store, **audit.run(pair, display.update)}
    if arguments.csv:
        write_audit_csv(arguments.csv, result)
    if arguments.csv != "-":
        print_audit(console, result, arguments.csv)
    return result, 0
