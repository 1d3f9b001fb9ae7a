"""What is trained, on what: all that the loop knows of networks and pictures."""

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import nn

from finetune.roster import Rows
from finetune.surgery import Depths, Freezing, Tuned


class Source(Protocol):
    """What a network is fed with."""

    def batches(self, groups: Sequence[Rows], epoch: int | None = None) -> Generator[npt.NDArray[Any], None, None]:
        """Yield an array for each group of rows; `epoch` decides what is random, without one nothing is."""

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Return what the network takes, from an array on the device."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What is trained, on what.

    Parameters
    ----------
    network : Tuned
        Whose weights are kept; on the runner's device.
    path : Module
        From what `source` gives to scores (B, k): the network itself, or that part of it which is not cached.
    freezing : Freezing
        What of it is not trained.
    depths : Depths
        For learning rates by stage.
    n_stages : int
        How many there are.
    source : Source
        Gives inputs by row.
    targets : ndarray of shape (n,), int64
        Of every row.
    train, choose : ndarray of int64
        Rows to learn from, and rows that choose the epoch (none: the last is kept).
    """

    network: Tuned
    path: nn.Module
    freezing: Freezing
    depths: Depths
    n_stages: int
    source: Source
    targets: Rows
    train: Rows
    choose: Rows
