"""What a search that was stopped leaves behind: how each depth stood at the end of each rung, as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import TrainingError
from data.staging import write_atomically
from finetune.epochs import Epoch

Rights = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Reached:
    """How a training stood after some epochs.

    Parameters
    ----------
    epochs : list of Epoch
        In order.
    kept : int
        Number of the best one.
    right : ndarray of shape (n,), bool
        Which of the pictures that choose its weights get right.
    """

    epochs: list[Epoch]
    kept: int
    right: Rights

    @property
    def best(self) -> Epoch:
        """The epoch whose weights count."""
        return self.epochs[self.kept - 1]

    @property
    def merit(self) -> tuple[float, float]:
        """What is compared; see `finetune.epochs.Epoch`."""
        return self.best.merit


class Journal:
    """How depths stood, in a folder beside the states of their trainings.

    Parameters
    ----------
    folder : Path
        Made when the first entry is written.
    request : str
        Names everything that decides the result; a journal of another request is not taken up.
    """

    def __init__(self, folder: Path, request: str) -> None:
        self.folder = folder
        self.request = request
        self._entries: list[dict[str, Any]] = []

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "search.json"

    def read(self) -> None:
        """Take up what an earlier run wrote; make the folder.

        Raises
        ------
        TrainingError
            If it is of another search, or damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._write()
            return
        try:
            content = json.loads(self.path.read_text())
            request, self._entries = content["request"], content["reached"]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f"{self.path} is no journal of a search: remove {self.folder} to start anew") from None
        if request != self.request:
            raise TrainingError(
                f"{self.folder} is of a search with other options or pictures: run that one to its end, or remove the "
                "folder to start anew"
            )

    def find(self, frozen: int, until: int) -> Reached | None:
        """Return how a depth stood after so many epochs, if an earlier run got there."""
        for entry in self._entries:
            if entry["frozen"] == frozen and len(entry["epochs"]) == until:
                right = np.array([mark == "1" for mark in entry["right"]], dtype=np.bool_)
                return Reached([Epoch(**epoch) for epoch in entry["epochs"]], entry["kept"], right)
        return None

    def add(self, frozen: int, reached: Reached) -> None:
        """Write how a depth stands."""
        entry = {
            "frozen": frozen,
            "kept": reached.kept,
            "right": "".join("01"[int(right)] for right in reached.right),
            "epochs": [dataclasses.asdict(epoch) for epoch in reached.epochs],
        }
        self._entries.append(entry)
        self._write()

    def _write(self) -> None:
        content = json.dumps({"request": self.request, "reached": self._entries})
        write_atomically(self.path, content.encode())
