"""Verb `report`: one HTML page on heads, pictures and labels, to be looked at without a network."""

import argparse
import contextlib
import hashlib
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import DATASET, Adder, Result, natural, size_in_bytes, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

    from classify.page.thumbnails import Look, Pixels
    from classify.probing import Original
    from data.images import ImageSet
    from data.spec import FeatureSpec, Source
    from data.store import FeatureStore

TEXT = "make one HTML page to look at: ranking, mistakes, suspect labels, copies, a map of the features, the advice"

MAPS = ("pca", "tsne", "umap")


def add_arguments(add: Adder) -> None:
    """Name the arguments of `report`."""
    # fmt: off
    add("store", metavar="STORE", help="a store; a bundle, alone, with its own heads")
    add("heads", metavar="HEAD", nargs="*", help="of the same classes")
    add("-o", "--output", metavar="FILE.html", required=True, help="the page; an old report is replaced")
    add("--split", help="what to measure on (default: test, or val where there is no test)")
    add("--dataset", metavar="NAME", help=DATASET)
    add("--map", nargs="+", default=["pca"], choices=MAPS, dest="maps", help="of the features; tsne and umap take "
        "longer and show groups better, umap needs the extra report (default: pca)")
    add("--quick", action="store_true", help="leave out audit, learning curve and advice, which take the most time")
    add("--relabel", metavar="FILE.csv", help="corrected labels, as a report exports them")
    add("--images", metavar="FOLDER", help="where the pictures are, if they have moved")
    add("--size", type=size_in_bytes, metavar="SIZE", help="of the page, which thumbnails fill (default: 5MB)")
    add("--seed", type=natural, default=0, help="of bootstrap, folds and draws (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `report`."""
    import time

    from classify.artifact import load_head
    from classify.page.assemble import SIZE, refuse_other_file, write_report
    from classify.page.findings import Question
    from data.bundle import named_heads
    from data.relabel import read_corrections
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay, duration, printable, size
    from verbs.eval import extract_of_checkpoints

    start = time.perf_counter()
    refuse_other_file(Path(arguments.output))
    files = named_heads(arguments.heads, Path(arguments.store))
    if not files:
        wrong_usage("report", "name heads, as in `penult report features.h5 lr.head -o report.html`, or a bundle alone")
    heads = [load_head(path) for path in dict.fromkeys(files)]
    store = FeatureStore(arguments.store, read_corrections(arguments.relabel))
    extract_of_checkpoints(heads, store, arguments, console)
    question = Question(
        store=store,
        heads=heads,
        originals=_original_of,
        split=arguments.split,
        dataset=arguments.dataset,
        maps=arguments.maps,
        quick=arguments.quick,
        seed=arguments.seed,
    )
    with contextlib.ExitStack() as stack:
        look = _look(store, arguments.dataset, arguments.images, stack)
        display = stack.enter_context(ProgressDisplay(console, "heads"))
        page = write_report(
            Path(arguments.output),
            question,
            look=look,
            licence=lambda spec: _licence(store, spec),
            command=_command(arguments),
            size=SIZE if arguments.size is None else arguments.size,
            on_stage=display.count,
            on_progress=display.update,
        )
    for line in page.summary:
        console.print(printable(line))
    for note in page.findings.notes:
        console.print(f"note: {printable(note)}")
    if page.gone:
        console.print(f"note: {page.gone} pictures are gone or have changed, and have no thumbnail")
    seconds = time.perf_counter() - start
    console.print(
        f"wrote {printable(str(page.path))}: {size(page.bytes)}, {page.thumbnails} thumbnails, in {duration(seconds)}"
    )
    return {**page.as_json(), "seconds": round(seconds, 3)}, 0


def _original_of(source: "Source", classes: Sequence[str]) -> "Original":
    """Return what is known of the network behind features; without torch that is little."""
    from classify.probing import Original
    from verbs.original import original_of

    if importlib.util.find_spec("torch") is None:
        return Original(reason="torch is not installed here")
    return original_of(source, classes)


def _look(store: "FeatureStore", dataset: str | None, images: str | None, stack: contextlib.ExitStack) -> "Look | None":
    """Return what decodes a picture of an image set by its row; None where the set cannot be opened again."""
    import dataclasses

    from data.errors import PenultError
    from data.thumbnails import thumbnails_of
    from extract.datasets import image_set_of
    from extract.decode import decode, pillow_settings

    view = store.view(dataset)
    digests = view.digests.tolist()
    stack.enter_context(pillow_settings())
    small = thumbnails_of(store.path)
    if small:
        stack.enter_context(small)
    if images:
        view = dataclasses.replace(view, root=str(Path(images).resolve()))
    pictures: ImageSet | None = None
    with contextlib.suppress(PenultError):
        pictures = image_set_of(view)
    if pictures is None and small is None:
        return None

    def look(row: int, shorter: int) -> "Pixels | None":
        packed = small.get(digests[row]) if small else None
        if packed is not None:
            return decode(packed)
        if pictures is None:
            return None
        data = pictures.read(row).data
        if hashlib.sha256(data).hexdigest().encode() != digests[row]:
            return None  # it is another picture by now
        return decode(data, shorter=shorter)

    return look


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that makes this report again."""
    words = ["penult", "report", arguments.store, *arguments.heads, "-o", arguments.output]
    for name in ("split", "dataset", "relabel", "images"):
        words += [f"--{name}", getattr(arguments, name)] if getattr(arguments, name) else []
    words += ["--map", *arguments.maps] if arguments.maps != ["pca"] else []
    words += ["--quick"] if arguments.quick else []
    words += ["--size", f"{arguments.size / 1e3:.0f}kB"] if arguments.size is not None else []
    words += ["--seed", str(arguments.seed)] if arguments.seed else []
    return shlex.join(words)


def _licence(store: "FeatureStore", spec: "FeatureSpec") -> str:
    """Return the licence of the weights behind features, as far as it is known; without torch that is little."""
    from data.errors import BackboneError, MissingDependency
    from extract.licences import licence_of

    with contextlib.suppress(BackboneError, MissingDependency, ImportError):
        return licence_of(store.features()[spec.fingerprint].source)
    return ""
