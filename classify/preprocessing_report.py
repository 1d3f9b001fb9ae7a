"""What `probe-preprocess` prints and draws."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from classify.preprocessing import OWN, Comparison, Entry
from classify.statistics import ALPHA
from data.canvas import BLUE, GRID, INK, ORANGE, QUIET, Canvas, remark_below
from data.terminal import milliseconds, printable

_WORDS = {"fit": "shape", "size": "size", "interpolation": "resizing", "colour": "colour", OWN: "the network's own"}


def print_comparison(console: Console, found: Comparison) -> None:
    """Print every way as a row of a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("changed", no_wrap=True)
    table.add_column("to", no_wrap=True)
    for column in ("accuracy", "points against own", "p (Holm)", "a picture"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for i, entry in enumerate(found.entries):
        low, high = entry.interval
        first = not i or found.entries[i - 1].factor != entry.factor
        table.add_row(
            _WORDS[entry.factor] if first else "",
            entry.name if entry.factor != OWN else "",
            f"{entry.accuracy:.3f} [{low:.3f}, {high:.3f}]",
            "" if entry.p_holm is None else _points(entry),
            "" if entry.p_holm is None else f"{entry.p_holm:.2g}",
            milliseconds(entry.milliseconds),
            {"better": "better", "worse": "worse"}.get(entry.verdict, ""),
            style="bold" if entry.verdict in (OWN, "better") else "",
        )
    console.print(table)


def verdict(found: Comparison) -> list[str]:
    """Return what to do, in sentences, the first the most important."""
    best = found.best
    if best.verdict == OWN:
        lines = [f"keep the network's own preprocessing: {_nothing_better(found)}"]
    else:
        lines = [f"use {best.flags}: {_points(best)} points, p = {best.p_holm:.2g}"]
        others = [e for e in found.entries if e.verdict == "better" and e is not best]
        if others:
            named = ", ".join(f"{entry.flags} ({100 * entry.difference:+.1f})" for entry in others)
            lines.append(f"better by themselves too: {named}; what they give together was not tried")
    worse = [entry for entry in found.entries if entry.verdict == "worse"]
    if worse:
        named = ", ".join(f"{entry.flags} ({100 * entry.difference:+.1f})" for entry in worse)
        lines.append(f"worse, and not to be used: {named}")
    return lines + _quicker(found)


def _quicker(found: Comparison) -> list[str]:
    """Return what may save time, and what might and cannot be told."""
    lines = []
    unclear: list[str] = []
    for entry in found.cheaper():
        assert entry.milliseconds is not None
        assert found.own.milliseconds is not None
        share = f"{entry.milliseconds / found.own.milliseconds:.0%}"
        if entry.as_good:
            lines.append(
                f"where time matters: {entry.flags} takes {share} of the time, and loses "
                f"{max(-100 * entry.reach[0], 0.0):.1f} points at most ({_points(entry)})"
            )
        else:
            unclear.append(f"{entry.flags} ({share} of the time, {_points(entry)} points)")
    if unclear:
        lines.append(f"quicker, but what it costs cannot be told from {found.n:,} pictures: {', '.join(unclear)}")
    return lines


def power_note(found: Comparison) -> str:
    """Say what a sample of this size can tell apart."""
    parts = []
    if found.detectable is not None:
        parts.append(f"a difference of {100 * found.detectable:.1f} points shows in four of five such samples")
    if found.pictures_for_one_point is not None:
        parts.append(f"to tell 1 point takes about {_rounded(found.pictures_for_one_point):,} pictures")
    return f"{found.n:,} pictures: {'; '.join(parts)}" if parts else f"{found.n:,} pictures"


def draw_comparison(path: Path, found: Comparison, title: str) -> None:
    """Draw the difference of every way from the network's own, with its interval.

    Parameters
    ----------
    path : Path
        The PNG file.
    found : Comparison
    title : str

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    rows = found.entries
    with Canvas(path, 1, height=max(4.4, 2.6 + 0.62 * len(rows))) as (_, (axes,)):
        axes.set_title(printable(title))
        axes.axvline(0, color=INK, linewidth=1.4, zorder=1)
        for i, entry in enumerate(rows):
            low, high = (100 * value for value in entry.reach)
            colour = {OWN: INK, "better": BLUE, "worse": ORANGE}.get(entry.verdict, QUIET)
            axes.plot([low, high], [i, i], color=colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot([100 * entry.difference], [i], color=colour, marker="o", markersize=9)
            if i and entry.factor != rows[i - 1].factor:
                axes.axhline(i - 0.5, color=GRID, linewidth=1)
            axes.annotate(
                f"{entry.accuracy:.3f}   {milliseconds(entry.milliseconds)}",
                (1.01, i),
                xycoords=("axes fraction", "data"),
                va="center",
                color=colour,
                annotation_clip=False,
            )
        names = [_WORDS[e.factor] if e.factor == OWN else f"{_WORDS[e.factor]}: {e.name}" for e in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("accuracy points against the network's own preprocessing, with 95% interval of each")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        remark_below(axes, f"{found.n:,} pictures, {found.folds} folds; grey: not told apart (McNemar, Holm, 5%)")


def _nothing_better(found: Comparison) -> str:
    if any(entry.verdict == "worse" for entry in found.entries):
        return "nothing here is better"
    return f"nothing here is distinguishable from it on {found.n:,} pictures (McNemar, Holm, {ALPHA:.0%})"


def _points(entry: Entry) -> str:
    low, high = entry.reach
    return f"{100 * entry.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _rounded(n: int) -> int:
    """Return a number to two digits."""
    scale: int = 10 ** max(len(str(n)) - 2, 0)
    return round(n / scale) * scale
