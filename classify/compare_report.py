"""What `compare` prints: a ranking for each image set, the tests against the best, and what they could have seen."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from classify.charts import ranking_chart
from classify.evaluate import SCORE_TITLES
from classify.ranking import Ranking
from classify.statistics import LARGE
from data.terminal import duration, milliseconds, print_fitting, printable, size
from data.words import counted

_SCORES = ("accuracy", "log-loss", "ECE")
_COSTS = ("extract", "fit", "predict", "head", "a picture")
_TEST = "against the best"


def print_ranking(console: Console, ranking: Ranking) -> None:
    """Print one image set's ranking and what can be said of it."""
    on = {entry.name.partition(" on ")[2] for entry in ranking.entries}
    same = f" on {on.pop()}" if len(on) == 1 else ""  # what the rows then need not repeat
    what = f"{ranking.dataset}, {ranking.split}: {ranking.n} pictures, {len(ranking.classes)} classes{same}"
    console.print(printable(f"{what}; accuracy with 95% interval"), style="bold")
    whole = _ranking_table(ranking, same, (*_SCORES, *_COSTS, _TEST))
    if print_fitting(console, whole, _ranking_table(ranking, same, (*_SCORES, _TEST))):
        console.print()
        console.print(_ranking_table(ranking, same, _COSTS))
    _print_tests(console, ranking, same)
    for line in conclusions(ranking):
        console.print(line)
    for note in ranking.notes:
        console.print(f"note: {printable(note)}")


def _ranking_table(ranking: Ranking, same: str, columns: tuple[str, ...]) -> Table:
    """Return a row for each head, with these columns; `same` is left out of the end of their names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("head" if same else "head on features", overflow="fold")
    for column in columns:
        table.add_column(column, justify="left" if column == _TEST else "right", no_wrap=True)
    p_values = {pair.b: pair.p_holm for pair in ranking.pairs}
    for place, entry in enumerate(ranking.entries, 1):
        s = entry.scores
        cells = {
            "accuracy": f"{s.accuracy:.3f} [{s.accuracy_ci95[0]:.3f}, {s.accuracy_ci95[1]:.3f}]",
            "log-loss": f"{s.log_loss:.3f}",
            "ECE": f"{s.ece:.3f}",
            "extract": milliseconds(entry.extract_milliseconds),
            "fit": duration(entry.fit_seconds),
            "predict": f"{entry.predict_microseconds:.3g} us",
            "head": size(entry.head_bytes),
            "a picture": size(entry.feature_bytes),
            _TEST: "" if place == 1 else f"{'tie' if entry.tie else 'worse'}, p = {p_values[entry.name]:.2g}",
        }
        style = "" if entry.tie else "dim"
        name = printable(entry.name.removesuffix(same))
        table.add_row(str(place), name, *(cells[column] for column in columns), style=style)
    return table


def _print_tests(console: Console, ranking: Ranking, same: str) -> None:
    """Print how the heads that tie differ from the best in the other scores, with corrected p-values."""
    ties = {entry.name for entry in ranking.entries if entry.tie}
    pairs = [pair for pair in ranking.pairs if pair.b in ties]
    if not pairs:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("best less", overflow="fold")
    for name in pairs[0].bootstrap:
        table.add_column(SCORE_TITLES[name], justify="right", no_wrap=True)
    for pair in pairs:
        cells = (f"{found['difference']:+.3f}, p = {found['p_holm']:.2f}" for found in pair.bootstrap.values())
        table.add_row(printable(pair.b.removesuffix(same)), *cells)
    console.print()
    console.print(table)


def conclusions(ranking: Ranking) -> list[str]:
    """Return in sentences which heads tie, what would separate the two best, and how far the best flatters itself."""
    if ranking.separation is None:
        return []
    found = ranking.separation
    ties = sum(entry.tie for entry in ranking.entries) - 1
    of_others = f"{ties} of the {len(ranking.pairs)} others" if len(ranking.pairs) > 1 else "The other" * bool(ties)
    group = f"{of_others} cannot be told from the best" if ties else "The best is better than all others"
    lines = [f"{group} (McNemar's exact test, Holm's correction over {counted(len(ranking.pairs), 'pair')})."]
    if found.pictures is None:
        separate = "No number of test pictures would separate the two best: here they are equal."
    else:
        number = f"{found.pictures:,}" if found.pictures <= LARGE else f"more than {LARGE:,}"
        separate = (
            f"To separate the two best ({found.difference:+.4f}) would take {number} test pictures like these "
            "(80% power, alpha 0.05; Connor 1987, made exact)."
        )
    if found.discordant == 0:
        detect = "They are right and wrong on the same pictures."
    else:
        detect = f"One of the two alone is right on {100 * found.discordant:.1f}% of the pictures; at that rate " + (
            f"these {ranking.n} would show a difference of {found.detectable:.3f}."
            if found.detectable is not None
            else f"these {ranking.n} are too few to show any difference."
        )
    lines.append(f"{separate} {detect}")
    lines.append(
        f"This is a measurement: nothing was chosen on {ranking.split}. If you now take the best for its figure, "
        f"that figure is optimistic by about {max(ranking.optimism, 0):.3f} (bootstrap), so expect "
        f"{ranking.entries[0].scores.accuracy - max(ranking.optimism, 0):.3f} on new pictures."
    )
    return lines


def draw_rankings(path: Path, rankings: list[Ranking]) -> list[Path]:
    """Draw each ranking on a PNG of its own: the path as it is, then with -2, -3, ... before its end."""
    paths = []
    for number, ranking in enumerate(rankings, 1):
        target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        ranking_chart(
            target,
            [(e.name, e.scores.accuracy, e.scores.accuracy_ci95, e.tie) for e in ranking.entries],
            title=f"{ranking.dataset}, {ranking.split}: {ranking.n} pictures",
            remark="blue: cannot be told from the best (McNemar's exact test, Holm's correction)",
        )
        paths.append(target)
    return paths
