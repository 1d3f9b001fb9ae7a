"""The command line's front: our own packages or none, one verb, one clear message, the exit code.

Exit 0 done, 1 failed with one clear message, 2 wrong usage, 130 interrupted and resumable. The verbs are in `verbs/`.
"""

import importlib.util
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

_OURS = ("data", "extract", "classify", "finetune", "verbs")
# Ctrl-C is pressed again by who sees nothing happen at once; in seconds.
_ONE_INTERRUPTION = 5.0


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit code; without `argv` the process's own, whose Ctrl-C is then ours."""
    if argv is None:
        _interrupt_once()
    try:
        return _run(argv)
    except KeyboardInterrupt as error:
        if argv is None:  # Python takes a while to end, too
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"\npenult: {str(error) or 'interrupted: run the same command again'}", file=sys.stderr)
        return 130


def _interrupt_once() -> None:
    """Let Ctrl-C not disturb what an earlier one has to finish: for seconds they count as one."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a shell's background job ignores it
        return
    latest = -math.inf

    def interrupt(number: int, frame: object) -> None:
        nonlocal latest
        before, latest = latest, time.monotonic()
        if latest - before > _ONE_INTERRUPTION:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _run(argv: list[str] | None) -> int:
    foreign = _foreign_package()
    if foreign:
        print(f"penult: error: {foreign}", file=sys.stderr)
        return 1
    from verbs.parser import build_parser

    arguments = build_parser().parse_args(argv)
    if arguments.json == "-" == getattr(arguments, "csv", None):
        print("penult: error: --json - and --csv - are both standard output: name a file for one", file=sys.stderr)
        return 2
    from data.errors import PenultError

    try:
        from data.outputs import check_outputs

        check_outputs(vars(arguments))
        result, code = arguments.run(arguments, _console(arguments))
        if arguments.json is not None:
            from data.results import write_json

            write_json(arguments.json, result)
        return int(code)
    except BrokenPipeError:  # the reader of our output has gone, as in `penult info STORE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PenultError as error:
        message = str(error)
        if arguments.debug:
            raise
    except OSError as error:
        # a file is written under another name first, which nobody has asked for
        path = re.sub(r"\.[0-9a-f-]+\.writing$", "", os.fsdecode(error.filename or ""))
        message = ": ".join(filter(None, (path, (error.strerror or "").lower()))) or str(error)
        if arguments.debug:
            raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}: this is a defect of Penult; run again with --debug to see where"
        if arguments.debug:
            raise
    print(f"penult: error: {message}", file=sys.stderr)
    return 1


def _foreign_package() -> str:
    """Say which package of ours is shadowed by another of the same name, if one is."""
    here = Path(__file__).resolve().parent
    for name in _OURS:
        found = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (found.submodule_search_locations or [])] if found else []
        if here / name not in places:
            where = found.origin or str(places[0]) if found and (found.origin or places) else "nowhere"
            return (
                f"the package {name!r} comes from {where}, not from {here / name}: another package has the same "
                "name; install Penult into an environment of its own"
            )
    return ""


def _console(arguments: "argparse.Namespace") -> "Console":
    # standard output belongs to the JSON or CSV where it was asked for
    busy = arguments.json == "-" or getattr(arguments, "csv", None) == "-"
    if importlib.util.find_spec("rich") is None:  # where an exported model predicts, onnxruntime and Pillow suffice
        from data.terminal import PlainTerminal

        return PlainTerminal(stderr=busy)  # type: ignore[return-value]
    from rich.console import Console

    console = Console(stderr=busy, markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        from data.terminal import Trimmed

        lines: Any = Trimmed(sys.stderr if busy else sys.stdout)
        console = Console(file=lines, markup=False, highlight=False, width=160)
    return console


if __name__ == "__main__":
    sys.exit(main())
