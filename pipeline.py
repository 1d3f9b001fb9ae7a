"""The command line: verbs, arguments, tables and exit codes. A stage is imported inside its verb alone.

Exit 0 done, 1 failed with one clear message, 2 wrong usage, 130 interrupted and resumable.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_OURS = ("data", "extract", "classify", "finetune")
# The keys of classify.heads.HEADS and extract.engines.ENGINES, which `--help` must not wait for; a test compares.
_HEADS = ("lr", "svm", "mlp", "knn", "bayes", "centroid", "ridge", "lda", "stack", "head2toe")
_ENGINES = ("auto", "torch", "onnx")
_PRECISIONS = ("auto", "float32", "fp16", "bf16")
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
    add("--head", required=True, choices=_HEADS, help="kind of classifier")
    add("-o", "--output", metavar="HEAD", required=True, help="file to write the head to")
    add("--split", default="train", help="what to train on (default: %(default)s)")
    add("--tune", default="cv", choices=("cv", "val", "none"), help="choose the regularisation by 5-fold "
        "cross-validation on the training split, by the val split, or not (default: %(default)s)")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="set a parameter, such as C=0.01 "
        "or hidden=64,32, instead of choosing it")
    add("--class-weight", choices=("balanced",), help="let every class weigh the same")
    add("--augment", action="store_true", help="train on every stored view of the pictures; measure on the centre")
    add("--seed", type=int, default=0, help="of the folds and of the head (default: %(default)s)")
    add("--dataset", metavar="NAME", help=_DATASET)
    add("--features", action="extend", nargs="+", metavar="NAME", help="network, layer, NETWORK/LAYER or fingerprint, "
        "where the store has several; several are put side by side; all-stages is every layer of one network")

    add = _verb(verbs, "eval", run_eval, "measure heads on a split and rank them")
    add("heads", metavar="HEAD", nargs="+")
    add("store", metavar="STORE")
    add("--split", help="what to measure on (default: test, or val where there is no test)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--dataset", metavar="NAME", help=_DATASET)

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

    add = _verb(verbs, "demo", run_demo, "do all of it on 1,797 small pictures of digits")
    add("-o", "--output", metavar="FOLDER", default="penult-demo", help="where to (default: %(default)s)")
    # fmt: on
    return parser


def run_extract(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `extract`."""
    from data.splits import SplitRule
    from data.terminal import ProgressDisplay
    from extract.backbones import DEFAULT_BACKBONE, Options
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
    asked = {
        "test_fraction": arguments.test_fraction,
        "val_fraction": arguments.val_fraction,
        "seed": arguments.split_seed,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    split = SplitRule(**given) if given else None
    options = Options(
        input_size=arguments.input_size,
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
        decoder=arguments.decoder,
        color=arguments.color,
    )
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
        for backbone in dict.fromkeys(arguments.backbone or [DEFAULT_BACKBONE])
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
            split=split,
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
    from classify.artifact import refuse_overwrite, save_head
    from classify.report import print_features, print_training
    from classify.selection import train
    from data.store import FeatureStore
    from data.terminal import ProgressDisplay

    refuse_overwrite(Path(arguments.output))
    store = FeatureStore(arguments.store)
    samples = store.load(
        arguments.split, dataset=arguments.dataset, features=arguments.features, augment=arguments.augment
    )
    val = None
    if arguments.tune == "val":
        val = store.load("val", dataset=samples.dataset, spec=samples.specs)
    with ProgressDisplay(console, "fits") as display:
        training = train(
            arguments.head,
            samples,
            tune=arguments.tune,
            val=val,
            params=_parameters(arguments.param),
            class_weight=arguments.class_weight,
            seed=arguments.seed,
            on_progress=display.update,
        )
    held = store.features()
    sources = [held[spec.fingerprint].source for spec in samples.specs]
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_head(
        output,
        training,
        samples,
        request=[source.request for source in sources],
        weights_file=[source.weights_file for source in sources],
    )
    n_train = len(samples.labelled())
    print_features(console, samples, training.head)
    print_training(console, training, n_train, 1 + len(samples.others), str(output))
    return {
        "head": str(output),
        "kind": training.kind,
        "params": training.params,
        "features": [spec.title for spec in samples.specs],
        "cv_accuracy": training.cv_accuracy,
        "tuned_on": training.tuned_on,
        "candidates": [vars(candidate) for candidate in training.candidates],
        "n_train": n_train,
        "views": 1 + len(samples.others),
        "seconds": round(training.seconds, 3),
        "notes": training.notes,
    }, 0


def run_eval(arguments: argparse.Namespace, console: "Console") -> Result:
    """Verb `eval`."""
    from classify.artifact import load_head
    from classify.evaluate import evaluate
    from classify.report import print_evaluation
    from data.store import FeatureStore

    heads = [load_head(Path(path)) for path in arguments.heads]
    result = evaluate(
        heads, FeatureStore(arguments.store), arguments.split, dataset=arguments.dataset, seed=arguments.seed
    )
    print_evaluation(console, result)
    return result.as_json(), 0


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


def _per_class(text: str) -> int:
    value = _positive(text)
    if value > 100:  # a class's row would be higher than a page
        raise argparse.ArgumentTypeError(f"must be 100 or less, got {value}")
    return value


def _png(text: str) -> str:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return text


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
