"""What verbs share: kinds of arguments, groups of them, and how to say that one is wrong."""

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from data.splits import SplitRule

# The keys of tables in the stages, which `--help` must not wait for; a test compares.
HEADS = ("lr", "svm", "mlp", "knn", "bayes", "centroid", "ridge", "lda", "stack", "head2toe")
TUNE = ("cv", "val", "loo", "none")
ENGINES = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "float32", "fp16", "bf16")
MODES = ("head", "full", "partial", "scratch", "lp-ft")
STRATEGIES = ("lr", "svm", "mlp", "head2toe", "head", "partial", "full", "lp-ft", "scratch")
PRESETS = ("default", "ants", "hotdog")
AUGMENTS = ("none", "flip", "views", "crop")
COLORS = ("rgb", "gray", "luma", "rgba")
FITS = ("crop", "squash", "pad")

DATASET = "image set, where the store has several"
MOVED = "weights file of the network, if it has moved"

Result = tuple[dict[str, Any], int]  # what --json writes, and the exit code


class Adder:
    """Adds arguments to a parser or to a group of it; `group` goes on to the next group."""

    def __init__(self, parser: argparse.ArgumentParser, to: Any = None) -> None:
        self.parser = parser
        self.to = to or parser

    def __call__(self, *names: str, **options: Any) -> None:
        """Add an argument, as argparse takes it; where any number may be named, none is no error."""
        if options.get("nargs") == "*" and not names[0].startswith("-"):
            options.setdefault("default", [])
        self.to.add_argument(*names, **options)

    def group(self, title: str) -> "Adder":
        """Begin a group."""
        return Adder(self.parser, self.parser.add_argument_group(title))


def add_split_rule(add: Adder, test_fraction: str) -> None:
    """Add the options that `split_rule` reads."""
    add("--test-fraction", type=float, metavar="F", help=test_fraction)
    add("--val-fraction", type=float, metavar="F", help="share of each class for val")
    add("--split-seed", type=int, metavar="N", help="another seed gives another split (default: 0)")


def split_rule(arguments: argparse.Namespace) -> "SplitRule | None":
    """Return how to split pictures anew, if the options say that they are to be."""
    from data.splits import SplitRule

    asked = {
        "test_fraction": arguments.test_fraction,
        "val_fraction": arguments.val_fraction,
        "seed": arguments.split_seed,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return SplitRule(**given) if given else None


def add_device(add: Adder) -> None:
    """Add `--device`."""
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")


def add_workers(add: Adder) -> None:
    """Add `--workers`."""
    add("--workers", type=positive, default=0, metavar="N", help="threads that read and decode (default: one a core)")


def add_batch_size(add: Adder) -> None:
    """Add `--batch-size` of what runs a network forward."""
    add("--batch-size", type=positive, default=0, metavar="N", help="default: 4 on a CPU, 128 on a GPU")


def wrong_usage(verb: str, message: str) -> NoReturn:
    """Exit as argparse does, for what only a verb can know to be wrong."""
    print(f"usage: penult {verb} --help\npenult {verb}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Read a whole number of 0 or more."""
    return _at_least(0, text)


def folds(text: str) -> int:
    """Read a number of folds."""
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
    return value


def png_file(text: str) -> str:
    """Read the name of a picture to write."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return text


def size_in_bytes(text: str) -> int:
    """Read a size such as 2GB."""
    from data.terminal import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
