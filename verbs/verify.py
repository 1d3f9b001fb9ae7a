"""Verb `verify`: every checksum, and a sample extracted again."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import MOVED, Adder, Result, add_device, natural

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "check every checksum of a store or bundle, and a sample of its features"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `verify`."""
    # fmt: off
    add("store", metavar="STORE", help="a store or bundle")
    add("--sample", type=natural, metavar="N", help="pictures of each network to extract again (default: 8 where torch "
        "is installed)")
    add("--weights", default="", metavar="FILE", help=MOVED)
    add_device(add)
    add("--seed", type=natural, default=0, help="of the sample (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `verify`."""
    from data.bundle import is_bundle, read_bundle
    from data.terminal import printable
    from data.verify import verify_store

    path = Path(arguments.store)
    verdict = verify_store(path)
    problems = list(verdict.problems)
    console.print(
        f"{verdict.files} files, {verdict.views} image sets, {verdict.rows} vectors in {verdict.blocks} blocks: "
        + (f"{len(problems)} problems" if problems else "every checksum is right")
    )
    if is_bundle(path):
        bundle = read_bundle(path)
        changed = bundle.problems()
        console.print(
            f"{len(bundle.info['files'])} files of the bundle: "
            + (f"{len(changed)} are not what was packed" if changed else "each has the SHA-256 that it was packed with")
        )
        for name in bundle.strangers():
            console.print(f"note: {printable(name)} is not of the bundle")
        problems += changed
    for where, lacking in verdict.missing.items():
        console.print(f"note: {lacking} pictures of {where} have no vector")
    rechecks: list[dict[str, Any]] = []
    torch_is_there = importlib.util.find_spec("torch") is not None
    wanted = arguments.sample if arguments.sample is not None else 8 if torch_is_there else 0
    if wanted and not problems:
        from data.errors import MissingDependency, WeightsError
        from extract.recheck import recheck

        try:
            for check in recheck(path, wanted, seed=arguments.seed, weights=arguments.weights, device=arguments.device):
                gone = f", {check.changed} files are gone or changed" if check.changed else ""
                compared = (
                    f"{check.checked} pictures extracted again, largest deviation {check.largest_deviation:.1e} "
                    f"(allowed {check.tolerance:.0e})"
                )
                console.print(f"{check.spec}: {compared if check.checked else 'no picture extracted again'}{gone}")
                rechecks.append({**vars(check), "sound": check.sound})
                if not check.sound:
                    problems.append(f"{check.spec}: features extracted again differ by {check.largest_deviation:.1e}")
        except (WeightsError, MissingDependency) as error:
            if arguments.sample is not None:
                raise
            console.print(f"note: no sample was extracted again: {error}")
    for problem in problems:
        print(f"penult: error: {problem}", file=sys.stderr)
    return {**vars(verdict), "problems": problems, "rechecks": rechecks}, 1 if problems else 0
