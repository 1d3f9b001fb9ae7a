"""What `fit --shots`, `--curve` and `--repeats` print and draw."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from classify.charts import curve_chart, shots_chart
from classify.extrapolate import Extrapolation
from classify.protocols import Protocol, Repeats
from classify.statistics import Interval
from data.terminal import printable

_SHARED = (
    "intervals (t, corrected for the training pictures that repeats share) cover the draw of training pictures alone: "
    "all repeats are measured on the same pictures"
)


def print_repeats(console: Console, repeats: Repeats) -> None:
    """Print how far the held-out accuracy depends on the draw of the folds."""
    low, high = repeats.interval
    console.print(
        f"over {len(repeats.trainings)} seeds: cross-validated accuracy {repeats.mean:.4f}, deviation "
        f"{repeats.deviation:.4f}, mean within [{low:.4f}, {high:.4f}] (t interval; it covers the draw of the folds, "
        "not of the pictures)"
    )


def print_shots(console: Console, protocol: Protocol) -> None:
    """Print a line for each number of shots."""
    _print_points(console, protocol, "shots")


def print_curve(console: Console, protocol: Protocol, found: Extrapolation) -> None:
    """Print a line for each size, and what more pictures would give."""
    _print_points(console, protocol, "")
    for test in found.backtests:
        console.print(
            f"backtest: from up to {test.fitted_to:,} pictures a power law predicts {test.predicted:.3f} for all "
            f"{protocol.points[-1].n_train:,}, measured {test.measured:.3f}: {'passed' if test.passed else 'failed'}"
        )
    for forecast in found.forecasts:
        low, high = forecast.accuracy_ci95
        console.print(
            f"with {forecast.factor} times the pictures ({forecast.size:,}): accuracy {forecast.accuracy:.3f} "
            f"[{low:.3f}, {high:.3f}]"
        )
    if found.law is not None:
        law = found.law
        console.print(f"the law: error = {law.a:.3f} + {law.b:.3g} n^-{law.c:.2f}, if nothing but n changes")
    if found.reason:
        console.print(f"{'cannot tell' if not found.forecasts else 'cannot tell more'}: {found.reason}")


def _print_points(console: Console, protocol: Protocol, first: str) -> None:
    samples, measured = protocol.samples, protocol.measured
    console.print(
        f"{protocol.kind} on {printable(samples.dataset)}, trained on parts of {printable(samples.split or 'all')}, "
        f"measured on {printable(measured.split)}: {len(measured)} pictures, {len(samples.classes)} classes",
        style="bold",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (*([first] if first else []), "pictures", "accuracy", "deviation", "95% interval", "repeats"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("parameters")
    for point in protocol.points:
        table.add_row(
            *([str(point.size)] if first else []),
            f"{point.n_train:,}",
            f"{point.mean:.4f}",
            f"{point.deviation:.4f}" if point.deviation is not None else "-",
            _ends(point.interval),
            str(len(point.right)),
            _parameters(point.chosen, point.parameters),
        )
    console.print(table)
    for note in [_SHARED, *protocol.notes]:
        console.print(f"note: {note}")


def _parameters(chosen: str, parameters: list[dict[str, object]]) -> str:
    """Return how parameters were chosen and which, with how often each where they differ."""
    settings = [", ".join(f"{k} = {v}" for k, v in p.items()) for p in parameters]
    counts = {setting: settings.count(setting) for setting in sorted(set(settings), key=settings.index)}
    if list(counts) == [""]:
        return "none"
    shown = sorted(counts, key=lambda setting: -counts[setting])[:3]
    listed = "; ".join(f"{setting} ({counts[setting]})" if len(counts) > 1 else setting for setting in shown)
    return f"{chosen}: {listed}{'; ...' if len(counts) > len(shown) else ''}"


def _ends(interval: Interval | None) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "-"


def draw_shots(path: Path, protocol: Protocol) -> None:
    """Draw the accuracy against the number of shots as a PNG."""
    shots_chart(
        path,
        [(p.size, p.mean, p.interval, p.accuracies) for p in protocol.points],
        title=_title(protocol),
        remark="dots: draws of training pictures; band: 95% interval of their mean; one set of test pictures for all",
    )


def draw_curve(path: Path, protocol: Protocol, found: Extrapolation) -> None:
    """Draw the learning curve, with its law and forecasts where there are any, as a PNG."""
    points, fitted = protocol.points, None
    if found.law is not None:
        n = np.geomspace(points[0].n_train, found.forecasts[-1].size, 100).tolist()
        fitted = (n, found.law.accuracy(n))
    remark = f"cannot tell: {found.reason}" if found.reason else "dashed: power law; bands: 95% intervals"
    curve_chart(
        path,
        [(p.n_train, p.mean, p.interval, p.accuracies) for p in points],
        fitted=fitted,
        forecasts=[(f.size, f.accuracy, f.accuracy_ci95) for f in found.forecasts],
        title=_title(protocol),
        remark=remark,
    )


def _title(protocol: Protocol) -> str:
    return f"{protocol.kind} on {protocol.samples.dataset}, measured on {protocol.measured.split}"
