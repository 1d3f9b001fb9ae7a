"""The tutorials' experiments: was fine-tuning worth it? By the command line that a user has.

Parts, each a process of its own and minutes long on a CPU, with efficientnet_lite0 (on 96 px, but for `size`):

``ants``    ants and bees by the tutorial's recipe (SGD, step schedule): frozen, last layer, fine-tuned, from scratch,
            five seeds; how often the winner changes.
``size``    the same at the network's own 224 px and the recipe's own 25 epochs, three seeds.
``recipe``  ants and bees by our own recipe, three seeds.
``hotdog``  fine-tuned against scratch, which must differ by more than the interval.
``d2l``     the same by that tutorial's own recipe.
``colour``  two sets with and without colour.
``far``     hand signs, far from ImageNet: penultimate features fall behind; head2toe and partial must close the gap.
``prefix``  partial with the frozen stages' activations kept against running them in every epoch, in turn; checked: the
            same accuracy, scores within 1e-2.
``depth``   the search for the best freeze depth: ants and bees at 128 px, hand signs.

Prints Markdown tables as `docs/experiments.md` has them, and one JSON object as the last line. The measured split
chooses nothing: epochs are chosen on pictures held out of train.

    python benchmarks/experiments.py --work /tmp/penult-experiments
    python benchmarks/experiments.py --parts hotdog far
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import CheckFailed, finish, in_turn, medians, real_data, run_pipeline, say, work_folder

SIDE = "96"
COLUMNS = ("strategy", "accuracy [95% interval]", "seeds", "won", "against the best", "seconds", "pictures")


def store_of(name: str, work: Path, side: str = SIDE) -> Path:
    """Extract a set at a size, once."""
    store = work / (f"{name}.h5" if side == SIDE else f"{name}_{side}.h5")
    run_pipeline("extract", real_data() / name, "-o", store, "--input-size", side)
    return store


def contest(work: Path, part: str, sets: list[str], *options: str, side: str = SIDE) -> dict[str, Any]:
    """Run `compare --strategies` and print its tables."""
    stores = [store_of(name, work, side) for name in sets]
    seconds, result = run_pipeline("compare", *stores, "--png", work / f"{part}.png", *options)
    say(f"\n### {part}: `penult compare {' '.join(s.name for s in stores)} {' '.join(options)}`, {seconds:.0f} s\n")
    for one in result["contests"]:
        say(f"{one['dataset']}, {one['color']}: {one['n_train']} train, {one['n']} {one['split']}\n")
        say(f"| {' | '.join(COLUMNS)} |")
        say("|" + "---|" * len(COLUMNS))
        for entry in one["entries"]:
            low, high = entry["accuracy_ci95"]
            spread = [seed["accuracy"] for seed in entry["seeds"]]
            against = "" if entry["p_holm"] is None else f"{entry['verdict']}, p = {entry['p_holm']:.2g}"
            cells = [
                entry["strategy"],
                f"{entry['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
                f"{min(spread):.3f} to {max(spread):.3f}" if len(spread) > 1 else "",
                f"{entry['wins']} of {len(spread)}",
                against,
                f"{entry['seconds']:.0f}",
                f"{entry['cost']:,.0f}",
            ]
            say(f"| {' | '.join(cells)} |")
        say("")
    for advice in result["advice"]:
        say(
            f"- advice for {advice['dataset']}: {advice['sentence']} Expected {advice['expected']:+.1f} points "
            f"{[round(v, 1) for v in advice['interval']]}, measured {advice['measured'] or 0:+.1f}."
        )
    for colour in result["colour"]:
        say(
            f"- {colour['dataset']}, {colour['strategy']}: {colour['rgb']:.3f} in colour, {colour['gray']:.3f} in "
            f"grey, p = {colour['p_value']:.2g}"
        )
    if not result["contests"] or any(not one["entries"] for one in result["contests"]):
        raise CheckFailed(f"{part} has a contest without entries")
    return result


def ants(work: Path) -> dict[str, Any]:
    """Tutorial A, with five seeds."""
    options = ["--preset", "ants", "--epochs", "10", "--repeats", "5"]
    return contest(work, "ants", ["hymenoptera"], *options, "--strategies", "lr", "head", "full", "scratch")


def size(work: Path) -> dict[str, Any]:
    """Tutorial A as it is: 224 px, 25 epochs."""
    options = ["--preset", "ants", "--repeats", "3", "--strategies", "lr", "head", "full", "scratch"]
    return contest(work, "size", ["hymenoptera"], *options, side="224")


def recipe(work: Path) -> dict[str, Any]:
    """Train by the default recipe on the same pictures."""
    names = ["lr", "head", "partial", "full", "lp-ft", "scratch"]
    return contest(work, "recipe", ["hymenoptera"], "--epochs", "10", "--repeats", "3", "--strategies", *names)


def hotdog(work: Path) -> dict[str, Any]:
    """Tutorial C: pretrained against from scratch."""
    names = ["lr", "head", "full", "lp-ft", "scratch"]
    result = contest(work, "hotdog", ["hotdog_kaggle"], "--epochs", "10", "--strategies", *names)
    found = {entry["strategy"]: entry["accuracy_ci95"] for entry in result["contests"][0]["entries"]}
    if found["full"][0] <= found["scratch"][1]:
        say("NOTE: fine-tuned and from scratch do not differ by more than the intervals")
    return result


def d2l(work: Path) -> dict[str, Any]:
    """Tutorial C by its own recipe."""
    return contest(
        work, "d2l", ["hotdog_kaggle"], "--preset", "hotdog", "--strategies", "lr", "head", "full", "scratch"
    )


def colour(work: Path) -> dict[str, Any]:
    """Tutorial B: what colour is worth."""
    names = ["lr", "svm", "mlp", "head2toe", "head", "partial"]
    options = ["--colors", "rgb", "gray", "--epochs", "8", "--strategies", *names]
    return contest(work, "colour", ["hymenoptera", "hotdog_kaggle"], *options)


def far(work: Path) -> dict[str, Any]:
    """Hand signs: where the penultimate features fall behind."""
    names = ["lr", "svm", "mlp", "head2toe", "head", "partial", "full"]
    return contest(work, "far", ["sign_digits"], "--epochs", "8", "--strategies", *names)


def prefix(work: Path) -> dict[str, Any]:
    """Kept activations against running the frozen stages again."""
    store = store_of("sign_digits", work)
    options = ["--mode", "partial", "--augment", "flip", "--epochs", "4", "--keep", "last"]
    found: dict[str, dict[str, Any]] = {}

    def train(name: str, *more: str) -> Callable[[], None]:
        def run() -> None:
            fresh = work / f"prefix-{name}.h5"
            shutil.copy(store, fresh)  # without activations: their extraction counts
            _, found[name] = run_pipeline("finetune", fresh, "-o", work / f"{name}.ckpt", *options, *more)

        return run

    seconds, _ = in_turn({"kept": train("kept"), "plain": train("plain", "--no-cache")}, 3)
    middle = medians(seconds)
    off = abs(found["kept"]["accuracy"] - found["plain"]["accuracy"])
    if off > 2 / found["kept"]["n"]:
        raise CheckFailed(f"the accuracies differ by {off:.4f}: kept activations must give the same training")
    say(
        f"\n### prefix: `penult finetune sign_digits.h5 {' '.join(options)}`, with the frozen stages' activations kept "
        f"{middle['kept']:.1f} s, extracting them included, with `--no-cache` {middle['plain']:.1f} s: "
        f"{middle['plain'] / middle['kept']:.1f}x; accuracy {found['kept']['accuracy']:.4f} and "
        f"{found['plain']['accuracy']:.4f}; {found['kept']['cost']:,.0f} and {found['plain']['cost']:,.0f} pictures"
    )
    return {"seconds": middle, "ratio": middle["plain"] / middle["kept"], "accuracy_difference": off}


def depth(work: Path) -> dict[str, Any]:
    """Tutorial E: the best split between frozen and retrained layers, of a near set and of a far one."""
    return {"hymenoptera": race(work, "hymenoptera", "128"), "sign_digits": race(work, "sign_digits", SIDE)}


def race(work: Path, name: str, side: str) -> dict[str, Any]:
    """Run `depth` on one set; print how every depth ended, and how good the chosen one is on what chose nothing."""
    store = store_of(name, work, side)
    seconds, result = run_pipeline("depth", store, "--png", work / f"depth-{name}.png")
    say(f"\n### depth: `penult depth {store.name}`, {side} px, {seconds:.0f} s\n")
    say("| frozen stages | last frozen layer | trained multiply-adds | epochs | held-out accuracy | p | outcome |")
    say("|" + "---|" * 7)
    for row in result["depths"]:
        dropped = row["dropped_at_rung"]
        cells = [
            str(row["frozen_stages"]),
            row["last_frozen_layer"] or "none",
            f"{row['trained_multiply_adds']:.0%}",
            str(len(row["epochs"])),
            f"{row['accuracy']:.3f}",
            "" if row["p_against_chosen"] is None else f"{row['p_against_chosen']:.2g}",
            f"dropped after {row['rungs'][-1]['epochs']} epochs" if dropped else "chosen",
        ]
        say(f"| {' | '.join(cells)} |")
    (low, high), (least, most) = result["held_out_ci95"], result["accuracy_ci95"]
    cost = result["cost"]
    say(
        f"\nchosen: {result['chosen']} stages frozen, {result['held_out_accuracy']:.3f} [{low:.3f}, {high:.3f}] on the "
        f"{result['n_choose']} pictures that chose it; not told apart from {result['ties'] or 'no other'}; measured "
        f"once: {result['accuracy']:.3f} [{least:.3f}, {most:.3f}] on {result['n']} pictures of {result['split']}; "
        f"every depth in full would take {cost['macs_in_full'] / cost['macs']:.1f} times the multiply-adds"
    )
    return result


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ants": ants,
    "size": size,
    "recipe": recipe,
    "hotdog": hotdog,
    "d2l": d2l,
    "colour": colour,
    "far": far,
    "prefix": prefix,
    "depth": depth,
}


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--work", type=Path, help="folder for stores, checkpoints and pictures, kept")
    arguments = parser.parse_args()
    return finish(_measure, arguments)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with work_folder(arguments.work) as work:
        return {part: PARTS[part](work) for part in arguments.parts}


if __name__ == "__main__":
    sys.exit(main())
