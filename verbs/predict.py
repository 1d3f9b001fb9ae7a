"""Verb `predict`: labels of new pictures, by a head and its network or by an exported model."""

import argparse
import collections
import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import ENGINES, MOVED, Adder, Result, add_batch_size, add_device, wrong_usage

if TYPE_CHECKING:
    from data.images import Selection
    from data.predictions import Prediction, PredictionFile, Unread
    from data.terminal import ProgressDisplay, Terminal

TEXT = "classify new pictures"
MODEL = ".onnx"
# Pictures shown on a terminal, and those that were skipped.
_SHOWN, _SKIPPED = 200, 10


def add_arguments(add: Adder) -> None:
    """Name the arguments of `predict`."""
    # fmt: off
    add("head", metavar="HEAD|MODEL.onnx|BUNDLE", help="a head, whose network runs in torch or ONNX Runtime, or what "
        "`export` made of one or a bundle holds, which needs onnxruntime alone")
    add("images", metavar="IMAGES", nargs="+", help="pictures, or sources as for extract")
    add("--head", dest="which", metavar="NAME", help="which head of a bundle (default: the first that was packed)")
    add("--csv", metavar="FILE", help="write path, label and every class's probability there, row by row (- is "
        "standard output)")
    add("--weights", action="append", default=[], metavar="FILE", help=MOVED + "; once for each network")
    add("--projection", action="append", default=[], metavar="FILE", help="components file of the features, where "
        "they have one; once for each")
    add("--engine", default="auto", choices=ENGINES, help="what runs the network (default: %(default)s)")
    add_device(add)
    add_batch_size(add)
    # fmt: on


def run(arguments: argparse.Namespace, console: "Terminal") -> Result:
    """Run `predict`."""
    from data.images import Selection
    from data.predictions import PredictionFile
    from data.terminal import ProgressDisplay
    from extract.datasets import open_source

    pictures = Selection([(source, open_source(source)) for source in arguments.images])
    said = _Said(arguments.json is not None)
    _take_from_bundle(arguments, said)
    ask = _ask_model if Path(arguments.head).suffix == MODEL else _ask_head
    rows: PredictionFile | None = None
    try:
        with contextlib.ExitStack() as stack:
            display = stack.enter_context(ProgressDisplay(console, "pictures"))
            classes, found = ask(arguments, pictures, display, said)
            if arguments.csv:
                rows = stack.enter_context(PredictionFile(arguments.csv, classes))
            for item in found:
                said.add(item, rows)
    except KeyboardInterrupt:
        kept = f"{arguments.csv} holds the first {rows.rows} pictures" if rows else "nothing was written"
        raise KeyboardInterrupt(f"interrupted: {kept}") from None
    said.show(console, arguments.csv)
    if not said.count:
        print(f"penult: error: none of the {len(pictures)} pictures could be read: check the files", file=sys.stderr)
    return said.as_json(), 0 if said.count else 1


def _take_from_bundle(arguments: argparse.Namespace, said: "_Said") -> None:
    """Take the model of a bundle's head in the bundle's place, or the head where there is none or torch is wanted."""
    from data.bundle import is_bundle, read_bundle

    if not is_bundle(Path(arguments.head)):
        if arguments.which:
            wrong_usage("predict", f"--head is for bundles, and {arguments.head} is none")
        return
    bundle = read_bundle(Path(arguments.head))
    head, names = bundle.head(arguments.which), list(bundle.heads())
    if arguments.which is None and len(names) > 1:
        said.notes.append(f"by {names[0]}, the first of {', '.join(names)}: name another with --head")
    by_torch = arguments.engine == "torch" or arguments.device not in ("auto", "cpu") or arguments.weights
    model = None if by_torch or arguments.projection else bundle.model(head["name"])
    if model is None and not arguments.projection:
        arguments.projection = [str(file) for file in bundle.components(head["name"])]
    arguments.head = str(model or bundle.heads()[head["name"]])


Found = tuple[list[str], "Iterator[Prediction | Unread]"]  # the classes, and what is said of each picture


def _ask_model(
    arguments: argparse.Namespace, pictures: "Selection", display: "ProgressDisplay", said: "_Said"
) -> Found:
    """Ask an exported model. Whatever is imported here imports neither torch nor h5py, scipy, scikit-learn or rich."""
    from data.errors import HeadError
    from extract.model import OnnxModel

    path = Path(arguments.head)
    if arguments.engine == "torch" or arguments.device not in ("auto", "cpu"):
        raise HeadError(f"{path} runs in ONNX Runtime on the CPU: leave out --engine and --device, or name the head")
    if arguments.weights or arguments.projection:
        raise HeadError(f"{path} holds its weights: leave out --weights and --projection, or name the head")
    model = OnnxModel(path, batch_size=arguments.batch_size)
    return model.classes, model.predict(pictures, display.update)


def _ask_head(arguments: argparse.Namespace, pictures: "Selection", display: "ProgressDisplay", said: "_Said") -> Found:
    """Ask a head about the vectors that its network gives."""
    if importlib.util.find_spec("safetensors") is None:
        from data.errors import MissingDependency, pip_install

        raise MissingDependency(
            f"{arguments.head} is a head, which needs all of Penult's packages: install them with "
            f"`{pip_install('extract')}` in Penult's checkout, or make a model of it where they are, with "
            f"`export {arguments.head} -o model.onnx`"
        )
    from classify.artifact import load_head
    from data.predictions import Prediction, Unread
    from extract.embed import embed_all, reopen_all, reopen_cached

    head = load_head(Path(arguments.head))
    wants = f"head {head.name}"
    opened = None
    if arguments.engine != "torch" and not arguments.weights and not arguments.projection:
        opened = reopen_cached(head.sources, wants, arguments.device)
    if opened is None:
        opened = reopen_all(head.sources, wants, weights=arguments.weights, projections=arguments.projection)
    found = embed_all(
        pictures,
        opened,
        head.specs,
        engine=arguments.engine,
        device=arguments.device,
        batch_size=arguments.batch_size,
        on_progress=display.update,
    )
    said.notes += found.notes
    items: list[Prediction | Unread] = [Unread(-1, item.path, item.reason) for item in found.skipped]
    indices = found.indices.tolist()
    if indices:
        rows = zip(indices, head.predict_proba(found.vectors), strict=True)
        items += [Prediction(i, pictures.title(i), head.classes, row) for i, row in rows]
    return head.classes, iter(items)


class _Said:
    """What was found, as far as it is to be shown: with a CSV and without JSON a few pictures and counts."""

    def __init__(self, keep_all: bool) -> None:
        self.keep_all = keep_all
        self.began = time.perf_counter()
        self.predictions: list[Prediction] = []
        self.skipped: list[Unread] = []
        self.labels: collections.Counter[str] = collections.Counter()
        self.notes: list[str] = []

    @property
    def count(self) -> int:
        """How many pictures have a prediction."""
        return self.labels.total()

    def add(self, item: "Prediction | Unread", rows: "PredictionFile | None") -> None:
        """Note what was found of a picture, and write its row."""
        from data.predictions import Unread

        if isinstance(item, Unread):
            self.skipped.append(item)
            return
        if rows:
            rows.add(item)
        if self.keep_all or self.count < _SHOWN:
            self.predictions.append(item)
        self.labels[item.label] += 1

    def show(self, console: "Terminal", csv: str | None) -> None:
        """Print the pictures, what was skipped, and how many of each class there are."""
        from data.predictions import print_predictions
        from data.terminal import duration, printable

        if csv != "-":
            print_predictions(console, self.predictions[:_SHOWN])
            if self.count > _SHOWN:
                where = f"all of them are in {printable(csv)}" if csv else "--csv FILE writes all of them"
                console.print(f"... and {self.count - _SHOWN:,} more: {where}")
        for note in self.notes:
            console.print(f"note: {note}")
        for item in self.skipped[:_SKIPPED]:
            console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
        if len(self.skipped) > _SKIPPED:
            console.print(f"... and {len(self.skipped) - _SKIPPED:,} more were skipped: --json FILE names all of them")
        if csv:
            seconds = time.perf_counter() - self.began
            common = ", ".join(f"{printable(label)} {n:,}" for label, n in self.labels.most_common(5))
            more = ", ..." if len(self.labels) > 5 else ""
            where = "" if csv == "-" else f"wrote {printable(csv)}: "
            console.print(
                f"{where}{self.count:,} pictures in {duration(seconds)}, {self.count / seconds:,.0f}/s ({common}{more})"
            )

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        return {
            "predictions": [item.as_json() for item in self.predictions],
            "skipped": [item.as_json() for item in self.skipped],
        }
