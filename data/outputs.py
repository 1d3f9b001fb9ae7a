"""What a command is to write, looked at before it works for an hour. Imports neither numpy nor h5py."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.bundle import refuse_inside
from data.errors import OutputError

# How options that name what is written are typed, by their name among the arguments.
_OPTIONS = {
    "output": "-o",
    "json": "--json",
    "csv": "--csv",
    "png": "--png",
    "sheet": "--sheet",
    "save": "--save",
    "tensorboard": "--tensorboard",
}
# What must not replace a file of another kind; its folders are made.
_TEXT = ("json", "csv")


def check_outputs(arguments: Mapping[str, Any]) -> None:
    """Raise if something that a command is to write could not be written, or would replace what it must not.

    Parameters
    ----------
    arguments : mapping of str to object
        Those of the command; None and ``-``, which is standard output, are nothing to check.

    Raises
    ------
    BundleError
        If it would be in a bundle.
    OutputError
        If it cannot be written there, or two of them are one file.
    """
    named: dict[str, str] = {}
    for name, option in _OPTIONS.items():
        target = arguments.get(name)
        if target in (None, "-"):
            continue
        refuse_inside(Path(target), option)
        if name in _TEXT:
            _refuse_other_file(target, option)
        _refuse_unwritable(target, option)
        where = os.path.abspath(target)
        if where in named and not _is_special(target):
            raise OutputError(f"{named[where]} and {option} are both {target}: name another file for one")
        named[where] = option
    for name in _TEXT:
        if arguments.get(name) not in (None, "-"):
            Path(arguments[name]).parent.mkdir(parents=True, exist_ok=True)


def _refuse_other_file(target: str, option: str) -> None:
    """Raise if a table or JSON would replace a store, a head or whatever else was named there by mistake."""
    if not os.path.exists(target) or _is_special(target):
        return
    kind = option.removeprefix("--")
    if os.path.isdir(target):
        raise OutputError(f"{option} {target}: that is a folder: name a file, such as {target}/results.{kind}")
    with open(target, "rb") as file:
        start = file.read(4096)
    # a CSV is text; a result of ours is an object
    if b"\0" in start or (kind == "json" and start and not start.startswith(b"{")):
        raise OutputError(
            f"{option} takes the file to write, and {target} exists and is no {kind.upper()}: name another"
        )


def _refuse_unwritable(target: str, option: str) -> None:
    """Raise if a file or folder cannot be made, by making one without a name where it would be."""
    path = Path(os.path.abspath(target))
    try:
        if _is_special(target) or (option == "--csv" and path.exists()):  # written into; everything else is replaced
            open(path, "ab").close()
            return
        folder = next(place for place in (path, *path.parents) if place.is_dir() or (place != path and place.exists()))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror.lower() if error.strerror else str(error)
        raise OutputError(f"{option} {target} cannot be written ({why}): name another place") from None


def _is_special(target: str) -> bool:
    """Whether it is there and neither a file nor a folder: a pipe, /dev/null."""
    return os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)
