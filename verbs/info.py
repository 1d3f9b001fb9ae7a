"""Verb `info`: what a store, a head or an exported model holds, or statistics of pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbs.arguments import Adder, Result, natural, png_file, positive, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "show what a store or a head holds, or statistics of pictures"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `info`."""
    # fmt: off
    add("source", metavar="STORE|HEAD|IMAGES", help="a store or bundle, a head, fine-tuned network "
        "or exported model, or pictures as for `extract`")
    add = add.group("of pictures")
    add("--quick", action="store_true", help="parse the headers alone; damage further in is then not noticed")
    add("--sheet", type=png_file, metavar="FILE.png", help="draw samples of each class on a contact sheet (further "
        "pages: FILE-2.png, ...)")
    add("--per-class", type=_per_class, default=0, metavar="N", help="samples of each class, up to 100 (default: 8; 40 "
        "of pictures without labels)")
    add("--seed", type=natural, default=0, metavar="N", help="of the samples (default: %(default)s)")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `info`."""
    from data.bundle import is_bundle, read_bundle
    from data.bundle_report import print_bundle
    from data.kinds import kind_of
    from data.report import describe_store, is_store, print_info

    if arguments.per_class and not arguments.sheet:
        wrong_usage("info", "--per-class is of a contact sheet: name its --sheet FILE.png too")
    path = Path(arguments.source)
    if path.is_file() and kind_of(path) in ("a head", "a fine-tuned network", "an exported model"):
        return _info_of_head(arguments, console)
    if not is_store(path):
        return _info_of_pictures(arguments, console)
    if arguments.sheet or arguments.quick:
        from data.errors import StoreError

        option = "--sheet" if arguments.sheet else "--quick"
        raise StoreError(
            f"{path} is a store, and {option} is for pictures: name the folder or manifest that lists them"
        )
    result = describe_store(path)
    print_info(console, result)
    if is_bundle(path):
        bundle = read_bundle(path).info
        console.print()
        print_bundle(console, path, bundle)
        result["bundle"] = bundle
    return result, 0


def _info_of_head(arguments: argparse.Namespace, console: "Console") -> Result:
    from classify.head_report import describe_head, print_head

    if arguments.sheet or arguments.quick:
        wrong_usage("info", "--sheet and --quick are for pictures, and this is a head: leave them out")
    path = Path(arguments.source)
    result = _described_model(path) if path.suffix.lower() == ".onnx" else describe_head(path)
    print_head(console, result)
    return result, 0


def _described_model(path: Path) -> dict[str, Any]:
    from classify.head_report import describe_facts
    from extract.model import LICENCE, OnnxModel

    model = OnnxModel(path)
    about, head = model.about, model.about["head"]
    sources = [(feature["title"], feature["fingerprint"]) for feature in about["features"]]
    exported = {
        "opset": about["opset"],
        "input": model.preprocessing["input"],
        "license": model.metadata.get(LICENCE, ""),
        "difference": about["parity"]["difference"],
    }
    return {**describe_facts(path, head["kind"], head, sources, model.classes), "exported": exported}


def _info_of_pictures(arguments: argparse.Namespace, console: "Console") -> Result:
    from data.terminal import ProgressDisplay, printable
    from extract.datasets import open_source
    from extract.gallery import refuse_other_file, write_sheets
    from extract.statistics import describe
    from extract.survey import survey
    from extract.survey_report import print_survey

    images = open_source(arguments.source)
    sheet = Path(arguments.sheet or "")
    if arguments.sheet:
        refuse_other_file(sheet, images, Path(arguments.source))
    with ProgressDisplay(console, "pictures") as display:
        found = survey(images, quick=arguments.quick, on_progress=display.update)
    result = describe(found)
    print_survey(console, result)
    if arguments.sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        with ProgressDisplay(console, "pages") as display:
            pages = write_sheets(sheet, found, arguments.per_class, arguments.seed, display.update)
        more = f" to {printable(str(pages[-1].path))}, {len(pages)} pages" if len(pages) > 1 else ""
        console.print(f"wrote {printable(str(sheet))}{more}: samples of each class, whole and upright")
        result["sheets"] = [{"path": str(page.path), "rows": page.rows} for page in pages]
    return result, 0


def _per_class(text: str) -> int:
    value = positive(text)
    if value > 100:  # a class's row would be higher than a page
        raise argparse.ArgumentTypeError(f"must be 100 or less, got {value}")
    return value
