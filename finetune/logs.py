"""Epochs as a CSV, as TensorBoard's events and as a picture of the curves, each brought up to date after an epoch."""

import csv
import dataclasses
import io
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from data.canvas import Canvas
from data.errors import MissingDependency
from data.staging import write_atomically
from finetune.curves import draw_epochs
from finetune.trainer import Epoch

_COLUMNS = [field.name for field in dataclasses.fields(Epoch)]


class Logs:
    """Where epochs are written to.

    Parameters
    ----------
    title : str
        What stands above the picture.
    png, csv, tensorboard : str, optional
        Files for the picture and the table (``-`` is standard output), folder of events.

    Raises
    ------
    MissingDependency
        If matplotlib or tensorboard is needed and not installed.
    """

    def __init__(
        self, title: str, png: str | None = None, csv: str | None = None, tensorboard: str | None = None
    ) -> None:
        self.title = title
        self.png = png
        self.csv = csv
        self.tensorboard = tensorboard
        self._epochs: list[Epoch] = []
        self._writer: Any = None

    def __enter__(self) -> "Logs":
        if self.png:
            Canvas(Path(self.png), 2).check()  # before an hour of training, not after it
        if self.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingDependency(
                    "TensorBoard's events need tensorboard: install it with `pip install tensorboard`"
                ) from None
            self._writer = SummaryWriter(self.tensorboard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, epoch: Epoch) -> None:
        """Write one more epoch."""
        self._epochs.append(epoch)
        if self.csv:
            self._write_csv(self.csv)
        if self._writer is not None:
            values = {"loss/train": epoch.train_loss, "accuracy/train": epoch.train_accuracy, "lr": epoch.lr}
            values |= {} if epoch.loss is None else {"loss/held out": epoch.loss}
            values |= {} if epoch.accuracy is None else {"accuracy/held out": epoch.accuracy}
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch.number)
            self._writer.flush()
        if self.png:
            draw_epochs(Path(self.png), self._epochs, self.title)

    def _write_csv(self, path: str) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        rows = [dataclasses.asdict(epoch) for epoch in self._epochs]
        if path == "-":
            if len(rows) == 1:
                writer.writeheader()
            writer.writerow(rows[-1])
            sys.stdout.write(text.getvalue())
            sys.stdout.flush()
            return
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(Path(path), text.getvalue().encode())
