"""`compare --strategies`: frozen features against fine-tuning."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import STRATEGIES, Result
from verbs.original import original_of

if TYPE_CHECKING:
    from rich.console import Console


def run_contest(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `compare --strategies`."""
    from classify.advise import advise
    from classify.contest import colour_differences, hold_contests, judge_advice
    from classify.contest_report import draw_contests, print_contest, print_differences, print_judgement
    from classify.folding import fit_probe
    from classify.sources import penultimate_sources
    from data.canvas import Canvas
    from data.splits import measured_split
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay
    from finetune.rivals import Rivals

    named = {name: getattr(arguments, name) for name in ("epochs", "lr", "batch_size", "augment")}
    changes = {name: value for name, value in named.items() if value is not None}
    strategies = list(dict.fromkeys(arguments.strategies or STRATEGIES))
    seeds = range(arguments.seed, arguments.seed + arguments.repeats)
    if arguments.png:
        Canvas(Path(arguments.png), 1).check()  # before hours of training, not after them
    stores = [FeatureStore(path) for path in dict.fromkeys(arguments.stores)]
    contests, judgements = [], []
    for source in penultimate_sources(stores, arguments.features, arguments.dataset):
        store, name = source.store, source.dataset
        split = arguments.on or measured_split(store.splits(name))
        with ProgressDisplay(console, "pictures") as display:
            rivals = Rivals(
                store,
                name,
                source.info.source,
                arguments.preset,
                changes,
                split,
                Path(arguments.save) if arguments.save else None,
                arguments.device,
                lambda samples: fit_probe(samples, arguments.seed),
                lambda p: display.update(p.done, p.total, p.skipped),
                display.update,
            )
            if "rgb" in arguments.colors:  # which the advice is about; it may look at earlier layers, too
                rivals.features("rgb", "head2toe" in strategies)
                own = source.info.spec.fingerprint
                advice = advise(store, original_of, dataset=name, features=own, seed=arguments.seed)
            found = hold_contests(
                source,
                rivals,
                strategies,
                arguments.colors,
                split,
                seeds,
                lambda what: display.count(f"steps, {what}"),
            )
        for contest in found:
            print_contest(console, contest)
        for contest in [contest for contest in found if contest.color == "rgb"]:
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
