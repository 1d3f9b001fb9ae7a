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
    from data.bundle import is_bundle
    from data.terminal import printable
    from data.verify import verify_store
    from data.words import counted

    path = Path(arguments.store)
    verdict = verify_store(path)
    problems = list(verdict.problems)
    held = ((verdict.files, "file"), (verdict.views, "image set"))
    vectors = f"{counted(verdict.rows, 'vector')} in {counted(verdict.blocks, 'block')}"
    console.print(
        f"{', '.join(counted(n, what) for n, what in held)}, {vectors}: "
        + (counted(len(problems), "problem") if problems else "every checksum is right")
    )
    if is_bundle(path):
        problems += _check_bundle(path, console)
    for where, lacking in verdict.missing.items():
        have = counted(lacking, f"picture of {where} has", f"pictures of {where} have")
        console.print(f"note: {printable(have)} no vector")
    torch_is_there = importlib.util.find_spec("torch") is not None
    wanted = arguments.sample if arguments.sample is not None else 8 if torch_is_there else 0
    rechecks = _extract_again(arguments, wanted, console) if wanted and not problems else []
    for check in rechecks:
        if not check["sound"]:
            problems.append(f"{check['spec']}: features extracted again differ by {check['largest_deviation']:.1e}")
    for problem in problems:
        print(f"penult: error: {problem}", file=sys.stderr)
    return {**vars(verdict), "problems": problems, "rechecks": rechecks}, 1 if problems else 0


def _check_bundle(path: Path, console: "Console") -> list[str]:
    """Compare a bundle's files with what was packed; return what differs."""
    from data.bundle import read_bundle
    from data.terminal import printable
    from data.words import counted

    bundle = read_bundle(path)
    changed = bundle.problems()
    console.print(
        f"{counted(len(bundle.info['files']), 'file')} of the bundle: "
        + (counted(len(changed), "is", "are") + " not what was packed" if changed else "as packed, by SHA-256")
    )
    for name in bundle.strangers():
        console.print(f"note: {printable(name)} is not of the bundle")
    return changed


def _extract_again(arguments: argparse.Namespace, n: int, console: "Console") -> list[dict[str, Any]]:
    """Extract `n` pictures of each network again, where that can be done; return what each check found."""
    from data.errors import MissingDependency, WeightsError
    from data.words import counted
    from extract.recheck import recheck

    rechecks = []
    try:
        for check in recheck(
            Path(arguments.store), n, seed=arguments.seed, weights=arguments.weights, device=arguments.device
        ):
            gone = f", {counted(check.changed, 'file is', 'files are')} gone or changed" if check.changed else ""
            compared = (
                f"{counted(check.checked, 'picture')} extracted again, largest deviation "
                f"{check.largest_deviation:.1e} (allowed {check.tolerance:.0e})"
            )
            console.print(f"{check.spec}: {compared if check.checked else 'no picture extracted again'}{gone}")
            rechecks.append({**vars(check), "sound": check.sound})
    except (WeightsError, MissingDependency) as error:
        if arguments.sample is not None:
            raise
        console.print(f"note: no sample was extracted again: {error}")
    return rechecks
