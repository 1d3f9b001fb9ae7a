"""What a model says of pictures: as rows of a CSV file, lines on a terminal, and JSON. Needs numpy alone."""

import contextlib
import csv
import dataclasses
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data.terminal import Terminal, printable

# Longer paths and labels are cut at the front on a terminal: the file's name is at the end.
_WIDEST = 60


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of a picture.

    Parameters
    ----------
    index : int
        Its position in the pictures that it is one of.
    path : str
        How the user named it.
    classes : sequence of str
        The model's.
    probabilities : ndarray of shape (k,)
        Of each class.
    """

    index: int
    path: str
    classes: Sequence[str]
    probabilities: npt.NDArray[Any]

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def probability(self) -> float:
        """Of that class."""
        return float(self.probabilities.max())

    def as_json(self) -> dict[str, Any]:
        """Return path, label, its probability and those of all classes."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(zip(self.classes, self.probabilities.tolist(), strict=True)),
        }


@dataclasses.dataclass(frozen=True)
class Unread:
    """A picture of which nothing can be said, and why."""

    index: int
    path: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return path and reason."""
        return {"path": self.path, "reason": self.reason}


class PredictionFile:
    """A CSV of path, label and every class's probability; each row is in the file as soon as it is known.

    Parameters
    ----------
    target : str
        The file; ``-`` is standard output.
    classes : sequence of str
        The columns.
    """

    def __init__(self, target: str, classes: Sequence[str]) -> None:
        self.target = target
        self.classes = classes
        self.rows = 0

    def __enter__(self) -> "PredictionFile":
        self._closing = contextlib.ExitStack()
        self._file: IO[str] = sys.stdout
        if self.target != "-":
            # a buffer of one line: whatever happens, what is in the file are whole rows
            file = open(self.target, "w", buffering=1, newline="", encoding="utf-8", errors="surrogateescape")
            self._file = self._closing.enter_context(file)
        self._writer = csv.writer(self._file)
        self._writer.writerow(["path", "label", "probability", *self.classes])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.target == "-" and kind is None:
            self._file.flush()
        self._closing.close()

    def add(self, found: Prediction) -> None:
        """Write a row."""
        shares = (f"{share:.6f}" for share in found.probabilities.tolist())
        self._writer.writerow([found.path, found.label, f"{found.probability:.6f}", *shares])
        self.rows += 1


def print_predictions(console: Terminal, predictions: Sequence[Prediction]) -> None:
    """Print a line for each picture, below their titles."""
    if not predictions:
        return
    rows = [("path", "label", "probability", "next best")]
    for found in predictions:
        order = np.argsort(found.probabilities)[::-1]
        second = f"{printable(found.classes[order[1]])} {found.probabilities[order[1]]:.3f}" if len(order) > 1 else ""
        rows.append((_cut(found.path), _cut(found.label), f"{found.probability:.3f}", second))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for i, (path, label, probability, second) in enumerate(rows):
        line = f"{path:{widths[0]}}  {label:{widths[1]}}  {probability:>11}  {second}".rstrip()
        console.print(line, style="" if i else "bold", soft_wrap=True)


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _WIDEST else f"...{shown[3 - _WIDEST :]}"
