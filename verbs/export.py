"""Verb `export`: features for other tools."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, Adder, Result

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "write features of a store for other tools: .npz, .parquet or .csv"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `export`."""
    # fmt: off
    add("store", metavar="STORE")
    add("-o", "--output", metavar="FILE", required=True, help="its ending says what to write")
    add("--split", help="what to export (default: all pictures of the image set)")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="as for fit")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `export`."""
    from data.export import export_table, print_export, refuse_head
    from data.table import choose_table
    from data.terminal import ProgressDisplay

    refuse_head(Path(arguments.store))
    table = choose_table(arguments.store, arguments.split, dataset=arguments.dataset, features=arguments.features)
    with ProgressDisplay(console, "rows") as display:
        export_table(table, arguments.output, display.update)
    return print_export(console, table, Path(arguments.output)), 0
