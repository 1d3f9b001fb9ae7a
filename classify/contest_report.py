"""What `compare --strategies` prints and draws."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from classify.contest import FROZEN, Contest, Difference, Judgement
from classify.statistics import ALPHA
from data.canvas import BLUE, ORANGE, QUIET, Canvas
from data.terminal import duration, printable

_TITLES = {"lr": "frozen + lr", "svm": "frozen + svm", "mlp": "frozen + mlp", "head2toe": "frozen + head2toe"}


def title_of(strategy: str) -> str:
    """Return how tables call a strategy."""
    return _TITLES.get(strategy, strategy)


def print_contest(console: Console, contest: Contest) -> None:
    """Print one image set in one colour mode as a table."""
    seeds = len(contest.entries[0].runs)
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    console.print(
        f"{printable(contest.dataset)}, {contest.color}, {contest.backbone}: trained on {contest.n_train} pictures of "
        f"{contest.n_classes} classes, measured on {contest.n} of {contest.split}; accuracy with 95% interval{over}",
        style="bold",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("strategy", no_wrap=True)
    columns = ["accuracy", *(["over seeds", "first"] if seeds > 1 else []), "against the best", "time", "pictures"]
    for column in columns:
        table.add_column(column, justify="left" if column.startswith("against") else "right", no_wrap=True)
    for place, entry in enumerate(contest.entries, 1):
        low, high = entry.interval
        accuracies = [run.accuracy for run in entry.runs]
        spread = [f"{min(accuracies):.3f} to {max(accuracies):.3f}", f"{entry.wins} of {seeds}"] if seeds > 1 else []
        table.add_row(
            str(place),
            title_of(entry.strategy),
            f"{entry.accuracy:.3f} [{low:.3f}, {high:.3f}]",
            *spread,
            "" if entry.p_holm is None else f"{entry.verdict}, p = {entry.p_holm:.2g}",
            duration(entry.seconds),
            f"{entry.cost:,.0f}",
            style="" if entry.verdict != "worse" else "dim",
        )
    console.print(table)
    for strategy, reason in contest.refused.items():
        console.print(f"left out: {title_of(strategy)}: {printable(reason)}")


def print_differences(console: Console, differences: Sequence[Difference]) -> None:
    """Print what colour is worth."""
    if not differences:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title="what colour is worth", title_justify="left")
    for column in ("image set", "strategy", "colour", "grey", "difference"):
        table.add_column(column, justify="right" if column in ("colour", "grey") else "left", no_wrap=True)
    for d in differences:
        seen = f", {d.p_holm:.2g} over {len(differences)}" if len(differences) > 1 else ""
        seen += "" if d.p_holm < ALPHA else ", a tie"
        table.add_row(
            printable(d.dataset),
            title_of(d.strategy),
            f"{d.rgb:.3f}",
            f"{d.gray:.3f}",
            f"{100 * (d.rgb - d.gray):+.1f} points (McNemar p = {d.p_value:.2g}{seen})",
        )
    console.print(table)


def print_judgement(console: Console, judgement: Judgement) -> None:
    """Print what was advised, and what came of it."""
    low, high = judgement.interval
    console.print(f"advice for {printable(judgement.dataset)}: {printable(judgement.sentence)}")
    if judgement.measured is not None:
        where = "inside" if judgement.kept else "outside"
        console.print(
            f"  expected of fine-tuning {judgement.expected:+.1f} points [{low:+.1f}, {high:+.1f}]; measured "
            f"{judgement.measured:+.1f}: {where} the 80% interval"
        )
    if judgement.ties is not None:
        how = "is the best here or ties with it" if judgement.ties else "is worse than the best here"
        console.print(f"  the strategy that it names ({judgement.strategy}) {how}")


def draw_contests(path: Path, contests: Sequence[Contest]) -> None:
    """Draw every contest: accuracies with their intervals, the best on top, frozen features and fine-tuning apart.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    heights = tuple(len(contest.entries) + 2.0 for contest in contests)
    with Canvas(path, len(contests), height=max(4.0, 0.42 * sum(heights) + 1.2), ratios=heights) as (_, panels):
        for axes, contest in zip(panels, contests, strict=True):
            entries = contest.entries[::-1]
            for y, entry in enumerate(entries):
                low, high = entry.interval
                colour = BLUE if entry.strategy in FROZEN else ORANGE
                axes.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.5)
                accuracies = [run.accuracy for run in entry.runs]
                if len(accuracies) > 1:
                    axes.plot(accuracies, [y] * len(accuracies), "|", color=QUIET, markersize=9)
                axes.plot([entry.accuracy], [y], "o", color=colour, markersize=8)
            axes.set_yticks(range(len(entries)), [title_of(entry.strategy) for entry in entries])
            axes.set_ylim(-0.7, len(entries) - 0.3)
            axes.grid(axis="y", visible=False)
            axes.set_title(printable(f"{contest.dataset}, {contest.color}"))
        panels[-1].set_xlabel("accuracy with 95% interval; blue: on frozen features, orange: the network is trained")
