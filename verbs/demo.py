"""Verb `demo`: the whole way on small pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import Adder, Result

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "do all of it on 1,797 small pictures of digits"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `demo`."""
    # fmt: off
    add("-o", "--output", metavar="FOLDER", default="penult-demo", help="where to (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `demo`."""
    from classify.digits import write_digits

    folder = Path(arguments.output)
    n = write_digits(folder / "digits")
    console.print(f"{n} pictures of handwritten digits are in {folder / 'digits'}")
    store = str(folder / "features.h5")
    heads = [str(folder / f"{kind}.head") for kind in ("lr", "svm", "mlp")]
    commands = [["extract", str(folder / "digits"), "-o", store]]
    commands += [["fit", store, "--head", Path(head).stem, "-o", head] for head in heads]
    commands += [
        ["eval", *heads, store],
        ["predict", heads[0], *(str(folder / "digits/test" / f"{d}/007.png") for d in (3, 5, 8))],
        ["report", store, *heads, "-o", str(folder / "report.html"), "--quick"],
    ]
    results = []
    for command in commands:
        console.print(f"\n$ penult {' '.join(command)}", style="bold")
        parsed = arguments.parser.parse_args(command)
        result, code = parsed.run(parsed, console)
        results.append({"command": command, "result": result})
        if code:
            return {"commands": results}, code
    return {"commands": results}, 0
