"""What a page shows of heads, curves and image sets, as JSON: arrays where there are many, rounded to what is seen."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.artifact import TrainedHead
from classify.calibration import error_by_chance
from classify.carried import same
from classify.evaluate import SCORE_TITLES, Measured, Pair, Scores
from classify.extrapolate import Extrapolation
from classify.head import Floats
from classify.protocols import Protocol
from classify.statistics import ALPHA, wilson_interval
from data.views import View

_BINS = 15  # as the calibration error has them


def short_names(paths: list[str]) -> list[str]:
    """Return file names for paths where these tell them apart, without ``.head``."""
    names = [Path(path).name.removesuffix(".head") for path in paths]
    return names if len(set(names)) == len(names) else paths


def head_table(scores: Scores, measured: Measured, name: str, verdict: str) -> dict[str, Any]:
    """Return all that is shown of one head, but for its answers to single pictures."""
    info = measured.head.info
    fields = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
    correct = scores.correct
    return {
        "name": name,
        "file": measured.head.name,
        "kind": scores.kind,
        "verdict": verdict,
        **{field: [getattr(scores, field), *getattr(scores, f"{field}_ci95")] for field in fields},
        "ece": scores.ece,
        "ece_by_chance": error_by_chance(measured.probabilities),
        "notes": scores.notes,
        "right": int(correct.sum()),
        "confusion": _sparse(np.array(scores.confusion_matrix)),
        "classes": [_class_row(row) for row in scores.per_class],
        "calibration": reliability(measured.probabilities, correct),
        "path": path_table(measured.head),
        "cv_accuracy": info["selection"].get("cv_accuracy"),
        "n_train": info["trained_on"].get("n"),
    }


def _sparse(matrix: npt.NDArray[np.int64]) -> list[list[int]]:
    rows, columns = np.nonzero(matrix)
    return [list(map(int, cell)) for cell in zip(rows, columns, matrix[rows, columns], strict=True)]


def _class_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a class's scores, its recall and precision with Wilson's intervals."""
    found = {key: row[key] for key in ("precision", "recall", "f1", "support")}
    if row["support"]:
        found["recall_ci95"] = wilson_interval(round(row["recall"] * row["support"]), row["support"])
    if row["precision"]:
        right = round((row["recall"] or 0) * row["support"])
        found["precision_ci95"] = wilson_interval(right, round(right / row["precision"]))
    return found


def reliability(probabilities: Floats, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return for each bin of confidence that holds pictures how often its answers are right.

    Examples
    --------
    >>> found = reliability(np.array([[0.9, 0.1], [0.95, 0.05]]), np.array([True, False]))
    >>> [(bin["n"], bin["accuracy"]) for bin in found]
    [(1, 1.0), (1, 0.0)]
    """
    confidence = probabilities.max(axis=1)
    number = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = []
    for i in np.unique(number).tolist():
        inside = number == i
        n, right = int(inside.sum()), int(correct[inside].sum())
        bins.append(
            {
                "low": i / _BINS,
                "high": (i + 1) / _BINS,
                "n": n,
                "confidence": float(confidence[inside].mean()),
                "accuracy": right / n,
                "ci95": wilson_interval(right, n),
            }
        )
    return bins


def path_table(head: TrainedHead) -> dict[str, Any] | None:
    """Return what was tried before a head was chosen; None where nothing was."""
    candidates = head.info["selection"].get("candidates", [])
    if len(candidates) < 2:
        return None
    along = [key for key in candidates[0]["params"] if len({str(c["params"][key]) for c in candidates}) > 1]
    params = head.info["params"]
    chosen = [i for i, c in enumerate(candidates) if all(same(params.get(k), v) for k, v in c["params"].items())]
    return {
        "along": along,
        "chosen": chosen[0] if chosen else None,
        "tuned_on": head.info["selection"]["tuned_on"],
        "folds": head.info["selection"].get("folds"),
        "points": [
            {
                "value": [c["params"][key] for key in along],
                "accuracy": c["accuracy"],
                "deviation": c.get("deviation", 0.0),
                "log_loss": c["log_loss"],
            }
            for c in candidates
        ],
    }


def pair_table(pair: Pair, names: dict[str, str]) -> dict[str, Any]:
    """Return one paired comparison by the names that the page uses."""
    return {
        "a": names[pair.a],
        "b": names[pair.b],
        "p": pair.p_value,
        "p_holm": pair.p_holm,
        "verdict": pair.verdict.replace(pair.a, names[pair.a]).replace(pair.b, names[pair.b]),
        "real": pair.p_holm < ALPHA,
        "others": [{"what": title, **pair.bootstrap[key]} for key, title in SCORE_TITLES.items()],
    }


def curve_table(protocol: Protocol, found: Extrapolation, name: str) -> dict[str, Any]:
    """Return a learning curve and where it leads."""
    return {
        "head": name,
        "on": protocol.measured.split,
        "points": [
            {"n": p.n_train, "accuracy": p.mean, "ci95": p.interval, "draws": p.accuracies} for p in protocol.points
        ],
        "forecasts": [{"n": f.size, "accuracy": f.accuracy, "ci95": f.accuracy_ci95} for f in found.forecasts],
        "law": found.law and [found.law.a, found.law.b, found.law.c],
        "reason": found.reason,
        "notes": protocol.notes,
    }


def dataset_table(view: View, targets: npt.NDArray[np.int32], splits: list[str]) -> dict[str, Any]:
    """Return the statistics of an image set: its classes in each split, files, copies and what was skipped."""
    column = np.array([splits.index(split) for split in view.splits.tolist()], dtype=np.int64)
    counts = np.zeros((len(view.classes) + 1, len(splits)), dtype=np.int64)  # the last row: no label, target -1
    np.add.at(counts, (targets, column), 1)
    known = view.sizes[view.sizes >= 0]
    of_class = counts[:-1].sum(axis=1)
    return {
        "root": view.root,
        "pictures": len(view.paths),
        "counts": counts[:-1].tolist(),
        "unlabelled": int(counts[-1].sum()),
        "contents": len(np.unique(view.digests)),
        "bytes": int(known.sum()),
        "size": np.percentile(known, [0, 50, 100], method="nearest").tolist() if len(known) else None,
        "imbalance": float(of_class.max() / of_class.min()) if len(of_class) and of_class.min() else None,
        "skipped": [{"path": s.path, "reason": s.reason} for s in view.skipped],
        "split_rule": view.split_rule,
        "info": "" if view.root.startswith("object:") else shlex.join(["penult", "info", view.source or view.root]),
    }
