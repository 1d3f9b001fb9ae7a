"""What training a head gives: the settings that were tried, the one that was chosen, the head."""

import dataclasses
from typing import Any

import numpy as np

from classify.calibration import Calibration
from classify.head import Head
from classify.trials import Scaler


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One setting that was tried.

    Parameters
    ----------
    params : dict
        Its parameters.
    accuracy, log_loss : float
        On held-out pictures, all folds together; the accuracy is balanced where classes weigh the same.
    deviation : float
        Of the accuracy between folds (n - 1 in the denominator); zero where nothing or one thing was held out.
    gap : float
        How far its objective may be above the optimum, relatively, at most over the folds.
    """

    params: dict[str, Any]
    accuracy: float
    log_loss: float
    deviation: float = 0.0
    gap: float = 0.0


@dataclasses.dataclass(frozen=True)
class Training:
    """A trained head and how it came about.

    Parameters
    ----------
    kind : str
        Key of `classify.heads.HEADS`.
    head : Head
        Fitted on the standardised training vectors.
    scaler : Scaler
        The standardisation.
    params : dict
        The chosen parameters.
    candidates : list of Candidate
        Everything that was tried; empty where no picture could be held out to try it on.
    cv_accuracy : float or None
        Accuracy over all held-out folds at the chosen parameters, the highest of all settings and so a little
        optimistic (`nested` says by how much); balanced accuracy where classes weigh the same; None where val chose.
    tuned_on : str
        ``cv``, ``val``, ``loo`` or ``none``.
    rule : str
        ``best`` or ``one-se``.
    folds, seed : int
        Of the cross-validation.
    calibration : Calibration or None
        How its scores become probabilities, and the error before and after, on what was held out.
    gap : float or None
        How far the final objective may be above its optimum, relatively; None where nothing is minimised.
    seconds : float
        Wall time.
    notes : list of str
        What a user would want to know.
    """

    kind: str
    head: Head
    scaler: Scaler
    params: dict[str, Any]
    candidates: list[Candidate]
    cv_accuracy: float | None
    tuned_on: str
    folds: int
    seed: int
    seconds: float
    notes: list[str]
    rule: str = "best"
    gap: float | None = None
    calibration: Calibration | None = None

    @property
    def chosen(self) -> int:
        """The number of the chosen candidate."""
        return next((i for i, c in enumerate(self.candidates) if c.params == self.params), 0)

    @property
    def along(self) -> list[str]:
        """The parameters that the candidates differ in."""
        return [k for k in self.params if len({str(c.params[k]) for c in self.candidates}) > 1]

    @property
    def one_standard_error(self) -> int | None:
        """The candidate that the one-standard-error rule gives; None where folds say nothing of errors."""
        if self.tuned_on != "cv" or self.folds < 2:
            return None
        return within_one_standard_error(self.candidates, best_of(self.candidates), self.folds)

    def as_json(self) -> dict[str, Any]:
        """Return all but the arrays, as `fit --json` prints it."""
        calibration = self.calibration
        return {
            "kind": self.kind,
            "params": self.params,
            "cv_accuracy": self.cv_accuracy,
            "tuned_on": self.tuned_on,
            "rule": self.rule,
            "folds": self.folds,
            "candidates": [vars(candidate) for candidate in self.candidates],
            "calibration": calibration
            and {
                "method": calibration.method,
                "before": calibration.before and vars(calibration.before),
                "after": calibration.after and vars(calibration.after),
            },
            "objective_gap": self.gap,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }


def best_of(candidates: list[Candidate]) -> int:
    """Return the highest accuracy, of equal ones the lowest log-loss, of equal ones the first."""
    return min(range(len(candidates)), key=lambda i: (-candidates[i].accuracy, candidates[i].log_loss, i))


def within_one_standard_error(candidates: list[Candidate], best: int, n_folds: int) -> int:
    """Return the strongest regularisation whose accuracy is within one standard error of the best one's."""
    enough = candidates[best].accuracy - candidates[best].deviation / np.sqrt(max(n_folds, 1))
    return next(i for i, candidate in enumerate(candidates) if candidate.accuracy >= enough)
