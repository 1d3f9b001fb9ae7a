"""Verb `fit`: one head, all of them, or a protocol on fewer pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import DATASET, HEADS, TUNE, Adder, Result, natural, png_file, positive, size_in_bytes, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "train a classifier on stored features"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `fit`."""
    # fmt: off
    add("store", metavar="STORE")
    add("--head", required=True, choices=(*HEADS, "all"), help="kind of classifier; all: each of them, ranked")
    add("-o", "--output", metavar="HEAD", help="file to write the head to, or of all a folder; --shots and --curve "
        "write none")
    add("--split", default="train", help="what to train on (default: %(default)s)")
    add("--tune", default="cv", choices=TUNE, help="choose the regularisation by 5-fold cross-validation on the "
        "training split, by the val split, by leaving each picture out (ridge), or not (default: %(default)s)")
    add("--rule", default="best", choices=("best", "one-se"), help="one-se: the strongest regularisation within one "
        "standard error of the best (default: %(default)s)")
    add("--grid", nargs=3, metavar=("LOW", "HIGH", "N"), help="N values between two, evenly in the logarithm, of what "
        "is chosen, such as 1e-6 1e5 45 for C")
    add("--nested", action="store_true", help="measure the choice too: cross-validation around the cross-validation")
    add("--calibrate", default="temperature", choices=("temperature", "platt", "none"), help="how scores become "
        "probabilities (default: %(default)s)")
    add("--memory", type=size_in_bytes, metavar="SIZE", help="such as 2GB: features that take more are read in chunks, "
        "by lr, svm, ridge and lda")
    add("--png", type=png_file, metavar="FILE.png", help="draw the accuracy along the values that were tried, or "
        "against the number of pictures")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="set a parameter, such as C=0.01, "
        "instead of choosing it")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same")
    add("--augment", action="store_true", help="train on every stored view of the pictures; measure on the centre")
    add("--relabel", metavar="FILE.csv", help="corrected labels, as a report exports them: by content, so that copies "
        "move together; the store is not changed")
    add("--seed", type=natural, default=0, help="of the folds and of the head (default: %(default)s)")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="network, layer, NETWORK/LAYER or fingerprint, "
        "where the store has several; several are put side by side; all-stages is every layer of one network")

    add = add.group("with fewer pictures, and again with other seeds")
    add("--shots", type=positive, nargs="+", default=[], metavar="N", help="train on so many pictures of each class "
        "and measure, such as 1 2 4 8 16")
    add("--curve", action="store_true", help="train on growing parts and measure; say what more pictures would give")
    add("--repeats", type=positive, default=0, metavar="N", help="draws of pictures (default: 10 for --shots, 5 for "
        "--curve); without these, seeds of the folds: the head of the first is written")
    add("--on", metavar="SPLIT", help="what --shots and --curve measure on (default: test, or val where there is no "
        "test)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `fit`."""
    from classify.fitting import Fitting
    from classify.report import print_heads, print_training
    from data.terminal import ProgressDisplay

    if arguments.shots or arguments.curve:
        return _run_protocol(arguments, console)
    if not arguments.output:
        wrong_usage("fit", "name the file to write the head to with -o HEAD; only --shots and --curve write none")
    if arguments.on:
        wrong_usage("fit", "--on belongs to --shots and --curve: name one of these too")
    with ProgressDisplay(console, "fits") as display:
        fitting = Fitting(
            arguments.store,
            split=arguments.split,
            dataset=arguments.dataset,
            features=arguments.features,
            augment=arguments.augment,
            memory=arguments.memory,
            tune=arguments.tune,
            rule=arguments.rule,
            grid=_grid(arguments.grid) if arguments.grid else None,
            params=_parameters(arguments.param),
            class_weight=arguments.class_weight,
            calibration=arguments.calibrate,
            seed=arguments.seed,
            nested=arguments.nested,
            repeats=arguments.repeats,
            png=arguments.png,
            relabel=arguments.relabel,
            on_progress=display.update,
            on_step=lambda step, gap: display.remark(f"step {step}, gap {gap:.0e}"),
        )
        try:
            fitting.open()
            if arguments.head == "all":
                found = fitting.fit_all(Path(arguments.output))
            else:
                found = [fitting.fit(arguments.head, Path(arguments.output))]
        except KeyboardInterrupt:
            some = f"finished heads are in {arguments.output}" if arguments.head == "all" else "none was written"
            raise KeyboardInterrupt(f"interrupted: {some}; the same command starts anew") from None
    for fitted in found if arguments.head != "all" else []:
        print_training(console, fitted)
    if arguments.head == "all":
        print_heads(console, found, fitting.refused)
    best = found[0].as_json()
    ranking = {"ranking": [fitted.as_json() for fitted in found], "refused": fitting.refused}
    return {**best, **(ranking if arguments.head == "all" else {})}, 0


def _run_protocol(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `fit --shots` or `fit --curve`."""
    from classify.extrapolate import extrapolate
    from classify.protocols import CURVE_REPEATS, SHOTS_REPEATS, few_shots, learning_curve
    from classify.protocols_report import draw_curve, draw_shots, print_curve, print_shots
    from data.relabel import read_corrections
    from data.splits import measured_split
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    if (arguments.shots and arguments.curve) or arguments.output or arguments.tune == "val":
        wrong_usage("fit", "--shots or --curve stands alone: it writes no head, so leave out -o, and --tune val")
    changed = arguments.rule != "best" or arguments.calibrate != "temperature"
    if arguments.memory or arguments.grid or arguments.nested or changed:
        wrong_usage(
            "fit",
            "--memory, --grid, --nested, --rule and --calibrate are for a head that is written: leave "
            "them out of --shots and --curve",
        )
    store = FeatureStore(arguments.store, read_corrections(arguments.relabel))
    samples = store.load(
        arguments.split, dataset=arguments.dataset, features=arguments.features, augment=arguments.augment
    )
    on = arguments.on or measured_split(store.splits(samples.dataset))
    measured = store.load(on, dataset=samples.dataset, spec=samples.specs)
    options: dict[str, Any] = {
        "tune": arguments.tune,
        "params": _parameters(arguments.param),
        "class_weight": arguments.class_weight,
        "seed": arguments.seed,
    }
    with ProgressDisplay(console, "trainings") as display:
        options["on_progress"] = display.update
        if arguments.shots:
            options["repeats"] = arguments.repeats or SHOTS_REPEATS
            protocol = few_shots(arguments.head, samples, measured, arguments.shots, **options)
        else:
            options["repeats"] = arguments.repeats or CURVE_REPEATS
            protocol = learning_curve(arguments.head, samples, measured, **options)
    result = protocol.as_json()
    png = Path(arguments.png) if arguments.png else None
    if arguments.shots:
        print_shots(console, protocol)
        if png:
            draw_shots(png, protocol)
    else:
        points = protocol.points
        found = extrapolate([p.n_train for p in points], [p.right for p in points], seed=arguments.seed)
        print_curve(console, protocol, found)
        result["extrapolation"] = found.as_json()
        if png:
            draw_curve(png, protocol, found)
    if png:
        console.print(f"wrote {png}")
    return {**result, "chart": arguments.png}, 0


def _grid(texts: list[str]) -> list[float]:
    """Return N values from LOW to HIGH, evenly in the logarithm."""
    from data.errors import HeadError

    try:
        low, high, n = float(texts[0]), float(texts[1]), int(texts[2])
        if not (0 < low < high and n > 1):
            raise ValueError
    except ValueError:
        raise HeadError(f"--grid takes LOW HIGH N, such as 1e-6 1e5 45: got {' '.join(texts)}") from None
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def _parameters(pairs: list[str]) -> dict[str, Any]:
    from data.errors import HeadError

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise HeadError(f"--param takes NAME=VALUE, such as C=0.01: got {pair!r}")
        try:
            numbers = [int(t) if t.lstrip("-").isdigit() and name != "C" else float(t) for t in text.split(",")]
            values[name] = numbers if "," in text else numbers[0]
        except ValueError:
            values[name] = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return values
