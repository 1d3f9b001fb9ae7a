"""Epochs as a CSV, as TensorBoard's events and as a picture of the curves, each brought up to date in training."""

import csv
import dataclasses
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from data.canvas import Canvas
from data.errors import MissingDependency, how_to_install
from data.staging import write_atomically
from finetune.curves import draw_epochs
from finetune.epochs import Epoch

# A picture takes a third of a second, as long as many an epoch of a last layer alone; in seconds.
_DRAW_EVERY = 10.0
_COLUMNS = [field.name for field in dataclasses.fields(Epoch)]


class Logs:
    """Where epochs are written to.

    Parameters
    ----------
    png, csv, tensorboard : str, optional
        Files for the picture and the table (``-`` is standard output), folder of events.
    title : str
        What stands above the picture; it may be set until the first epoch is added.

    Raises
    ------
    MissingDependency
        If matplotlib or tensorboard is needed and not installed.
    """

    def __init__(
        self, png: str | None = None, csv: str | None = None, tensorboard: str | None = None, title: str = ""
    ) -> None:
        self.title = title
        self.png = png
        self.csv = csv
        self.tensorboard = tensorboard
        self.epochs: list[Epoch] = []
        self._writer: Any = None
        self._drawn = 0  # epochs that the picture shows
        self._drawn_at = 0.0

    def __enter__(self) -> "Logs":
        if self.png:
            Canvas(Path(self.png), 2).check()  # before an hour of training, not after it
        if self.csv and self.csv != "-":
            Path(self.csv).parent.mkdir(parents=True, exist_ok=True)
        if self.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                hint = f"{how_to_install('tensorboard')}, or leave out --tensorboard"
                raise MissingDependency(f"TensorBoard's events need tensorboard: {hint}") from None
            self._writer = SummaryWriter(self.tensorboard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._draw()

    def add(self, *epochs: Epoch) -> None:
        """Write one more epoch, or those that an earlier run has done."""
        self.epochs += epochs
        if self.csv:
            self._write_csv(self.csv, epochs)
        if self._writer is not None:
            for epoch in epochs:
                self._write_events(epoch)
            self._writer.flush()
        if time.monotonic() - self._drawn_at >= _DRAW_EVERY:
            self._draw()

    def _draw(self) -> None:
        if self.png and len(self.epochs) > self._drawn:
            draw_epochs(Path(self.png), self.epochs, self.title)
            self._drawn, self._drawn_at = len(self.epochs), time.monotonic()

    def _write_events(self, epoch: Epoch) -> None:
        values = {"loss/train": epoch.train_loss, "accuracy/train": epoch.train_accuracy, "lr": epoch.lr}
        values |= {} if epoch.loss is None else {"loss/held out": epoch.loss}
        values |= {} if epoch.accuracy is None else {"accuracy/held out": epoch.accuracy}
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch.number)

    def _write_csv(self, path: str, new: Sequence[Epoch]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        if path != "-" or len(new) == len(self.epochs):
            writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in (new if path == "-" else self.epochs))
        if path == "-":
            sys.stdout.write(text.getvalue())
            sys.stdout.flush()
        else:
            write_atomically(Path(path), text.getvalue().encode())
