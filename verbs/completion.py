"""Verb `completion`: what makes a shell complete verbs, options, choices and files."""

import argparse
from typing import TYPE_CHECKING

from verbs.arguments import Adder, Result

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "print a script with which a shell completes verbs, options, choices and files"

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
# An argument whose metavar has one of these words is a path.
_FILES = ("STORE", "HEAD", "IMAGES", "FILE", "CHECKPOINT", "BUNDLE", "MODEL")
_FOLDERS = ("FOLDER",)


def add_arguments(add: Adder) -> None:
    """Name the arguments of `completion`."""
    # fmt: off
    add("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh, fish, tcsh or powershell")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `completion`."""
    from data.errors import MissingDependency, how_to_install

    try:
        import shtab
    except ImportError:
        raise MissingDependency(f"completion needs shtab: {how_to_install('completion')}") from None
    _mark_paths(arguments.parser, shtab.FILE, shtab.DIRECTORY)
    script: str = shtab.complete(arguments.parser, shell=arguments.shell)
    if arguments.json != "-":
        print(script)
    return {"shell": arguments.shell, "script": script}, 0


def _mark_paths(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Say of every argument of every verb that is a path that it is one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _mark_paths(verb, file, folder)
        elif not action.choices:
            words = str(action.metavar or "").replace(".", "|").split("|")
            if any(word in words for word in _FILES):
                action.complete = file  # type: ignore[attr-defined]
            elif any(word in words for word in _FOLDERS):
                action.complete = folder  # type: ignore[attr-defined]
