"""What `advise` prints: the advice first, then what it rests on, last what it does not know."""

from rich.console import Console
from rich.table import Table

from classify.advise import FEW, MANY, Advice
from classify.probing import PENULTIMATE, Backbone
from classify.prospects import CPU, GPU, Price
from classify.similarity import SOURCE, UNCLEAR
from data.terminal import printable

_SHOWN_NAMES = 4  # lines on names of classes; the JSON has all


def print_advice(console: Console, advice: Advice) -> None:
    """Print one image set's advice."""
    best = advice.backbones[0]
    console.print(advice.sentence, style="bold")
    console.print(f"Because {advice.why}.")
    console.print()
    console.print(printable(_set_line(advice)))
    console.print(_frozen_line(advice, best))
    for line in _prospects(advice):
        console.print(line)
    _print_evidence(console, advice)
    _print_layers(console, best)
    _print_networks(console, advice)
    _print_more(console, advice, best)
    _heading(console, "what this does not know")
    for line in advice.unknown:
        console.print(f"- {line}")


def _set_line(advice: Advice) -> str:
    counts = sorted(advice.per_class.values())
    each = f"{counts[0]:,} to {counts[-1]:,}" if counts[0] < counts[-1] else f"{counts[0]:,}"
    return (
        f"{advice.dataset}, train: {advice.pictures:,} pictures, {len(counts)} classes of {each}; {advice.case}. "
        f"(Small is below {FEW} pictures of a class, large from {MANY:,}; ImageNet has about 1,280.)"
    )


def _frozen_line(advice: Advice, best: Backbone) -> str:
    last = best.penultimate
    low, high = (100 * bound for bound in last.interval)
    of = f", on a draw of {advice.measured_on:,}" if advice.measured_on < advice.pictures else ""
    return (
        f"Frozen now: {100 * last.accuracy:.1f}% [{low:.1f}, {high:.1f}] by ridge on {printable(best.name)}, each "
        f"picture left out in turn{of}."
    )


def _prospects(advice: Advice) -> list[str]:
    gain = advice.gain
    low, high = gain.interval
    share_low, share_high = (100 * bound for bound in gain.share_interval)
    lines = [
        f"Fine-tuning may add {gain.points:+.1f} points, in four cases of five between {low:+.1f} and {high:+.1f}: in "
        f"{gain.basis} it removed {100 * gain.share:.0f}% of the error [{share_low:.0f}, {share_high:.0f}]; left out "
        f"in turn, {gain.covered} of the {gain.pairs} fall where the others would have them."
    ]
    if advice.price:
        lines.append(_price_line(advice.price))
    return lines


def _price_line(found: Price) -> str:
    return (
        f"It costs {_minutes(found.gpu_minutes)} on an {GPU}, or {_minutes(found.cpu_minutes)} on {CPU}: "
        f"{found.basis}. Staying frozen costs seconds."
    )


def _minutes(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if high < 1:
        return "less than a minute"
    if high > 120:
        return f"{low / 60:.1f} to {high / 60:.1f} hours"
    most = f"{high:.0f} minute{'s' if round(high) > 1 else ''}"
    if round(low) == round(high):
        return f"about {most}"
    return f"{low:.0f} to {most}" if low >= 1 else f"up to {most}"


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def _table(*columns: str, left: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in left else "right", overflow="fold")
    return table


def _print_evidence(console: Console, advice: Advice) -> None:
    _heading(console, f"how near to the pretraining data: {advice.similarity}")
    table = _table("measured", "value", "says", "rule", left=("says", "rule"))
    for item in advice.evidence:
        points = item.what.endswith("points")
        value = "" if item.value is None else f"{item.value:+.1f}" if points else f"{item.value:.2f}"
        says = "" if item.value is None else "nothing" if item.says == UNCLEAR else item.says
        table.add_row(item.what, value, says, item.rule)
    console.print(table)
    if advice.backbones[0].answers:
        console.print(f"{SOURCE}.", style="dim")


def _print_layers(console: Console, best: Backbone) -> None:
    if len(best.layers) < 2:
        return
    _heading(console, f"layers of {printable(best.name)}")
    table = _table("layer", "width", "accuracy left out", "against the penultimate", left=("against the penultimate",))
    for layer in best.layers:
        low, high = (100 * bound for bound in layer.interval)
        gap = 100 * (layer.accuracy - best.penultimate.accuracy)
        against = "" if layer.name == PENULTIMATE else f"{gap:+.1f} points, {_p(layer.p_value)}"
        table.add_row(
            printable(layer.name), f"{layer.dim:,}", f"{100 * layer.accuracy:.1f}% [{low:.1f}, {high:.1f}]", against
        )
    console.print(table)


def _p(value: float | None) -> str:
    return "" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _print_networks(console: Console, advice: Advice) -> None:
    several = len(advice.backbones) > 1
    _heading(console, "networks of this store, the best first" if several else "the network of this store")
    table = _table("network", "frozen", "LogME", "H-score", "LEEP", "NCE")
    for backbone in advice.backbones:
        s = backbone.scores
        table.add_row(
            printable(backbone.name),
            f"{100 * backbone.penultimate.accuracy:.1f}%",
            f"{s.log_me:.3f}",
            f"{s.h_score:.3f}",
            "-" if s.leep is None else f"{s.leep:.3f}",
            "-" if s.nce is None else f"{s.nce:.3f}",
        )
    console.print(table)
    console.print("higher is better, on the same pictures alone; H-score is at most classes less one", style="dim")
    if several:
        console.print(_agreement(advice.backbones))


def _agreement(backbones: list[Backbone]) -> str:
    """Say which network each ranking puts first."""
    first = {
        "frozen accuracy": backbones[0].name,
        "LogME": max(backbones, key=lambda b: b.scores.log_me).name,
        "H-score": max(backbones, key=lambda b: b.scores.h_score).name,
    }
    if len(set(first.values())) == 1:
        return f"{', '.join(first)} agree on {printable(backbones[0].name)}."
    return "They disagree: " + ", ".join(f"{what} has {printable(name)} first" for what, name in first.items()) + "."


def _print_more(console: Console, advice: Advice, best: Backbone) -> None:
    _heading(console, "and further")
    if advice.slope:
        console.print(f"Learning curve: {advice.slope.sentence}")
    if best.spacing:
        found = best.spacing
        console.print(
            f"Nearest classes: {printable(found.a)} and {printable(found.b)}, {found.closest:.2f} radii of a class "
            f"apart; the median class has its nearest at {found.median:.2f}."
        )
    if best.answers and best.answers.most_said:
        said = ", ".join(f"{name} ({100 * share:.0f}%)" for name, share in best.answers.most_said)
        console.print(f"The original classifier says most often: {said}.")
    if best.notes:
        console.print("Your classes among the original ones:" if best.answers else "The original classifier:")
    for line in best.notes[:_SHOWN_NAMES]:
        console.print(f"  {printable(line)}")
    if len(best.notes) > _SHOWN_NAMES:
        console.print(f"  and {len(best.notes) - _SHOWN_NAMES} more, which --json has")
    if best.answers and best.answers.zero_shot is not None:
        found_right = 100 * best.answers.zero_shot
        console.print(
            f"Without any training, by these names: {found_right:.1f}% of {best.answers.zero_shot_pictures:,} pictures "
            f"of {best.answers.matched} classes."
        )
