"""Charts as PNG files of 1200 x 800 pixels, in the style of `data.canvas`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.canvas import BLUE, ORANGE, QUIET, Canvas, remark_below
from data.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from classify.statistics import Interval

# Rows of a ranking that can be read in 800 pixels; more make the picture higher.
_ROWS = 24


def path_chart(
    path: Path,
    candidates: Sequence[tuple[float, float, float, float]],
    chosen: int,
    *,
    parameter: str,
    title: str,
    one_standard_error: int | None = None,
) -> None:
    """Draw held-out accuracy and log-loss along the values of a parameter.

    Parameters
    ----------
    path : Path
        The PNG file.
    candidates : sequence of tuple of float
        Value, mean accuracy, its deviation over the folds (0 where there is none) and mean log-loss of each setting.
    chosen : int
        Which of them was chosen.
    parameter, title : str
        Name of the parameter, and what stands above the chart.
    one_standard_error : int, optional
        Which of them the one-standard-error rule gives.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    order = np.argsort([c[0] for c in candidates])
    value, accuracy, deviation, loss = np.array([candidates[i] for i in order], dtype=float).T
    with Canvas(path, 2, ratios=(3, 2)) as (_, (top, bottom)):
        top.set_title(printable(title))
        if deviation.any():
            top.fill_between(value, accuracy - deviation, accuracy + deviation, color=BLUE, alpha=0.15, linewidth=0)
        for axes, series, name in ((top, accuracy, "accuracy"), (bottom, loss, "log-loss")):
            axes.plot(value, series, color=BLUE, marker="o", markersize=5, linewidth=2)
            axes.set_ylabel(f"held-out {name}")
            if (value > 0).all():
                axes.set_xscale("log")
            ticks = value[:: -(-len(value) // 8)]
            axes.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
            axes.minorticks_off()
        low, high = top.get_ylim()
        top.set_ylim(low, high + 0.25 * (high - low))  # room for what is written there
        bottom.set_xlabel(parameter)
        top.tick_params(labelbottom=False)
        marks = [(chosen, "chosen", ORANGE, 1.0)]
        if one_standard_error not in (None, chosen):
            marks.append((int(one_standard_error or 0), "one standard error", QUIET, 0.9))
        for index, name, colour, height in marks:
            at, of_it = candidates[index][0], candidates[index]
            for axes, series in ((top, of_it[1]), (bottom, of_it[3])):
                axes.axvline(at, color=colour, linewidth=1.2, linestyle="--", zorder=1)
                axes.plot([at], [series], color=colour, marker="o", markersize=11, zorder=3)
            place = list(order).index(index) / len(order)
            right = place > 0.6 or (place > 0.3 and at < candidates[chosen][0])
            top.annotate(
                f"{name}: {parameter} = {at:.3g}, accuracy {of_it[1]:.3f}",
                (at, height),
                xycoords=("data", "axes fraction"),
                xytext=(-8 if right else 8, -4),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            )
        if deviation.any():
            remark_below(bottom, "band: one deviation over the folds")


def ranking_chart(path: Path, rows: Sequence[tuple[str, float, "Interval", bool]], *, title: str, remark: str) -> None:
    """Draw the accuracy of heads with their intervals, best first.

    Parameters
    ----------
    path : Path
        The PNG file.
    rows : sequence of (str, float, tuple of float, bool)
        Name, accuracy, its interval, and whether the head ties with the best.
    title, remark : str
        What stands above and below.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    with Canvas(path, 1, height=8 * max(1, len(rows) / _ROWS)) as (_, (axes,)):
        axes.set_title(printable(title))
        spread = max(high for _, _, (_, high), _ in rows) - min(low for _, _, (low, _), _ in rows)
        for i, (_, accuracy, (low, high), tie) in enumerate(rows):
            colour = BLUE if tie else QUIET
            axes.plot([low, high], [i, i], color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
            axes.plot([accuracy], [i], color=colour, marker="o", markersize=9)
            axes.text(high + 0.015 * spread, i, f"{accuracy:.3f}", color=colour, va="center")
        axes.set_yticks(range(len(rows)), [_short(name) for name, *_ in rows])
        axes.set_ylim(max(len(rows), 6) - 0.4, -0.6)
        axes.set_xlabel("accuracy, with 95% interval")
        left, right = axes.get_xlim()
        axes.set_xlim(left, right + 0.06 * (right - left))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        remark_below(axes, remark)


def shots_chart(
    path: Path, rows: Sequence[tuple[int, float, "Interval | None", Sequence[float]]], *, title: str, remark: str
) -> None:
    """Draw the accuracy against the number of training pictures of a class.

    Parameters
    ----------
    path : Path
        The PNG file.
    rows : sequence of (int, float, tuple of float or None, sequence of float)
        Pictures of a class, mean accuracy, its interval, and the accuracy of each draw.
    title, remark : str
        What stands above and below.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    with Canvas(path, 1) as (_, (axes,)):
        axes.set_title(printable(title))
        _series(axes, rows)
        shots = [row[0] for row in rows]
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(s) for s in shots])
        axes.minorticks_off()
        axes.set_xlabel("training pictures of each class")
        axes.set_ylabel("accuracy")
        axes.margins(x=0.07, y=0.1)
        for shot, mean, interval, draws in rows:
            lowest = min([mean, *draws, *([interval[0]] if interval else [])])
            _label(axes, shot, lowest, f"{mean:.3f}", BLUE, below=True)
        remark_below(axes, remark)


def curve_chart(
    path: Path,
    rows: Sequence[tuple[int, float, "Interval | None", Sequence[float]]],
    *,
    fitted: tuple[Sequence[float], Sequence[float]] | None,
    forecasts: Sequence[tuple[int, float, "Interval"]],
    title: str,
    remark: str,
) -> None:
    """Draw a learning curve, and where its power law leads.

    Parameters
    ----------
    path : Path
        The PNG file.
    rows : sequence of (int, float, tuple of float or None, sequence of float)
        Training pictures, mean accuracy, its interval, and the accuracy of each repeat.
    fitted : tuple of sequence of float, optional
        Training pictures and accuracy along the fitted law.
    forecasts : sequence of (int, float, tuple of float)
        Training pictures, accuracy and its interval beyond the curve.
    title, remark : str
        What stands above and below.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    with Canvas(path, 1) as (_, (axes,)):
        axes.set_title(printable(title))
        _series(axes, rows)
        last, accuracy, interval, _ = rows[-1]
        axes.set_xscale("log")
        if fitted is not None:
            axes.plot(*fitted, color=ORANGE, linewidth=1.8, linestyle="--", zorder=2)
        if forecasts:
            n = [last, *(f[0] for f in forecasts)]
            low = [interval[0] if interval else accuracy, *(f[2][0] for f in forecasts)]
            high = [interval[1] if interval else accuracy, *(f[2][1] for f in forecasts)]
            axes.fill_between(n, low, high, color=ORANGE, alpha=0.15, linewidth=0)
        for i, (size, mean, (low_end, high_end)) in enumerate(forecasts):
            axes.plot([size, size], [low_end, high_end], color=ORANGE, linewidth=3, alpha=0.45)
            axes.plot([size], [mean], color=ORANGE, marker="o", markersize=9, markerfacecolor="white")
            text, below = f"{size:,}: {mean:.3f}\n[{low_end:.3f}, {high_end:.3f}]", i % 2 == 0
            _label(axes, size, low_end if below else high_end, text, ORANGE, below=below)
        top = max(interval[1] if interval else accuracy, *rows[-1][3], accuracy)
        _label(axes, last, top, f"all {last:,}: {accuracy:.3f}", BLUE, ha="right" if forecasts else "center")
        ticks = [row[0] for row in rows[-1 :: -max(1, len(rows) // 4)]] + [f[0] for f in forecasts]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("training pictures")
        axes.set_ylabel("accuracy")
        axes.margins(x=0.09, y=0.12)
        remark_below(axes, remark)


def _series(axes: "Axes", rows: Sequence[tuple[int, float, "Interval | None", Sequence[float]]]) -> None:
    """Draw means as a line, their intervals as a band, and each repeat as a faint dot."""
    sizes = [row[0] for row in rows]
    for size, _, _, draws in rows:
        axes.plot([size] * len(draws), draws, color=QUIET, marker="o", markersize=4, alpha=0.35, linewidth=0)
    known = [(row[0], *row[2]) for row in rows if row[2] is not None]
    if known:
        axes.fill_between(*np.array(known).T, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(sizes, [row[1] for row in rows], color=BLUE, marker="o", markersize=7, linewidth=2, zorder=3)


def _label(
    axes: "Axes", x: float, y: float, text: str, colour: str, *, below: bool = False, ha: str = "center"
) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(0, -10 if below else 10),
        textcoords="offset points",
        ha=ha,
        va="top" if below else "bottom",
        color=colour,
    )


def _short(name: str, limit: int = 52) -> str:
    text = printable(name)
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 2 :]}"
