"""The tables that `fit`, `eval` and `predict` print, and the CSV of predictions."""

import contextlib
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from classify.evaluate import Evaluation
from classify.head import Head
from classify.head2toe import Head2ToeHead
from classify.selection import Training
from data.store import Samples
from data.terminal import duration, printable

# Above this many classes the confusion matrix is left to the JSON.
_MATRIX_CLASSES = 12
_WORST_CLASSES = 10
# Of more settings than these the best are shown.
_CANDIDATES = 12


def print_features(console: Console, samples: Samples, head: Head) -> None:
    """Print which features stand side by side, where there are several, and how many columns of each a head keeps."""
    if len(samples.specs) == 1:
        return
    console.print(f"{len(samples.specs)} features side by side, {sum(samples.widths)} columns")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("feature", no_wrap=True)
    table.add_column("columns", justify="right")
    kept: list[str] = []
    if isinstance(head, Head2ToeHead):
        table.add_column("kept", justify="right")
        edges = np.cumsum((0, *samples.widths))
        kept = [str(n) for n in np.histogram(head.kept_, edges - 0.5)[0].tolist()]
    for i, (spec, width) in enumerate(zip(samples.specs, samples.widths, strict=True)):
        table.add_row(printable(spec.title), str(width), *kept[i : i + 1])
    console.print(table)


def print_training(console: Console, training: Training, n_train: int, views: int, path: str) -> None:
    """Print what was tried, what was chosen and where the head is."""
    if len(training.candidates) > 1:
        names = [k for k in training.params if len({str(c.params[k]) for c in training.candidates}) > 1]
        source = {"cv": f"{training.folds}-fold cross-validation", "val": "val"}[training.tuned_on]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in (*names, "accuracy", "log-loss", ""):
            table.add_column(column, justify="left" if column == "" else "right")
        shown = training.candidates
        if len(shown) > _CANDIDATES:
            shown = sorted(shown, key=lambda c: (-c.accuracy, c.log_loss))[:_CANDIDATES]
            console.print(f"the {len(shown)} best of {len(training.candidates)} settings")
        for candidate in shown:
            chosen = candidate.params == training.params
            values = [f"{candidate.params[name]:g}" for name in names]
            row = (*values, f"{candidate.accuracy:.4f}", f"{candidate.log_loss:.4f}")
            table.add_row(*row, f"chosen by {source}" if chosen else "", style="bold" if chosen else "")
        console.print(table)
    for note in training.notes:
        console.print(f"note: {note}")
    score = f", cross-validated accuracy {training.cv_accuracy:.4f}" if training.cv_accuracy is not None else ""
    settings = ", ".join(f"{k} = {v}" for k, v in training.params.items())
    console.print(
        f"{training.kind}{f' ({settings})' if settings else ''} trained on {n_train} pictures"
        f"{f' in {views} views' if views > 1 else ''} in {duration(training.seconds)}{score}",
    )
    console.print(f"wrote {path}")


def print_evaluation(console: Console, result: Evaluation) -> None:
    """Print the ranking, what can be said of the differences, and the classes of the best head."""
    names = _short_names([s.head for s in result.heads])
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(f"{result.split}: {result.n} pictures, {len(result.classes)} classes; in brackets 95% intervals")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("head", no_wrap=True)
    for column in ("accuracy", "balanced", "macro-F1", "log-loss", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for rank, s in enumerate(result.heads, 1):
        table.add_row(
            str(rank),
            printable(names[s.head]),
            _with(s.accuracy, s.accuracy_ci95),
            _with(s.balanced_accuracy, s.balanced_accuracy_ci95),
            _with(s.macro_f1, s.macro_f1_ci95),
            _with(s.log_loss, s.log_loss_ci95),
            f"{s.ece:.3f}",
        )
    console.print(table)
    for s in result.heads:
        for note in s.notes:
            console.print(f"note: {names[s.head]}: {note}")
    for pair in result.pairs:
        verdict = pair.verdict.replace(pair.a, names[pair.a]).replace(pair.b, names[pair.b])
        console.print(
            f"{names[pair.a]} against {names[pair.b]}: {verdict} (McNemar p = {pair.p_value:.3g}"
            + (f", {pair.p_holm:.3g} over {len(result.pairs)} pairs)" if len(result.pairs) > 1 else ")"),
        )
    _print_classes(console, result, names[result.heads[0].head])


def print_predictions(console: Console, predictions: list[dict[str, Any]]) -> None:
    """Print a line for each picture."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("path", "label", "probability", "next best"):
        table.add_column(column, justify="right" if column == "probability" else "left")
    for p in predictions:
        others = sorted(((v, k) for k, v in p["probabilities"].items() if k != p["label"]), reverse=True)
        second = f"{printable(others[0][1])} {others[0][0]:.3f}" if others else ""
        table.add_row(printable(p["path"]), printable(p["label"]), f"{p['probability']:.3f}", second)
    console.print(table)


def write_csv(target: str, predictions: list[dict[str, Any]], classes: list[str]) -> None:
    """Write path, label and every class's probability to a file, or to standard output where `target` is ``-``."""
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if target != "-":
            file = stack.enter_context(open(target, "w", newline="", encoding="utf-8", errors="surrogateescape"))
        writer = csv.writer(file)
        writer.writerow(["path", "label", "probability", *classes])
        for p in predictions:
            shares = (f"{p['probabilities'][c]:.6f}" for c in classes)
            writer.writerow([p["path"], p["label"], f"{p['probability']:.6f}", *shares])


def _print_classes(console: Console, result: Evaluation, name: str) -> None:
    best = result.heads[0]
    rows = [row for row in best.per_class if row["support"]]
    worst = sorted(rows, key=lambda row: row["f1"] or 0.0)[:_WORST_CLASSES] if len(rows) > _MATRIX_CLASSES else rows
    title = f"{name}, by class" + (f" (the {len(worst)} hardest of {len(rows)})" if len(worst) < len(rows) else "")
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    table.add_column("class")
    for column in ("precision", "recall", "pictures"):
        table.add_column(column, justify="right")
    small = len(result.classes) <= _MATRIX_CLASSES
    if small:
        for name in result.classes:
            table.add_column(f"as {printable(name)[:9]}", justify="right", style="dim")
    for row in worst:
        i = result.classes.index(row["class"])
        counts = [str(c) if c else "." for c in best.confusion_matrix[i]] if small else []
        table.add_row(
            printable(row["class"]),
            _share(row["precision"]),
            _share(row["recall"]),
            str(row["support"]),
            *counts,
        )
    console.print(table)


def _short_names(paths: list[str]) -> dict[str, str]:
    """Return file names for paths, where these tell them apart."""
    names = [Path(path).name for path in paths]
    return dict(zip(paths, names if len(set(names)) == len(names) else paths, strict=True))


def _with(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
