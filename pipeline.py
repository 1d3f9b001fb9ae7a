"""The command line: verbs, arguments, tables and exit codes. A stage is imported inside its verb alone.

Exit 0 done, 1 failed with one clear message, 2 wrong usage, 130 interrupted and resumable.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    from classify.artifact import TrainedHead
    from classify.probing import Original
    from data.spec import Source
    from data.splits import SplitRule
    from data.store import FeatureStore
    from extract.backbones import Options
    from finetune.beginnings import LinearStart


_OURS = ("data", "extract", "classify", "finetune")
# The keys of classify.heads.HEADS and extract.engines.ENGINES, which `--help` must not wait for; a test compares.
_HEADS = ("lr", "svm", "mlp", "knn", "bayes", "centroid", "ridge", "lda", "stack", "head2toe")
_TUNE = ("cv", "val", "loo", "none")
_ENGINES = ("auto", "torch", "onnx")
_PRECISIONS = ("auto", "float32", "fp16", "bf16")
_MODES = ("head", "full", "partial", "scratch", "lp-ft")
_STRATEGIES = ("lr", "svm", "mlp", "head2toe", "head", "partial", "full", "lp-ft", "scratch")
_PRESETS = ("default", "ants", "hotdog")
_DEVICE = "auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
_DATASET = "image set, where the store has several"
_MOVED = "weights file of the network, if it has moved"

Result = tuple[dict[str, Any], int]  # what --json writes, and the exit code


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = build_parser().parse_args(argv)
    foreign = _foreign_package()
    if foreign:
        print(f"penult: error: {foreign}", file=sys.stderr)
        return 1
    from data.errors import PenultError

    try:
        result, code = arguments.run(arguments, _console(arguments))
        if arguments.json is not None:
            from data.report import write_json

            write_json(arguments.json, result)
        return int(code)
    except KeyboardInterrupt as error:
        print(
            f"\npenult: {str(error) or 'interrupted: what was done is kept, run the same command again'}",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `penult info STORE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PenultError as error:
        message = str(error)
        if arguments.debug:
            raise
    except OSError as error:
        message = f"{error.filename}: {error.strerror.lower()}" if error.strerror and error.filename else str(error)
        if arguments.debug:
            raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}: this is a defect of Penult; run again with --debug to see where"
        if arguments.debug:
            raise
    print(f"penult: error: {message}", file=sys.stderr)
    return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="penult",
        description="Extract once, classify many: a frozen network's features in a store that can be trusted, and "
        "honest classifiers on them in seconds.",
        epilog="Start with `penult demo`, or: penult extract PICTURES -o features.h5, penult fit features.h5 --head lr "
        "-o lr.head, penult eval lr.head features.h5",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    # A table: one argument a line.
    # fmt: off
    add = _verb(verbs, "extract", run_extract, "run a frozen network over pictures, once, into a store")
    add("images", metavar="IMAGES", help="folder with a folder for each class, with or without train/ val/ test/ above "
        "them; its zip or tar; WebDataset shards; a CSV, JSON-lines or Parquet file with path,label[,split]; any of "
        "these at s3:// and the like; hf:NAME; torchvision:CLASS:FOLDER")
    add("-o", "--output", metavar="STORE", required=True, help="store to make or add to: a file, or a folder/ of files")
    add("--backbone", action="extend", nargs="+", metavar="NAME", help="any torchvision or timm "
        "classification networks (default: efficientnet_lite0, whose weights need no download)")
    add("--weights", default="default", metavar="FILE|default|random", help="state dict (.pth, .safetensors), the "
        "network's own, or random ones")
    add("--partial", action="store_true", help="take from the state dict what fits, and say what does not")
    add("--name", help="name of the image set in the store (default: the folder's)")
    add("--dtype", default="float32", choices=("float32", "float16"), help="how features are stored "
        "(default: %(default)s)")
    add = add.group("what a feature is")
    add("--layer", "--layers", action="extend", nargs="+", metavar="NODE", help="outputs of these layers; "
        "all-stages is the pooled output of every stage, list prints all there are (default: penultimate)")
    add("--pooling", default="", choices=("avg", "max", "gem", "cls", "flatten"), help="of layers with several "
        "positions (default: avg)")
    add("--view", "--views", action="extend", nargs="+", metavar="VIEW", help="center, flip, five-crop, random:N: "
        "each is stored apart (default: center)")
    add("--average", action="store_true", help="store the mean over the views instead")
    add("--normalize", action="store_const", const="l2", default="", help="make every vector 1 long (L2)")
    add("--projection", default="", metavar="KIND:DIM", help="make vectors shorter: random:DIM[:SEED], pca:DIM or a "
        "file of components")
    add = add.group("splits (a set that brings none gets 20% of each class as test)")
    add("--test-fraction", type=float, metavar="F", help="split anew: share of each class for test")
    add("--val-fraction", type=float, metavar="F", help="share of each class for val")
    add("--split-seed", type=int, metavar="N", help="another seed gives another split (default: 0)")
    add = add.group("preprocessing (default: the network's own)")
    add("--input-size", type=_positive, metavar="PX", help="side of the square that the network sees")
    add("--resize", type=_positive, metavar="PX", help="shorter side before the crop")
    add("--interpolation", choices=("nearest", "bilinear", "bicubic", "lanczos"))
    add("--decoder", choices=("pillow", "draft"), help="draft decodes large JPEGs at reduced size (default: pillow)")
    add("--gray", dest="color", action="store_const", const="gray", help="without colour, in three equal channels")
    add("--color", choices=("rgb", "gray", "luma", "rgba"), help="luma and rgba adapt the first convolution to one "
        "and four channels")
    add("--mean", type=float, nargs="+", metavar="M", help="one number or three")
    add("--std", type=float, nargs="+", metavar="S", help="one number or three")
    add = add.group("running")
    add("--engine", default="auto", choices=_ENGINES, help="what runs the network (default: %(default)s)")
    add("--device", default="auto", help=_DEVICE)
    add("--precision", default="auto", choices=_PRECISIONS, help="default: fp16 on CUDA, else float32; checked "
        "against float32 on the first pictures")
    add("--compile", action="store_true", help="let PyTorch compile the network first: for long runs on a GPU")
    add("--batch-size", type=_positive, default=0, metavar="N", help="default: 4 on a CPU, 128 on a GPU")
    add("--workers", type=_positive, default=0, metavar="N", help="threads that read and decode (default: one a "
        "core)")
    add("--ray", nargs="?", const="local", default="", metavar="ADDRESS", help="let workers on a Ray cluster compute, "
        "with a GPU each where there are GPUs: auto or an address; without one, all of this machine")
    add("--ray-workers", type=_positive, default=0, metavar="N", help="default: one a GPU, else all cores")
    add("--staging", default="", metavar="URL", help="where blocks wait to be published, for machines that share no "
        "disk: s3://, gs:// and the like; one for each store (default: beside the store)")
    add("--rehash", action="store_true", help="read every file again, whatever its size and time say")
    add("--strict", action="store_true", help="fail on the first picture that cannot be read")
    add("--seed", type=int, default=0, help="of random weights (default: %(default)s)")

    add = _verb(verbs, "fit", run_fit, "train a classifier on stored features")
    add("store", metavar="STORE")
    add("--head", required=True, choices=(*_HEADS, "all"), help="kind of classifier; all: each of them, ranked")
    add("-o", "--output", metavar="HEAD", help="file to write the head to, or of all a folder; --shots and --curve "
        "write none")
    add("--split", default="train", help="what to train on (default: %(default)s)")
    add("--tune", default="cv", choices=_TUNE, help="choose the regularisation by 5-fold cross-validation on the "
        "training split, by the val split, by leaving each picture out (ridge), or not (default: %(default)s)")
    add("--rule", default="best", choices=("best", "one-se"), help="one-se: the strongest regularisation within one "
        "standard error of the best (default: %(default)s)")
    add("--grid", nargs=3, metavar=("LOW", "HIGH", "N"), help="N values between two, evenly in the logarithm, of what "
        "is chosen, such as 1e-6 1e5 45 for C")
    add("--nested", action="store_true", help="measure the choice too: cross-validation around the cross-validation")
    add("--calibrate", default="temperature", choices=("temperature", "platt", "none"), help="how scores become "
        "probabilities (default: %(default)s)")
    add("--memory", type=_bytes, metavar="SIZE", help="such as 2GB: features that take more are read in chunks, by lr, "
        "svm, ridge and lda")
    add("--png", type=_png, metavar="FILE.png", help="draw the accuracy along the values that were tried, or against "
        "the number of pictures")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="set a parameter, such as C=0.01, "
        "instead of choosing it")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same")
    add("--augment", action="store_true", help="train on every stored view of the pictures; measure on the centre")
    add("--seed", type=int, default=0, help="of the folds and of the head (default: %(default)s)")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="network, layer, NETWORK/LAYER or fingerprint, "
        "where the store has several; several are put side by side; all-stages is every layer of one network")

    add = add.group("with fewer pictures, and again with other seeds")
    add("--shots", type=_positive, nargs="+", default=[], metavar="N", help="train on so many pictures of each class "
        "and measure, such as 1 2 4 8 16")
    add("--curve", action="store_true", help="train on growing parts and measure; say what more pictures would give")
    add("--repeats", type=_positive, default=0, metavar="N", help="draws of pictures (default: 10 for --shots, 5 for "
        "--curve); without these, seeds of the folds: the head of the first is written")
    add("--on", metavar="SPLIT", help="what --shots and --curve measure on (default: test, or val where there is no "
        "test)")

    add = _verb(verbs, "eval", run_eval, "measure heads on a split and rank them")
    add("heads", metavar="HEAD", nargs="+")
    add("store", metavar="STORE")
    add("--split", help="what to measure on (default: test, or val where there is no test)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--dataset", metavar="NAME", help=_DATASET)

    add = _verb(verbs, "audit", run_audit, "find out what is wrong with a data set: copies, labels, classes, splits")
    add("store", metavar="STORE")
    add("--head", default="lr", choices=_HEADS, help="classifier that judges the labels (default: %(default)s)")
    add("--split-pair", nargs=2, metavar=("TRAIN", "TEST"), help="splits to compare (default: train with test, else "
        "with val)")
    add("--folds", type=_folds, default=5, metavar="N", help="folds of what is held out (default: %(default)s)")
    add("--csv", metavar="FILE", help="write every finding there, a row for each picture (- is standard output)")
    add("--seed", type=_natural, default=0, help="of folds and samples (default: %(default)s)")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--features", metavar="NAME", help="network or fingerprint, where the store has several")

    add = _verb(verbs, "compare", run_compare, "fit every head on every kind of features and rank them")
    add("stores", metavar="STORE", nargs="+", help="several image sets, or several extractions of one")
    add("--heads", nargs="+", default=["lr", "svm", "ridge"], choices=(*_HEADS, "all"), metavar="HEAD", help="kinds of "
        "classifiers, or all (default: lr svm ridge)")
    add("--features", nargs="+", default=[], metavar="NAME", help="networks, layers or fingerprints (default: all that "
        "cover the image set, in the centre view)")
    add("--dataset", metavar="NAME", help="one image set (default: all, each with a ranking of its own)")
    add("--split", default="train", help="what to train on (default: %(default)s)")
    add("--on", metavar="SPLIT", help="what to measure on (default: test, or val where there is no test)")
    add("--tune", default="cv", choices=_TUNE, help="as for fit (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the folds, the heads and the bootstrap (default: %(default)s)")
    add("--memory", type=_bytes, metavar="SIZE", help="such as 2GB: features that take more are read in chunks, and "
        "heads that cannot are left out")
    add("--save", metavar="FOLDER", help="write the heads there")
    add("--png", type=_png, metavar="FILE.png", help="draw the ranking (of further image sets: FILE-2.png, ...)")

    add = add.group("against fine-tuning")
    add("--strategies", nargs="*", metavar="NAME", choices=_STRATEGIES, help=f"{', '.join(_STRATEGIES)}; without "
        "a name all: heads on frozen features and fine-tuned networks, on the same pictures")
    add("--colors", nargs="+", default=["rgb"], choices=("rgb", "gray"), help="with colour, without, or both")
    add("--preset", default="default", choices=_PRESETS, help="recipe of fine-tuning (default: %(default)s)")
    add("--epochs", type=_positive, metavar="N", help="of fine-tuning (default: the recipe's)")
    add("--lr", type=float, metavar="RATE", help="of fine-tuning (default: the recipe's)")
    add("--batch-size", type=_positive, metavar="N", help="of fine-tuning (default: the recipe's)")
    add("--augment", choices=("none", "flip", "views", "crop"), help="of fine-tuning (default: the recipe's)")
    add("--repeats", type=_positive, default=1, metavar="N", help="seeds from --seed on (default: %(default)s)")
    add("--device", default="auto", help=_DEVICE)

    add = _verb(verbs, "advise", run_advise, "say whether to stay frozen, go back to earlier layers or "
        "fine-tune, and what that may give and cost")
    add("store", metavar="STORE", help="best with --layers all-stages penultimate; the training split alone is read")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--features", metavar="NAME", help="network or fingerprint to advise on (default: all, the best first)")
    add("--seed", type=_natural, default=0, help="of the folds and of the draw of pictures (default: %(default)s)")

    add = _verb(verbs, "predict", run_predict, "classify new pictures")
    add("head", metavar="HEAD")
    add("images", metavar="IMAGES", nargs="+", help="pictures, or sources as for extract")
    add("--csv", metavar="FILE", help="write path, label and every class's probability there (- is standard output)")
    add("--weights", action="append", default=[], metavar="FILE", help=_MOVED + "; once for each network")
    add("--projection", action="append", default=[], metavar="FILE", help="components file of the features, where "
        "they have one; once for each")
    add("--engine", default="auto", choices=_ENGINES, help="what runs the network (default: %(default)s)")
    add("--device", default="auto", help=_DEVICE)
    add("--batch-size", type=_positive, default=0, metavar="N", help="default: 4 on a CPU, 128 on a GPU")

    add = _verb(verbs, "finetune", run_finetune, "train the network itself, to see whether it would have been worth it")
    add("images", metavar="IMAGES|STORE", help="pictures as for extract, or a store of them, which then keeps the "
        "activations of frozen stages")
    add("--mode", default="full", choices=_MODES, help="head: the last layer alone; partial: what follows the first "
        "stages; full: everything; scratch: everything, from random weights; lp-ft: everything, from a linear head "
        "fitted on the frozen features (default: %(default)s)")
    add("-o", "--output", metavar="CHECKPOINT", required=True, help="file to write the network to; eval and predict "
        "take it for a head, extract --weights for a backbone")
    add("--preset", default="default", choices=_PRESETS, help="recipe; ants and hotdog are those of the tutorials "
        "(default: %(default)s)")
    add = add.group("what it starts from")
    add("--backbone", metavar="NAME", help="torchvision or timm network (default: the checkpoint's, that "
        "of the store's features, or efficientnet_lite0)")
    add("--weights", default="default", metavar="FILE|default|random", help="as for extract; a checkpoint, too")
    add("--partial", action="store_true", help="take from the state dict what fits, and say what does not")
    add("--init", default="auto", choices=("auto", "random", "rows"), help="what the new last layer starts from: rows "
        "of the old one for classes that it knew by name, or chance (default: rows if it knew every class)")
    add("--start", metavar="HEAD", help="linear head whose weights lp-ft starts from (default: lr, fitted first)")
    add = add.group("which pictures train, and which measure")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--on", metavar="SPLIT", help="what to measure on (default: test, or val where there is no test); it chooses "
        "nothing")
    add("--test-fraction", type=float, metavar="F", help="split pictures anew: share of each class for test")
    add("--val-fraction", type=float, metavar="F", help="share of each class for val")
    add("--split-seed", type=int, metavar="N", help="another seed gives another split (default: 0)")
    add("--keep", choices=("best", "last"), help="epoch whose weights are written (default: best, on val or "
        "on pictures held out of train)")
    add("--hold-out", type=float, metavar="F", help="share of train that chooses the epoch where val cannot "
        "(default: 0.15)")
    add("--patience", type=_positive, metavar="N", help="stop after so many epochs without a better one")
    add = add.group("what is trained, and how (defaults are those of --preset default)")
    add("--freeze", type=_positive, metavar="K", help="stages that partial leaves as they are (default: all but the "
        "last)")
    add("--epochs", type=_positive, metavar="N", help="passes over the training pictures (15; 30 from scratch)")
    add("--batch-size", type=_positive, metavar="N", help="pictures in a step (32)")
    add("--accumulate", type=_positive, metavar="N", help="parts to sum a step's gradient from, for less memory (1)")
    add("--optimizer", choices=("sgd", "adamw"), help="(sgd)")
    add("--lr", type=float, metavar="RATE", help="of the pretrained layers (0.0005; lp-ft 0.0003, scratch 0.03)")
    add("--head-lr-factor", type=float, metavar="F", help="the new layer's rate is so many times that (10; 1 where "
        "it starts from what was known, and from scratch)")
    add("--layer-decay", type=float, metavar="F", help="each stage's rate is so many times the next one's (1)")
    add("--reduction", choices=("mean", "sum"), help="of a step's losses; with sum rates are for a picture, not for a "
        "step (mean)")
    add("--norm", choices=("kept", "batch"), help="BatchNorm keeps its statistics, or takes each batch's (kept; batch "
        "from scratch)")
    add("--momentum", type=float, metavar="M", help="of sgd (0.9)")
    add("--weight-decay", type=float, metavar="W", help="(0.0001)")
    add("--schedule", choices=("constant", "step", "cosine", "cooldown"), help="how rates fall (cosine, to zero; "
        "cooldown: from half way)")
    add("--step-epochs", type=_positive, metavar="N", help="of the schedule step: how often they fall (7)")
    add("--gamma", type=float, metavar="G", help="of the schedule step: to what share (0.1)")
    add("--warmup", type=float, metavar="EPOCHS", help="over which rates rise from zero (1)")
    add("--label-smoothing", type=float, metavar="S", help="share of the target spread over all classes (0)")
    add("--mixup", type=float, metavar="A", help="mix pairs of pictures, with shares from Beta(A, A) (0: none)")
    add("--augment", choices=("none", "flip", "views", "crop"), help="crop: random crops and mirroring; views: a few "
        "such crops, kept with the activations of frozen stages; flip: mirroring (crop; head and partial flip)")
    add("--views", type=_positive, metavar="N", help="crops of each picture, of --augment views (8)")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same, whatever its number of pictures")
    add("--precision", choices=_PRECISIONS, help="of the passes (fp16 on CUDA, else float32)")
    add("--seed", type=_natural, metavar="N", help="of the new layer, the order, augmentation and dropout (0)")
    add = add.group("preprocessing (default: that of the store's features, else the network's own)")
    add("--input-size", type=_positive, metavar="PX", help="side of the square that the network sees")
    add("--resize", type=_positive, metavar="PX", help="shorter side before the crop")
    add("--color", choices=("rgb", "gray", "luma", "rgba"), help="as for extract")
    add = add.group("running")
    add("--device", default="auto", help=_DEVICE)
    add("--workers", type=_positive, default=0, metavar="N", help="threads that decode (default: one a core)")
    add("--no-cache", action="store_true", help="run frozen stages in every epoch")
    add("--png", type=_png, metavar="FILE.png", help="draw the curves of loss and accuracy")
    add("--csv", metavar="FILE", help="write a row for each epoch there (- is standard output)")
    add("--tensorboard", metavar="FOLDER", help="write TensorBoard's events there")

    add = _verb(verbs, "depth", run_depth, "search how many stages of a network are best left frozen")
    add("images", metavar="IMAGES|STORE", help="as for finetune; a store keeps the activations of every depth")
    add("-o", "--output", metavar="CHECKPOINT", help="file to write the best network to; a search that is stopped can "
        "then be taken up again")
    add("--depths", type=_natural, nargs="+", default=[], metavar="K", help="frozen stages to try: 0 trains all "
        "layers, one more than there are the last layer alone (default: every number)")
    add("--budget", type=_positive, metavar="N", help="epochs of every depth before the first half of them is dropped; "
        "twice as many before the next (default: 2)")
    add("--epochs", type=_positive, metavar="N", help="instead: epochs of the best depth in all")
    add("--backbone", metavar="NAME", help="as for finetune")
    add("--weights", default="default", metavar="FILE|default|random", help="as for extract; a checkpoint too")
    add("--partial", action="store_true", help="take from the state dict what fits, and say what does not")
    add("--init", default="auto", choices=("auto", "random", "rows"), help="as for finetune")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--on", metavar="SPLIT", help="what the best depth is measured on, once (default: test, or val where there is "
        "no test); it chooses nothing")
    add("--test-fraction", type=float, metavar="F", help="split pictures anew: share of each class for test")
    add("--val-fraction", type=float, metavar="F", help="share of each class for val")
    add("--split-seed", type=int, metavar="N", help="another seed gives another split (default: 0)")
    add = add.group("how every depth is trained (default: as by finetune)")
    add("--batch-size", type=_positive, metavar="N")
    add("--optimizer", choices=("sgd", "adamw"))
    add("--lr", type=float, metavar="RATE", help="of the pretrained layers")
    add("--head-lr-factor", type=float, metavar="F", help="the new layer's rate is so many times that (default: 10)")
    add("--layer-decay", type=float, metavar="F", help="each stage's rate is so many times the next one's")
    add("--momentum", type=float, metavar="M")
    add("--weight-decay", type=float, metavar="W")
    add("--warmup", type=float, metavar="EPOCHS", help="over which the rate rises")
    add("--label-smoothing", type=float, metavar="S")
    add("--augment", default="flip", choices=("none", "flip", "crop"), help="of all depths alike; crop: random crops, "
        "new in every epoch, so that no activations can be kept (default: %(default)s)")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same")
    add("--hold-out", type=float, metavar="F", help="share of train that chooses the depth where val cannot (default: "
        "0.15)")
    add("--precision", choices=_PRECISIONS, help="default: fp16 on CUDA, else float32")
    add("--seed", type=_natural, metavar="N", help="the same for every depth (default: 0)")
    add = add.group("preprocessing (default: the network's own)")
    add("--input-size", type=_positive, metavar="PX", help="side of the square that the network sees")
    add("--resize", type=_positive, metavar="PX", help="shorter side before the crop")
    add("--color", choices=("rgb", "gray", "luma", "rgba"), help="as for extract")
    add = add.group("running")
    add("--device", default="auto", help=_DEVICE)
    add("--workers", type=_positive, default=0, metavar="N", help="threads that decode (default: one a core)")
    add("--no-cache", action="store_true", help="run frozen stages in every epoch")
    add("--png", type=_png, metavar="FILE.png", help="draw the held-out accuracy of every depth after every rung")

    add = _verb(verbs, "info", run_info, "show what a store holds, or statistics of pictures")
    add("source", metavar="STORE|IMAGES", help="a store, or pictures as for `extract`")
    add = add.group("of pictures")
    add("--quick", action="store_true", help="parse the headers alone; damage further in is then not noticed")
    add("--sheet", type=_png, metavar="FILE.png", help="draw samples of each class on a contact sheet (further pages: "
        "FILE-2.png, ...)")
    add("--per-class", type=_per_class, default=0, metavar="N", help="samples of each class, up to 100 (default: 8; 40 "
        "of pictures without labels)")
    add("--seed", type=_natural, default=0, metavar="N", help="of the samples (default: %(default)s)")

    add = _verb(verbs, "verify", run_verify, "check every checksum of a store, and a sample of its features")
    add("store", metavar="STORE")
    add("--sample", type=int, metavar="N", help="pictures of each network to extract again (default: 8 where torch is "
        "installed)")
    add("--weights", default="", metavar="FILE", help=_MOVED)
    add("--device", default="auto", help=_DEVICE)
    add("--seed", type=int, default=0, help="of the sample (default: %(default)s)")

    add = _verb(verbs, "export", run_export, "write features of a store for other tools: .npz, .parquet or .csv")
    add("store", metavar="STORE")
    add("-o", "--output", metavar="FILE", required=True, help="its ending says what to write")
    add("--split", help="what to export (default: all pictures of the image set)")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="as for fit")

    add = _verb(verbs, "demo", run_demo, "do all of it on 1,797 small pictures of digits")
    add("-o", "--output", metavar="FOLDER", default="penult-demo", help="where to (default: %(default)s)")
    # fmt: on
    return parser


def run_extract(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `extract`."""
    from data.terminal import ProgressDisplay
    from extract.backbones import DEFAULT_BACKBONE, Options
    from extract.checkpoints import read_checkpoint
    from extract.datasets import open_source
    from extract.extractor import Extractor
    from extract.preprocess import expand_views
    from extract.report import print_extraction
    from extract.wanted import Wanted

    if arguments.layer == ["list"]:
        return _list_layers(arguments.backbone or [DEFAULT_BACKBONE], console)
    store = Path(arguments.output)
    if arguments.output.endswith(os.sep):
        store.mkdir(parents=True, exist_ok=True)
    else:
        store.parent.mkdir(parents=True, exist_ok=True)
    images = open_source(arguments.images, arguments.name)
    options = Options(
        input_size=arguments.input_size,
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
        decoder=arguments.decoder,
        color=arguments.color,
    )
    checkpoint = read_checkpoint(Path(arguments.weights)) if Path(arguments.weights).is_file() else None
    own = [checkpoint.spec.backbone] if checkpoint else [DEFAULT_BACKBONE]
    options = checkpoint.options(options) if checkpoint else options
    wanted = [
        Wanted(
            backbone,
            arguments.weights,
            options,
            arguments.seed,
            arguments.partial,
            tuple(arguments.layer or ["penultimate"]),
            arguments.pooling,
            tuple(expand_views(arguments.view or ["center"])),
            arguments.average,
            arguments.projection,
            arguments.normalize,
        )
        for backbone in dict.fromkeys(arguments.backbone or own)
    ]
    with ProgressDisplay(console, "pictures") as display:
        result = Extractor(
            images,
            store,
            wanted,
            engine=arguments.engine,
            device=arguments.device,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
            compile=arguments.compile,
            workers=arguments.workers,
            dtype=arguments.dtype,
            split=_split_rule(arguments),
            rehash=arguments.rehash,
            strict=arguments.strict,
            ray=arguments.ray,
            ray_workers=arguments.ray_workers,
            staging=arguments.staging,
            on_progress=lambda p: display.update(p.done, p.total, p.skipped),
        ).run()
    print_extraction(console, result, store)
    skipped_json = [{"path": s.path, "reason": s.reason} for s in result.skipped]
    features_json = [vars(feature) for feature in result.features]
    return {**vars(result), "skipped": skipped_json, "features": features_json}, 0


def _list_layers(backbones: list[str], console: "Console") -> Result:
    from extract.layers import layer_names

    layers = {name: layer_names(name) for name in backbones}
    for name, names in layers.items():
        console.print(f"{name}: {', '.join(names)}")
    return {"layers": layers}, 0


def run_fit(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `fit`."""
    from classify.fitting import Fitting
    from classify.report import print_heads, print_training
    from data.terminal import ProgressDisplay

    if arguments.shots or arguments.curve:
        return _run_protocol(arguments, console)
    if not arguments.output:
        _wrong_usage("fit", "name the file to write the head to with -o HEAD; only --shots and --curve write none")
    if arguments.on:
        _wrong_usage("fit", "--on belongs to --shots and --curve: name one of these too")
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
            on_progress=display.update,
            on_step=lambda step, gap: display.remark(f"step {step}, gap {gap:.0e}"),
        )
        fitting.open()
        if arguments.head == "all":
            found = fitting.fit_all(Path(arguments.output))
        else:
            found = [fitting.fit(arguments.head, Path(arguments.output))]
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
    from data.splits import measured_split
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    if (arguments.shots and arguments.curve) or arguments.output or arguments.tune == "val":
        _wrong_usage("fit", "--shots or --curve stands alone: it writes no head, so leave out -o, and --tune val")
    changed = arguments.rule != "best" or arguments.calibrate != "temperature"
    if arguments.memory or arguments.grid or arguments.nested or changed:
        _wrong_usage(
            "fit",
            "--memory, --grid, --nested, --rule and --calibrate are for a head that is written: leave "
            "them out of --shots and --curve",
        )
    store = FeatureStore(arguments.store)
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


def run_eval(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `eval`."""
    from classify.artifact import load_head
    from classify.evaluate import evaluate
    from classify.report import print_evaluation
    from data.store import FeatureStore

    heads = [load_head(Path(path)) for path in arguments.heads]
    store = FeatureStore(arguments.store)
    _extract_of_checkpoints(heads, store, arguments, console)
    result = evaluate(heads, store, arguments.split, dataset=arguments.dataset, seed=arguments.seed)
    print_evaluation(console, result)
    return result.as_json(), 0


def _extract_of_checkpoints(
    heads: "list[TrainedHead]", store: "FeatureStore", arguments: argparse.Namespace, console: "Console"
) -> None:
    """Add to a store what fine-tuned networks among the heads give for the pictures of a split."""
    from data.splits import measured_split

    tuned = [head for head in heads if head.kind == "finetuned"]
    held = store.features() if tuned else {}
    for head in tuned:
        split = arguments.split or measured_split(store.splits(arguments.dataset))
        view = store.view(arguments.dataset).of_split(split)
        lacking = set(view.digests.tolist())
        if head.spec.fingerprint in held:
            lacking -= set(store.digests(head.spec.fingerprint).tolist())
        if lacking:
            from data.terminal import ProgressDisplay
            from extract.checkpoints import extract_view

            with ProgressDisplay(console, "pictures") as display:
                extract_view(Path(head.name), view, store.path, lambda p: display.update(p.done, p.total, p.skipped))
            console.print(
                f"note: {len(lacking)} pictures of {split} went through {head.name}; {store.path} has them now"
            )


def run_audit(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `audit`."""
    from classify.audit import Audit
    from classify.audit_report import print_audit, write_audit_csv
    from classify.duplicates import find_copies
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    store = FeatureStore(arguments.store)
    samples = store.load(dataset=arguments.dataset, features=arguments.features)
    splits = store.views()[samples.dataset].splits
    with ProgressDisplay(console, "pictures compared") as display:
        copies = find_copies(samples.X, samples.digests, display.update)
    pair = (arguments.split_pair[0], arguments.split_pair[1]) if arguments.split_pair else None
    with ProgressDisplay(console, "fits") as display:
        audit = Audit(samples, splits, copies, arguments.head, arguments.folds, arguments.seed)
        result = {"store": arguments.store, **audit.run(pair, display.update)}
    if arguments.csv:
        write_audit_csv(arguments.csv, result)
    if arguments.csv != "-":
        print_audit(console, result, arguments.csv)
    return result, 0


def run_compare(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `compare`."""
    if arguments.strategies is not None:
        return _run_contest(arguments, console)
    from classify.compare import all_kinds, compare
    from classify.compare_report import draw_rankings, print_ranking
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    with ProgressDisplay(console, "heads") as display:
        rankings = compare(
            [FeatureStore(path) for path in dict.fromkeys(arguments.stores)],
            all_kinds(arguments.heads),
            features=arguments.features,
            dataset=arguments.dataset,
            split=arguments.split,
            on=arguments.on,
            tune=arguments.tune,
            seed=arguments.seed,
            save=Path(arguments.save) if arguments.save else None,
            memory=arguments.memory,
            on_progress=display.update,
        )
    for i, ranking in enumerate(rankings):
        console.print("\n" * bool(i), end="")
        print_ranking(console, ranking)
    if arguments.save:
        console.print(f"wrote {sum(len(r.entries) for r in rankings)} heads to {arguments.save}")
    charts = draw_rankings(Path(arguments.png), rankings) if arguments.png else []
    for path in charts:
        console.print(f"wrote {path}")
    return {"rankings": [r.as_json() for r in rankings], "charts": [str(path) for path in charts]}, 0


def run_advise(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `advise`."""
    from classify.advise import advise
    from classify.advise_report import print_advice
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    with ProgressDisplay(console, "measurements") as display:
        advice = advise(
            FeatureStore(arguments.store),
            _original,
            dataset=arguments.dataset,
            features=arguments.features,
            seed=arguments.seed,
            on_progress=display.update,
        )
    print_advice(console, advice)
    return advice.as_json(), 0


def _original(source: "Source", classes: Sequence[str]) -> "Original":
    """Carry what stage one knows of the network behind features to stage two, which has no torch."""
    from classify.probing import Original
    from data.errors import BackboneError, MissingDependency
    from extract.class_names import describe_matches, match_classes
    from extract.cost import count_macs
    from extract.original import original_layer_of

    macs = None
    with contextlib.suppress(BackboneError, MissingDependency):
        macs = float(count_macs(source.spec.backbone, source.spec.crop))
    layer, reason = original_layer_of(source, "advise")
    if layer is None:
        return Original(reason=reason, macs=macs)
    matches = match_classes(classes, layer.names)
    lines = [*([layer.note] if layer.note else []), *(describe_matches(matches, layer.names) if layer.names else [])]
    return Original(
        weight=layer.weight,
        bias=layer.bias,
        names=tuple(synonyms[0] for synonyms in layer.names),
        rows=tuple(match.rows for match in matches),
        lines=tuple(lines),
        reason="",
        macs=macs,
    )


def _run_contest(arguments: argparse.Namespace, console: "Console") -> Result:
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
    strategies = list(dict.fromkeys(arguments.strategies or _STRATEGIES))
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
            rivals.features("rgb", "head2toe" in strategies)  # so that the advice may look at earlier layers, too
            advice = advise(store, _original, dataset=name, features=source.info.spec.fingerprint, seed=arguments.seed)
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
        for contest in [contest for contest in found if contest.color == "rgb"]:  # which the advice is about
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


def run_predict(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `predict`."""
    from classify.artifact import load_head
    from classify.report import print_predictions, write_csv
    from data.images import Selection
    from data.terminal import ProgressDisplay, printable
    from extract.datasets import open_source
    from extract.embed import embed_all, reopen_all

    head = load_head(Path(arguments.head))
    pictures = Selection([(source, open_source(source)) for source in arguments.images])
    opened = reopen_all(head.sources, f"head {head.name}", weights=arguments.weights, projections=arguments.projection)
    with ProgressDisplay(console, "pictures") as display:
        found = embed_all(
            pictures,
            opened,
            head.specs,
            engine=arguments.engine,
            device=arguments.device,
            batch_size=arguments.batch_size,
            on_progress=display.update,
        )
    predictions = head.predictions([pictures.title(i) for i in found.indices.tolist()], found.vectors)
    if arguments.csv:
        write_csv(arguments.csv, predictions, head.classes)
    if arguments.csv != "-":
        print_predictions(console, predictions)
    for note in found.notes:
        console.print(f"note: {note}")
    for item in found.skipped:
        console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
    if not predictions:
        print(f"penult: error: none of the {len(pictures)} pictures could be read: check the files", file=sys.stderr)
    skipped_json = [{"path": s.path, "reason": s.reason} for s in found.skipped]
    return {"predictions": predictions, "skipped": skipped_json}, 0 if predictions else 1


def run_finetune(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `finetune`."""
    from classify.folding import fit_probe
    from classify.statistics import wilson_interval
    from data.report import is_store
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay
    from extract.datasets import open_source
    from finetune.logs import Logs
    from finetune.report import print_epoch, print_note, print_resumed, print_tuning
    from finetune.strategies import Strategy, make_strategy
    from finetune.trainer import Epoch
    from finetune.tuning import Tuner

    named = {f.name for f in dataclasses.fields(Strategy)} - {"mode"}
    changes = {name: value for name, value in vars(arguments).items() if name in named and value is not None}
    strategy = make_strategy(arguments.mode, arguments.preset, **changes)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    stored = is_store(Path(arguments.images))
    network = _network_to_tune(arguments, stored)
    title = f"{network[0]}, {arguments.mode}, on {Path(arguments.images).name}"
    logs = Logs(title, arguments.png, arguments.csv, arguments.tensorboard)

    def told(epoch: Epoch) -> None:
        first = not logs.epochs
        logs.add(epoch)
        print_epoch(console, epoch, strategy.epochs, header=first)

    def resumed(epochs: list[Epoch]) -> None:
        logs.add(*epochs)
        print_resumed(console, epochs, strategy.epochs)

    def stepped(done: int, total: int) -> None:
        if display.what != "steps":
            display.count("steps")
        display.update(done, total)

    with ProgressDisplay(console, "pictures") as display, logs:
        tuner = Tuner(
            FeatureStore(arguments.images) if stored else open_source(arguments.images, arguments.dataset),
            output,
            strategy,
            *network,
            arguments.partial,
            arguments.dataset,
            _split_rule(arguments),
            arguments.on,
            arguments.device,
            arguments.workers,
            not arguments.no_cache,
            arguments.init,
            _start_of(arguments.start) if arguments.start else None,
            lambda samples: fit_probe(samples, strategy.seed),
            on_progress=lambda p: display.update(p.done, p.total, p.skipped),
            on_picture=display.update,
            on_step=stepped,
            on_epoch=told,
            on_resume=resumed,
            on_note=lambda note: print_note(console, note),
        )
        tuning = tuner.run()
    interval = wilson_interval(int(tuning.right.sum()), len(tuning.targets))
    print_tuning(console, tuning, interval)
    return {**tuning.as_json(), "accuracy_ci95": list(interval), "chart": arguments.png}, 0


def run_depth(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `depth`."""
    from tempfile import TemporaryDirectory

    from classify.statistics import holm, mcnemar_exact, wilson_interval
    from data.canvas import Canvas
    from data.report import is_store
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay
    from extract.datasets import open_source
    from finetune.depth import DepthSearch, Judge
    from finetune.depth_report import draw_search, print_rung, print_search, show_epoch
    from finetune.strategies import Strategy, make_strategy
    from finetune.tuning import Tuner

    if arguments.budget and arguments.epochs:
        _wrong_usage("depth", "--epochs and --budget say the same: name one of them")
    if arguments.png:
        Canvas(Path(arguments.png), 1).check()
    named = {f.name for f in dataclasses.fields(Strategy)} - {"mode", "epochs"}
    changes = {name: value for name, value in vars(arguments).items() if name in named and value is not None}
    stored = is_store(Path(arguments.images))
    with contextlib.ExitStack() as stack:
        spare = "" if arguments.output else stack.enter_context(TemporaryDirectory(prefix="penult-depth-"))
        output = Path(arguments.output or spare, "" if arguments.output else "network")
        output.parent.mkdir(parents=True, exist_ok=True)
        display = stack.enter_context(ProgressDisplay(console, "pictures"))
        tuner = Tuner(
            FeatureStore(arguments.images) if stored else open_source(arguments.images, arguments.dataset),
            output,
            make_strategy("full", schedule="cooldown", **changes),
            *_network_to_tune(arguments, stored),
            arguments.partial,
            arguments.dataset,
            _split_rule(arguments),
            arguments.on,
            arguments.device,
            arguments.workers,
            not arguments.no_cache,
            arguments.init,
            on_progress=lambda p: display.update(p.done, p.total, p.skipped),
            on_picture=display.update,
        )
        job = DepthSearch(
            tuner,
            Judge(wilson_interval, mcnemar_exact, holm),
            arguments.budget or 2,
            arguments.epochs or 0,
            arguments.depths,
            bool(arguments.output),
            lambda *told: show_epoch(display, *told),
            lambda *told: print_rung(console, *told),
        )
        try:
            search = job.run()
        except KeyboardInterrupt:
            if arguments.output:
                raise
            raise KeyboardInterrupt("interrupted: without -o nothing is kept, the same command starts anew") from None
    print_search(console, search)
    if arguments.png:
        title = f"{search.backbone} on {Path(arguments.images).name}"
        draw_search(Path(arguments.png), search, title)
    return {**search.as_json(), "chart": arguments.png}, 0


def _network_to_tune(arguments: argparse.Namespace, stored: bool) -> "tuple[str, str, Options]":
    """Return network, weights and preprocessing: what is named, else those of a store's penultimate features.

    A checkpoint's own are left to `finetune.tuning.Tuner`.
    """
    from classify.sources import penultimate_sources
    from data.errors import StoreError
    from data.store import FeatureStore
    from extract.backbones import Options
    from extract.wanted import wanted_of

    named = {"input_size": arguments.input_size, "resize": arguments.resize, "color": arguments.color}
    changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if stored and arguments.weights == "default":
        with contextlib.suppress(StoreError):
            names = [arguments.backbone] if arguments.backbone else []
            found = penultimate_sources([FeatureStore(arguments.images)], names, arguments.dataset)[0].info.source
            wanted = wanted_of(found.request, found.weights, "")
            return wanted.backbone, wanted.weights, dataclasses.replace(wanted.options, **changes)
    return arguments.backbone or "", arguments.weights, Options(**changes)


def _start_of(path: str) -> "LinearStart":
    from classify.artifact import load_head
    from finetune.beginnings import LinearStart

    head = load_head(Path(path))
    return LinearStart(*head.linear(), head.classes, head.spec.fingerprint, head.name)


def _split_rule(arguments: argparse.Namespace) -> "SplitRule | None":
    from data.splits import SplitRule

    asked = {
        "test_fraction": arguments.test_fraction,
        "val_fraction": arguments.val_fraction,
        "seed": arguments.split_seed,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return SplitRule(**given) if given else None


def run_info(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `info`."""
    from data.report import describe_store, is_store, print_info

    path = Path(arguments.source)
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
    return result, 0


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


def run_verify(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `verify`."""
    from data.verify import verify_store

    path = Path(arguments.store)
    verdict = verify_store(path)
    problems = list(verdict.problems)
    console.print(
        f"{verdict.files} files, {verdict.views} image sets, {verdict.rows} vectors in {verdict.blocks} blocks: "
        + (f"{len(problems)} problems" if problems else "every checksum is right")
    )
    for where, lacking in verdict.missing.items():
        console.print(f"note: {lacking} pictures of {where} have no vector")
    rechecks: list[dict[str, Any]] = []
    torch_is_there = importlib.util.find_spec("torch") is not None
    wanted = arguments.sample if arguments.sample is not None else 8 if torch_is_there else 0
    if wanted and not problems:
        from data.errors import MissingDependency, WeightsError
        from extract.recheck import recheck

        try:
            for check in recheck(path, wanted, seed=arguments.seed, weights=arguments.weights, device=arguments.device):
                gone = f", {check.changed} files are gone or changed" if check.changed else ""
                console.print(
                    f"{check.spec}: {check.checked} pictures extracted again, largest deviation "
                    f"{check.largest_deviation:.1e} (allowed {check.tolerance:.0e}){gone}"
                )
                rechecks.append({**vars(check), "sound": check.sound})
                if not check.sound:
                    problems.append(f"{check.spec}: features extracted again differ by {check.largest_deviation:.1e}")
        except (WeightsError, MissingDependency) as error:
            if arguments.sample is not None:
                raise
            console.print(f"note: no sample was extracted again: {error}")
    for problem in problems:
        print(f"penult: error: {problem}", file=sys.stderr)
    return {**vars(verdict), "problems": problems, "rechecks": rechecks}, 1 if problems else 0


def run_export(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `export`."""
    from data.export import export_table, print_export, refuse_head
    from data.table import choose_table
    from data.terminal import ProgressDisplay

    refuse_head(Path(arguments.store))
    table = choose_table(arguments.store, arguments.split, dataset=arguments.dataset, features=arguments.features)
    with ProgressDisplay(console, "rows") as display:
        export_table(table, arguments.output, display.update)
    return print_export(console, table, Path(arguments.output)), 0


def run_demo(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `demo`."""
    from classify.digits import write_digits

    folder = Path(arguments.output)
    n = write_digits(folder / "digits")
    console.print(f"{n} pictures of handwritten digits are in {folder / 'digits'}")
    store = str(folder / "features.h5")
    heads = [str(folder / f"{kind}.head") for kind in ("lr", "svm", "mlp")]
    commands = [["extract", str(folder / "digits"), "-o", store]]
    commands += [["fit", store, "--head", Path(head).stem, "-o", head] for head in heads]
    commands += [
        ["eval", *heads, store],
        ["predict", heads[0], *(str(folder / "digits/test" / f"{d}/007.png") for d in (3, 5, 8))],
    ]
    results = []
    for command in commands:
        console.print(f"\n$ penult {' '.join(command)}", style="bold")
        parsed = build_parser().parse_args(command)
        result, code = parsed.run(parsed, console)
        results.append({"command": command, "result": result})
        if code:
            return {"commands": results}, code
    return {"commands": results}, 0


class _Adder:
    """Adds arguments to a parser or to a group of it; `group` goes on to the next group."""

    def __init__(self, parser: argparse.ArgumentParser, to: Any) -> None:
        self.parser = parser
        self.to = to

    def __call__(self, *names: str, **options: Any) -> None:
        self.to.add_argument(*names, **options)

    def group(self, title: str) -> "_Adder":
        return _Adder(self.parser, self.parser.add_argument_group(title))


def _verb(verbs: Any, name: str, run: Callable[..., Result], text: str) -> _Adder:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    add = _Adder(parser, parser)
    add("--json", metavar="FILE", help="write the results there as one JSON object (- is standard output)")
    add("--debug", action="store_true", help="show the traceback of a failure")
    return add


def _wrong_usage(verb: str, message: str) -> NoReturn:
    """Exit as argparse does, for what only a verb can know to be wrong."""
    print(f"usage: penult {verb} --help\npenult {verb}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def _folds(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be 2 or more, got {value}")
    return value


def _per_class(text: str) -> int:
    value = _positive(text)
    if value > 100:  # a class's row would be higher than a page
        raise argparse.ArgumentTypeError(f"must be 100 or less, got {value}")
    return value


def _png(text: str) -> str:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return text


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


def _bytes(text: str) -> int:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if text.lower().endswith(unit.lower()) and text[:-2].replace(".", "", 1).isdigit():
            return int(float(text[:-2]) * scale)
    raise argparse.ArgumentTypeError(f"must be a size such as 2GB or 500MB, got {text!r}")


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
            values[name] = text
    return values


def _foreign_package() -> str:
    """Say which package of ours is shadowed by another of the same name, if one is."""
    here = Path(__file__).resolve().parent
    for name in _OURS:
        found = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (found.submodule_search_locations or [])] if found else []
        if here / name not in places:
            where = found.origin or str(places[0]) if found and (found.origin or places) else "nowhere"
            return (
                f"the package {name!r} comes from {where}, not from {here / name}: another package has the same "
                "name; install Penult into an environment of its own"
            )
    return ""


def _console(arguments: argparse.Namespace) -> "Console":
    from rich.console import Console

    # standard output belongs to the JSON or CSV where it was asked for
    busy = arguments.json == "-" or getattr(arguments, "csv", None) == "-"
    console = Console(stderr=busy, markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=busy, markup=False, highlight=False, width=160)
    return console


if __name__ == "__main__":
    sys.exit(main())
