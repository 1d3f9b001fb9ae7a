"""What a search for the best depth prints and draws."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.canvas import BLUE, GRID, ORANGE, QUIET, Canvas, remark_below
from data.terminal import ProgressDisplay, duration, printable

if TYPE_CHECKING:
    from rich.console import Console

    from finetune.depth_results import Depth, Rung, Search
    from finetune.epochs import Epoch
    from finetune.journal import Reached


def show_epoch(display: ProgressDisplay, frozen: int, epoch: "Epoch", done: int, total: int) -> None:
    """Show that one more epoch of one depth is done."""
    if display.what != "epochs":
        display.count("epochs")
    display.update(done, total)
    display.remark(f"freeze {frozen}, epoch {epoch.number}: accuracy {epoch.accuracy or 0.0:.3f}")


def print_rung(console: "Console", rung: "Rung", stand: "Mapping[int, Reached]") -> None:
    """Print what one comparison decided."""
    going_on = ", ".join(f"{frozen} ({stand[frozen].best.accuracy:.3f})" for frozen in rung.kept)
    dropped = [frozen for frozen in rung.ran if frozen not in rung.kept]
    out = ", ".join(f"{frozen} ({stand[frozen].best.accuracy:.3f})" for frozen in dropped)
    verb = "go on" if len(rung.kept) > 1 else "is left"
    console.print(f"rung {rung.number}, {_epochs(rung.until)}: freeze {going_on} {verb}; dropped: {out}")


def print_search(console: "Console", search: "Search") -> None:
    """Print the table of depths, which one was chosen, how sure that is, how good it is and what it cost."""
    from rich.table import Table

    for item in search.skipped:
        console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
    for note in search.notes:
        console.print(f"note: {printable(note)}")
    if search.resumed:
        console.print("went on with an earlier run's search")
    parts = search.parts
    console.print(
        f"\n{search.backbone}: {len(parts.train)} pictures train, {_chosen_on(search)} choose the depth", style="bold"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("freeze", "last frozen layer", "parameters", "multiply-adds", "fed with", "epochs", "accuracy"):
        left = column in ("last frozen layer", "fed with")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for column in ("loss", "time", "outcome"):
        table.add_column(column, justify="left" if column == "outcome" else "right", no_wrap=column != "outcome")
    for depth in search.depths:
        candidate, last = depth.candidate, depth.reached[-1]
        table.add_row(
            str(candidate.frozen),
            candidate.layer or "none",
            _share(candidate.parameters),
            _share(candidate.macs / candidate.all_macs),
            "activations" if candidate.cut.layer else "pixels",
            str(len(last.epochs)),
            f"{last.best.accuracy:.3f}",
            f"{last.best.loss:.3f}",
            duration(depth.seconds),
            _outcome(depth),
            style="" if depth.ties else "dim",
        )
    console.print(table)
    console.print(
        "parameters and multiply-adds: the share that is trained; accuracy and loss: held out, of the best epoch; of "
        "equal accuracies the lower loss goes on\n"
    )
    for line in conclusions(search):
        console.print(line)
    if search.checkpoint:
        console.print(f"wrote {printable(str(search.checkpoint))}")


def conclusions(search: "Search") -> list[str]:
    """Return in sentences what was chosen, how sure that is, how good it is and what the search cost."""
    chosen, n = search.chosen, len(search.parts.choose)
    low, high = search.held_out_interval
    lines = [
        f"chosen: {_title(search, chosen)}; held-out accuracy {chosen.reached[-1].best.accuracy:.4f} [{low:.4f}, "
        f"{high:.4f}], the best of {len(search.depths)} depths on {n} pictures, which flatters it"
    ]
    ties = [depth for depth in search.depths if depth.ties and depth is not chosen]
    pairs = len(search.depths) - 1
    test = f"McNemar's exact test after equal epochs, Holm's correction over {pairs} pair{'' if pairs == 1 else 's'}"
    if ties:
        names = ", ".join(str(depth.candidate.frozen) for depth in ties)
        lines.append(f"these {n} pictures cannot tell it from freeze {names} ({test})")
        cheapest = min([chosen, *ties], key=lambda depth: depth.candidate.macs)
        if cheapest is not chosen:
            lines[-1] += f"; of all these freeze {cheapest.candidate.frozen} trains least"
    elif pairs:  # the others may all have diverged
        lines.append(f"it is better than every other depth ({test})")
    low, high = search.interval
    lines.append(
        f"accuracy on {len(search.right)} pictures of {search.parts.measured_on}: {search.right.mean():.4f} "
        f"[{low:.4f}, {high:.4f}]; only the chosen depth was measured there, once"
    )
    return [*lines, _price(search)]


def draw_search(path: Path, search: "Search", title: str) -> None:
    """Draw the held-out accuracy of every depth along its epochs, side by side.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    with Canvas(path, 1) as (_, (axes,)):
        axes.set_title(printable(title))
        for place, depth in enumerate(search.depths):
            _draw_depth(axes, search, depth, place)
            axes.axvline(place + 0.5, color=GRID, linewidth=1, zorder=0)
        names = ["none" if not d.candidate.frozen else d.candidate.layer for d in search.depths]
        labels = [f"{d.candidate.frozen}\n{_short(n)}" for d, n in zip(search.depths, names, strict=True)]
        axes.set_xticks(range(len(labels)), labels, fontsize=12 if len(labels) < 10 else 9)
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("frozen stages, and the last frozen layer")
        axes.set_ylabel(f"accuracy on {len(search.parts.choose)} held-out pictures")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.margins(y=0.15)
        low, _ = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 1.001])  # no accuracy is above 1
        rungs = ", ".join(str(rung.until) for rung in search.rungs)
        grey = "" if all(depth.ties for depth in search.depths) else "; grey: worse than the chosen depth"
        remark_below(
            axes,
            f"along the epochs, the best so far; dots: compared after {rungs} epochs; bar: 95% interval{grey}",
            72,
        )


def _draw_depth(axes: Any, search: "Search", depth: "Depth", place: int) -> None:
    """Draw one depth's best accuracy so far around its place, as wide as the longest training would be."""
    chosen = depth is search.chosen
    colour = ORANGE if chosen else BLUE if depth.ties else QUIET
    so_far = list(accumulate((epoch.accuracy or 0.0 for epoch in depth.reached[-1].epochs), max))
    x = [place + 0.7 * (number / search.rungs[-1].until - 0.5) for number in range(1, len(so_far) + 1)]
    axes.plot(x, so_far, color=colour, linewidth=2, alpha=0.7)
    ends = [len(reached.epochs) - 1 for reached in depth.reached]
    axes.plot([x[i] for i in ends], [so_far[i] for i in ends], color=colour, marker="o", markersize=8, linewidth=0)
    if chosen:
        low, high = search.held_out_interval
        axes.plot([x[-1]] * 2, [low, high], color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt", zorder=1)
    text = f"chosen\n{so_far[-1]:.3f}" if chosen else f"{so_far[-1]:.3f}"
    axes.annotate(
        text,
        (x[-1], so_far[-1]),
        xytext=(-6 if chosen else 0, 9),  # beside the bar
        textcoords="offset points",
        ha="right" if chosen else "center",
        va="bottom",
        color=colour,
    )


def _outcome(depth: "Depth") -> str:
    if depth.p is None:
        return "chosen"
    told = "tie" if depth.ties else "worse"
    return f"dropped at rung {len(depth.reached)}: {told}, p = {depth.p:.2g}"


def _title(search: "Search", depth: "Depth") -> str:
    frozen, n = depth.candidate.frozen, len(search.stages)
    if not frozen:
        return "freeze 0, everything is trained"
    if frozen > n:
        return f"freeze {frozen}, the last layer alone is trained"
    return f"freeze {frozen} of {n} stages, up to {depth.candidate.layer}"


def _chosen_on(search: "Search") -> str:
    parts = search.parts
    return f"{len(parts.choose)} of val" if parts.chosen_on == "val" else parts.chosen_on


def _price(search: "Search") -> str:
    cost, passes = search.cost, search.cost.passes
    return (
        f"cost: {passes['extracted']:,} pictures extracted, {passes['trained']:,} learnt from and "
        f"{passes['measured']:,} looked at, in {duration(cost.seconds)}; every depth from pixels for "
        f"{_epochs(search.rungs[-1].until)} is {cost.macs_in_full / cost.macs:.1f} times the multiply-adds, "
        f"{duration(cost.estimated_seconds_in_full)} at the speed of these epochs (an estimate)"
    )


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.0005 else f"{value:.1e}"


def _epochs(n: int) -> str:
    return f"{n} epoch{'' if n == 1 else 's'}"


def _short(name: str, limit: int = 16) -> str:
    return name if len(name) <= limit else f"...{name[-limit + 3 :]}"
