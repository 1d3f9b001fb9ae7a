"""The tables that `fit` and `eval` print."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from classify.evaluate import SCORE_TITLES, Evaluation
from classify.fitting import Fitted
from classify.head import Head
from classify.head2toe import Head2ToeHead
from classify.protocols_report import print_repeats
from classify.statistics import wilson_interval
from classify.training import Training
from data.store import Samples
from data.terminal import duration, print_fitting, printable

# Above this many classes the confusion matrix is left to the JSON.
_MATRIX_CLASSES = 12
_WORST_CLASSES = 10
# Letters of a class above a column of the matrix.
_HEADING = 10
# Of more settings of several parameters than these the best are shown.
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


def print_training(console: Console, fitted: Fitted) -> None:
    """Print what was tried, what was chosen and where the head is."""
    training, n_train, views = fitted.training, len(fitted.samples), 1 + len(fitted.samples.others)
    print_features(console, fitted.samples, training.head)
    if training.along:
        _print_path(console, training)
    for note in training.notes:
        console.print(f"note: {note}")
    score = ""
    if training.cv_accuracy is not None:
        deviation = training.candidates[training.chosen].deviation
        spread = f" (deviation {deviation:.4f} between folds)" if deviation else ""
        score = f", cross-validated accuracy {training.cv_accuracy:.4f}{spread}"
    settings = ", ".join(f"{k} = {_short(v)}" for k, v in training.params.items())
    console.print(
        f"{training.kind}{f' ({settings})' if settings else ''} trained on {n_train} pictures"
        f"{f' in {views} views' if views > 1 else ''} in {duration(training.seconds)}{score}",
    )
    if fitted.corrected:
        changed, dropped = fitted.corrected["relabelled"], fitted.corrected["dropped"]
        console.print(f"labels corrected before: {changed}, pictures left out: {dropped}; the store is unchanged")
    if training.gap:
        console.print(f"its objective is within {training.gap:.0e} of the optimum, relatively (duality gap)")
    _print_calibration(console, training)
    if fitted.nested:
        around = fitted.nested
        interval = wilson_interval(around.right, around.n)
        console.print(f"nested cross-validation, the choice included: accuracy {_with(around.accuracy, interval)}")
    if fitted.repeats:
        print_repeats(console, fitted.repeats)
    console.print(f"wrote {printable(str(fitted.path))}{f' and {fitted.chart}' if fitted.chart else ''}")


def print_heads(console: Console, found: list[Fitted], refused: dict[str, str]) -> None:
    """Print one ranking of all kinds of heads, by what was held out of the training pictures."""
    held_out = {"val": "on val", "loo": "left out in turn"}.get(found[0].training.tuned_on, "cross-validated")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "head", held_out, "deviation", "log-loss", "ECE", "seconds", "setting"):
        table.add_column(column, justify="left" if column in ("head", "setting") else "right", no_wrap=True)
    for rank, fitted in enumerate(found, 1):
        training = fitted.training
        chosen = training.candidates[training.chosen] if training.candidates else None
        after = training.calibration.after if training.calibration else None
        table.add_row(
            str(rank),
            training.kind,
            f"{chosen.accuracy:.4f}" if chosen else "-",
            f"{chosen.deviation:.4f}" if chosen else "-",
            f"{after.log_loss:.4f}" if after else "-",
            f"{after.ece:.3f}" if after else "-",
            f"{training.seconds:.2f}",
            ", ".join(f"{k} = {_short(v)}" for k, v in training.params.items()),
        )
    console.print(table)
    for fitted in found:
        for note in fitted.training.notes:
            console.print(f"note: {fitted.training.kind}: {note}")
    for kind, reason in refused.items():
        console.print(f"note: {kind} was left out: {reason}")
    console.print(
        f"wrote {len(found)} heads to {printable(str(found[0].path.parent))}; the ranking is of held-out training "
        "pictures: `eval` measures them on others"
    )


def _print_path(console: Console, training: Training) -> None:
    folds = f"{training.folds}-fold cross-validation"
    source = {"cv": folds, "val": "val", "loo": "leaving each out"}[training.tuned_on]
    rule = ", one-standard-error rule" if training.rule == "one-se" else ""
    shown = training.candidates
    if len(training.along) > 1 and len(shown) > _CANDIDATES:
        shown = sorted(shown, key=lambda c: (-c.accuracy, c.log_loss))[:_CANDIDATES]
        console.print(f"the {len(shown)} best of {len(training.candidates)} settings")
    table = Table(box=None, pad_edge=False, header_style="bold")
    deviations = any(candidate.deviation for candidate in shown)
    for column in (*training.along, "accuracy", *(["deviation"] if deviations else []), "log-loss", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for candidate in shown:
        chosen = candidate.params == training.params
        row = [_short(candidate.params[name]) for name in training.along]
        row += [f"{candidate.accuracy:.4f}", *([f"{candidate.deviation:.4f}"] if deviations else [])]
        row += [f"{candidate.log_loss:.4f}", f"chosen by {source}{rule}" if chosen else ""]
        table.add_row(*row, style="bold" if chosen else "")
    console.print(table)


def _print_calibration(console: Console, training: Training) -> None:
    calibration = training.calibration
    if calibration is None or calibration.before is None or calibration.after is None or calibration.method == "none":
        return
    before, after = calibration.before, calibration.after
    console.print(
        f"probabilities by {calibration.method}, on held-out pictures: calibration error {before.ece:.3f} -> "
        f"{after.ece:.3f}, log-loss {before.log_loss:.3f} -> {after.log_loss:.3f}"
    )


def print_evaluation(console: Console, result: Evaluation) -> None:
    """Print the ranking, what can be said of the differences, and the classes of the best head."""
    names = _short_names([s.head for s in result.heads])
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(f"{result.split}: {result.n} pictures, {len(result.classes)} classes; in brackets 95% intervals")
    if print_fitting(console, _scores_table(result, names, True), _scores_table(result, names, False)):
        console.print("the intervals of the other scores: in a wider terminal, or with --json", style="dim")
    for s in result.heads:
        for note in s.notes:
            console.print(f"note: {names[s.head]}: {note}")
    for pair in result.pairs:
        verdict = pair.verdict.replace(pair.a, names[pair.a]).replace(pair.b, names[pair.b])
        console.print(
            f"{names[pair.a]} against {names[pair.b]}: {verdict} (McNemar p = {pair.p_value:.3g}"
            + (f", {pair.p_holm:.3g} over {len(result.pairs)} pairs)" if len(result.pairs) > 1 else ")"),
        )
        others = ", ".join(
            f"{SCORE_TITLES[name]} {found['difference']:+.3f} (p = {found['p_holm']:.2g})"
            for name, found in pair.bootstrap.items()
        )
        console.print(f"  by the paired bootstrap: {others}", style="dim")
    _print_classes(console, result, names[result.heads[0].head])


def _scores_table(result: Evaluation, names: dict[str, str], intervals: bool) -> Table:
    """Return the ranking, with the intervals of all scores or of the accuracy alone."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("head", overflow="fold")
    for column in ("accuracy", "balanced", "macro-F1", "log-loss", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for rank, s in enumerate(result.heads, 1):
        others = [
            (s.balanced_accuracy, s.balanced_accuracy_ci95),
            (s.macro_f1, s.macro_f1_ci95),
            (s.log_loss, s.log_loss_ci95),
        ]
        table.add_row(
            str(rank),
            printable(names[s.head]),
            _with(s.accuracy, s.accuracy_ci95),
            *(_with(score, interval) if intervals else f"{score:.3f}" for score, interval in others),
            f"{s.ece:.3f}",
        )
    return table


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
            table.add_column(f"as {_heading(name)}", justify="right", style="dim")
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


def _heading(name: str) -> str:
    """Return the name of a class, or its beginning where that is wide for the numbers below it."""
    shown = printable(name)
    return shown if len(shown) <= _HEADING else f"{shown[: _HEADING - 1].rstrip()}\u2026"


def _short_names(paths: list[str]) -> dict[str, str]:
    """Return file names for paths, where these tell them apart."""
    names = [Path(path).name for path in paths]
    return dict(zip(paths, names if len(set(names)) == len(names) else paths, strict=True))


def _with(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
