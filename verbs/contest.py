"""`compare --strategies`: frozen features against fine-tuning."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import STRATEGIES, Result
from verbs.original import original_of

if TYPE_CHECKING:
    from rich.console import Console

    from classify.advise import Advice
    from classify.contest import Contest
    from classify.sources import Source
    from data.terminal import ProgressDisplay
    from finetune.rivals import Rivals


def run_contest(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `compare --strategies`."""
    from classify.contest import colour_differences, judge_advice
    from classify.contest_report import draw_contests, print_contest, print_differences, print_judgement
    from classify.sources import penultimate_sources
    from data.canvas import Canvas
    from data.store import FeatureStore

    if arguments.png:
        Canvas(Path(arguments.png), 1).check()  # before hours of training, not after them
    stores = [FeatureStore(path) for path in dict.fromkeys(arguments.stores)]
    contests, judgements = [], []
    for source in penultimate_sources(stores, arguments.features, arguments.dataset):
        found, advice = _hold(arguments, console, source)
        for contest in found:
            print_contest(console, contest)
        for contest in found:
            if advice and contest.color == "rgb":
                judgements.append(judge_advice(advice, contest))
                print_judgement(console, judgements[-1])
        contests += found
    differences = colour_differences(contests)
    print_differences(console, differences)
    if arguments.png:
        draw_contests(Path(arguments.png), contests)
        console.print(f"wrote {arguments.png}")
    return {
        "contests": [contest.as_json() for contest in contests],
        "colour": [dataclasses.asdict(difference) for difference in differences],
        "advice": [dataclasses.asdict(judgement) for judgement in judgements],
        "chart": arguments.png,
    }, 0


def _hold(arguments: argparse.Namespace, console: "Console", source: "Source") -> "tuple[list[Contest], Advice | None]":
    """Run the strategies on one image set; before that ask for the advice, which is about pictures in colour."""
    from classify.advise import advise
    from classify.contest import hold_contests
    from data.splits import measured_split
    from data.terminal import ProgressDisplay

    strategies = list(dict.fromkeys(arguments.strategies or STRATEGIES))
    seeds = range(arguments.seed, arguments.seed + arguments.repeats)
    split = arguments.on or measured_split(source.store.splits(source.dataset))
    advice = None
    with ProgressDisplay(console, "pictures") as display:
        rivals = _rivals(arguments, source, split, display)
        if "rgb" in arguments.colors:
            rivals.features("rgb", "head2toe" in strategies)  # the advice may look at earlier layers, too
            own = source.info.spec.fingerprint
            advice = advise(source.store, original_of, dataset=source.dataset, features=own, seed=arguments.seed)
        found = hold_contests(
            source,
            rivals,
            strategies,
            arguments.colors,
            split,
            seeds,
            lambda what: display.count(f"steps, {what}"),
        )
    return found, advice


def _rivals(arguments: argparse.Namespace, source: "Source", split: str, display: "ProgressDisplay") -> "Rivals":
    """Return what fine-tunes on one image set."""
    from classify.folding import fit_probe
    from finetune.rivals import Rivals

    named = {name: getattr(arguments, name) for name in ("epochs", "lr", "batch_size", "augment")}
    return Rivals(
        source.store,
        source.dataset,
        source.info.source,
        arguments.preset,
        {name: value for name, value in named.items() if value is not None},
        split,
        Path(arguments.save) if arguments.save else None,
        arguments.device,
        lambda samples: fit_probe(samples, arguments.seed),
        lambda p: display.update(p.done, p.total, p.skipped),
        display.update,
    )
