"""What a search for the best depth found: its rungs, what became of each depth, what it cost."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.views import Skipped
from finetune.candidates import Candidate
from finetune.journal import Reached, Rights
from finetune.roster import Parts
from finetune.strategies import Strategy

ALPHA = 0.05
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Rung:
    """One comparison of depths after equal epochs.

    Parameters
    ----------
    number : int
        From 1.
    until : int
        Epochs that each depth has then been trained for.
    ran, kept : tuple of int
        The depths that were compared, and those that went on, the best first; of the last rung the chosen one.
    """

    number: int
    until: int
    ran: tuple[int, ...]
    kept: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Depth:
    """What became of one depth.

    Parameters
    ----------
    candidate : Candidate
        What it trains.
    reached : list of Reached
        How it stood at the end of each rung that it ran.
    p : float or None
        That it and the chosen depth, after as many epochs, are equally good on the held-out pictures, corrected for
        the number of depths; None for the chosen one.
    """

    candidate: Candidate
    reached: list[Reached]
    p: float | None = None

    @property
    def ties(self) -> bool:
        """Whether the held-out pictures cannot tell it from the chosen one."""
        return self.p is None or self.p > ALPHA

    @property
    def seconds(self) -> float:
        """Of its epochs."""
        return sum(epoch.seconds for epoch in self.reached[-1].epochs)

    def as_json(self, n_stages: int, rungs: Sequence[Rung]) -> dict[str, Any]:
        """Return it as `depth --json` prints it."""
        last, candidate = self.reached[-1], self.candidate
        kept_on = candidate.frozen in rungs[len(self.reached) - 1].kept
        return {
            "frozen_stages": candidate.frozen,
            "trains": "everything" if not candidate.frozen else "head" if candidate.frozen > n_stages else "partial",
            "last_frozen_layer": candidate.layer or None,
            "from": candidate.cut.layer or "pixels",
            "trained_parameters": candidate.parameters,
            "trained_multiply_adds": candidate.macs / candidate.all_macs,
            "rungs": [
                {"epochs": len(r.epochs), "accuracy": r.best.accuracy, "loss": r.best.loss, "kept_epoch": r.kept}
                for r in self.reached
            ],
            "epochs": [dataclasses.asdict(epoch) for epoch in last.epochs],
            "accuracy": last.best.accuracy,
            "loss": last.best.loss,
            "seconds": round(self.seconds, 3),
            "dropped_at_rung": None if kept_on else len(self.reached),
            "p_against_chosen": self.p,
            "ties": self.ties,
        }


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a search took, and what it saved.

    Parameters
    ----------
    passes : dict of str to int
        Pictures: ``extracted`` once up to the last cut, ``trained`` forward and backward, ``measured`` forward alone.
    seconds, epoch_seconds : float
        Of this run, and of all epochs.
    macs, macs_in_full : int
        Multiply-adds of the search's extraction and epochs, and of training every depth from pixels for as many
        epochs as the chosen one.
    estimated_seconds_in_full : float
        The time of the latter at the speed of the epochs: from multiply-adds, without what reading pictures takes.
    """

    passes: dict[str, int]
    seconds: float
    epoch_seconds: float
    macs: int
    macs_in_full: int
    estimated_seconds_in_full: float


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Parameters
    ----------
    backbone : str
    strategy : Strategy
        Of the chosen depth.
    stages : tuple of str
        Of the network.
    parts : Parts
        Which pictures trained, chose and measured.
    rungs : list of Rung
    depths : list of Depth
        The least frozen first.
    chosen : Depth
    held_out_interval : tuple of float
        Of the chosen depth's accuracy on the pictures that chose it.
    right : ndarray of shape (n,), bool
        Which of the measured pictures it gets right.
    interval : tuple of float
        Of its accuracy on them.
    checkpoint : Path or None
        Where it was written to.
    cost : Cost
    resumed : bool
        Whether an earlier run had begun.
    skipped, notes : list
        As for `finetune.tuning.Tuning`.
    """

    backbone: str
    strategy: Strategy
    stages: tuple[str, ...]
    parts: Parts
    rungs: list[Rung]
    depths: list[Depth]
    chosen: Depth
    held_out_interval: Interval
    right: Rights
    interval: Interval
    checkpoint: Path | None
    cost: Cost
    resumed: bool
    skipped: list[Skipped]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as `depth --json` prints it."""
        n = len(self.stages)
        return {
            "backbone": self.backbone,
            "strategy": dataclasses.asdict(self.strategy),
            "stages": list(self.stages),
            "n_train": len(self.parts.train),
            "chosen_on": self.parts.chosen_on,
            "n_choose": len(self.parts.choose),
            "rungs": [dataclasses.asdict(rung) for rung in self.rungs],
            "depths": [depth.as_json(n, self.rungs) for depth in self.depths],
            "chosen": self.chosen.candidate.frozen,
            "held_out_accuracy": self.chosen.reached[-1].best.accuracy,
            "held_out_ci95": list(self.held_out_interval),
            "ties": [d.candidate.frozen for d in self.depths if d.ties and d is not self.chosen],
            "split": self.parts.measured_on,
            "n": len(self.right),
            "accuracy": float(self.right.mean()),
            "accuracy_ci95": list(self.interval),
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "cost": dataclasses.asdict(self.cost),
            "resumed": self.resumed,
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
            "notes": self.notes,
        }
