"""What a fine-tuning gave, and its JSON."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.views import Skipped
from finetune.epochs import Epoch
from finetune.roster import Parts
from finetune.steps import Floats
from finetune.strategies import Strategy

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What a fine-tuning gave.

    Parameters
    ----------
    checkpoint : Path
    strategy : Strategy
    backbone, fingerprint : str
        The network, and the fingerprint of its penultimate features now.
    n_stages, frozen : int
        Stages of the network, and how many of them were not trained.
    parts : Parts
        Which pictures were used for what.
    classes : list of str
    targets : ndarray of shape (n,), int64
        Of the pictures measured on.
    scores : ndarray of shape (n, k), float32
        What the network says of them.
    before : float or None
        Accuracy on them before any training, where the last layer did not start at random.
    epochs : list of Epoch
    kept, resumed : int
        As in `finetune.epochs.Trained`.
    passes : dict of str to int
        Pictures that went through the network: ``extracted`` once through its frozen part, ``trained`` forward and
        backward through what is trained, ``measured`` forward alone.
    cost : float
        The same in pictures that go once, forward, through all of it: a step of training counts as three.
    seconds : float
        In all, of this run.
    saved_seconds : float
        Of earlier runs, to compute activations that were there already.
    cached : str
        Layer whose activations were kept; empty where all of the network was run in every epoch.
    skipped : list of Skipped
    notes : list of str
    """

    checkpoint: Path
    strategy: Strategy
    backbone: str
    fingerprint: str
    n_stages: int
    frozen: int
    parts: Parts
    classes: list[str]
    targets: Array
    scores: Floats
    before: float | None
    epochs: list[Epoch]
    kept: int
    resumed: int
    passes: dict[str, int]
    cost: float
    seconds: float
    saved_seconds: float
    cached: str
    skipped: list[Skipped]
    notes: list[str]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which of the pictures measured on it classifies rightly, (n,)."""
        answers: npt.NDArray[np.bool_] = self.scores.argmax(axis=1) == self.targets
        return answers

    def as_json(self) -> dict[str, Any]:
        """Return the results as `finetune --json` prints them."""
        best = self.epochs[self.kept - 1]
        return {
            "checkpoint": str(self.checkpoint),
            "mode": self.strategy.mode,
            "backbone": self.backbone,
            "fingerprint": self.fingerprint,
            "strategy": dataclasses.asdict(self.strategy),
            "stages": self.n_stages,
            "frozen_stages": self.frozen,
            "cached": self.cached,
            "n_train": len(self.parts.train),
            "chosen_on": self.parts.chosen_on,
            "n_choose": len(self.parts.choose),
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            "kept_epoch": self.kept,
            "resumed_epochs": self.resumed,
            "best_accuracy": best.accuracy,
            "split": self.parts.measured_on,
            "n": len(self.targets),
            "accuracy": float(self.right.mean()),
            "accuracy_before_training": self.before,
            "passes": self.passes,
            "cost": round(self.cost, 1),
            "seconds": round(self.seconds, 3),
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
            "notes": self.notes,
        }
