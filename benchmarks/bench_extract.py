"""Extraction on a CPU, all included, against the usual DataLoader loop and against the engine's own limit.

For each network, on the same pictures with distinct contents, three contestants run in turn, `--repeats` times:

loop
    What a competent user writes: torchvision's transforms on Pillow pictures in a Dataset, a DataLoader with 2
    workers and batches of 32, `model.eval()`, `torch.inference_mode()`, contiguous memory, features as numpy arrays.
engine
    The limit: the forward pass of the engine that Penult uses, on uint8 pictures that lie in memory already, in as
    many lanes as it has.
penult
    `Extractor.run` into a store that does not exist: reading, hashing, decoding, forward, staging, publishing, with
    every flush to disk.

img2vec, embetter
    Packages `img2vec_pytorch` and `embetter` where they are installed, for the networks that they know: time alone.

Building the network and loading its weights is in neither `loop` nor `penult` (it is the same work for both; the
seconds are in `open_s`): the extractor is handed the open network. Opening the engine on it and whatever that
compiles is part of `penult`; `engine_start_s` says how long it took with the first batch. The loop applies EXIF
orientation, as Penult does, so that both see the same pixels. Weights are random, by a fixed seed, for all networks
but efficientnet_lite0, whose weights are a package.

Figures: `speedup` = loop / penult, `limit_fraction` = engine / penult, of the medians; `cosine_min` over all rows of
all repeats between the loop's features and the store's, joined by digest. Since random networks give nearly the same
vector for every picture, the same is asked of the features less their mean (`cosine_min_centred`, at least 0.99),
which rows of other pictures would fail.

    python benchmarks/bench_extract.py
    python benchmarks/bench_extract.py --networks resnet18 --limit 64 --repeats 1
"""

import argparse
import contextlib
import functools
import hashlib
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms as T
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import find_peers
from benchmarks.timing import CheckFailed, finish, in_turn, medians, positive, real_data, say
from data.errors import PenultError
from data.images import ImageSet, open_images
from data.spec import FeatureSpec
from data.store import FeatureStore
from extract.backbones import DEFAULT_BACKBONE, Backbone, open_backbone
from extract.engines import Engine, open_engine
from extract.extractor import Extractor
from extract.flow import SAMPLE, decoding
from extract.networks import Setup
from extract.preprocess import recipes
from extract.reader import read_picture
from extract.results import Extraction
from extract.wanted import Wanted

NETWORKS = (DEFAULT_BACKBONE, "mobilenet_v2", "resnet18", "resnet50")
COSINE = 0.9999
COSINE_CENTRED = 0.99
BATCH, WORKERS = 32, 2  # of the usual loop
SEED = 0

Floats = npt.NDArray[np.float32]


class Pictures(Dataset[torch.Tensor]):
    """The Dataset of the usual loop."""

    def __init__(self, files: list[Path], spec: FeatureSpec) -> None:
        self.files = files
        self.transform = T.Compose(
            [
                T.Resize(spec.resize, T.InterpolationMode(spec.interpolation)),
                T.CenterCrop(spec.crop),
                T.ToTensor(),
                T.Normalize(spec.mean, spec.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            ImageOps.exif_transpose(image, in_place=True)
            tensor: torch.Tensor = self.transform(image.convert("RGB"))
        return tensor


def usual_loop(network: Any, files: list[Path], spec: FeatureSpec) -> Floats:
    """Return the features of `files`, (n, dim), by the usual loop."""
    loader = DataLoader(Pictures(files, spec), batch_size=BATCH, num_workers=WORKERS)
    network.eval()
    features = []
    with torch.inference_mode():
        for batch in loader:
            features.append(network(batch)[0].numpy())
    return np.concatenate(features)


def engine_alone(engine: Engine, pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return the features of pictures (n, H, W, 3) that lie in memory."""
    batches = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
    with decoding(), ThreadPoolExecutor(engine.lanes) as pool:
        return np.concatenate([outputs[0] for outputs in pool.map(engine.forward, batches)])


def choose_pictures(source: Path, limit: int, target: Path) -> ImageSet:
    """Copy `limit` pictures of distinct content to `target`, chosen over the whole set by a fixed seed.

    Only pictures that any loop can read: RGB or grey without transparency.

    Raises
    ------
    CheckFailed
        If there are none.
    """
    images = open_images(source)
    seen: set[bytes] = set()
    for i in random.Random(SEED).sample(range(len(images)), len(images)):
        file = images.file(i)
        digest = hashlib.sha256(file.read_bytes()).digest()
        with contextlib.suppress(OSError), Image.open(file) as image:
            plain = image.mode in ("RGB", "L") and "transparency" not in image.info
            if plain and digest not in seen:
                seen.add(digest)
                copy = target / images.paths[i]
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)
        if len(seen) == limit:
            break
    if not seen:
        raise CheckFailed(f"{source} holds no RGB or grey picture: name another folder with --images")
    return open_images(target)


def extract_into(store: Path, images: ImageSet, name: str, weights: str, engine: str, backbone: Backbone) -> Extraction:
    """Extract with a network that is open already."""
    wanted = Wanted(name, weights, seed=SEED)
    with mock.patch("extract.wanted.open_backbone", return_value=backbone) as opened:
        result = Extractor(images, store, [wanted], engine=engine, device="cpu").run()
    if opened.call_count != 1:
        raise CheckFailed("the extractor no longer opens its network by `open_backbone`: mend this benchmark")
    return result


def cosines(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of `a`, (n, dim), with that of `b`; NaN where one is zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: npt.NDArray[np.float64] = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return quotient


def check(store: Path, result: Extraction, digests: npt.NDArray[np.bytes_], loop: Floats) -> tuple[float, float]:
    """Compare a store with the loop's features and return the least cosine, as they are and less their mean.

    Raises
    ------
    CheckFailed
        If rows are missing, or a cosine is too low.
    """
    n = len(digests)
    if result.extracted != n or result.skipped:
        raise CheckFailed(f"{store} got {result.extracted} rows of {n}, {len(result.skipped)} pictures were skipped")
    try:
        stored = FeatureStore(store).vectors(result.fingerprint, digests).astype(np.float32)
    except PenultError as error:
        raise CheckFailed(f"rows are missing: {error}") from error
    plain = float(cosines(loop, stored).min())
    mean = loop.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = float(cosines(loop - mean, stored - mean).min()) if n > 1 else 1.0
    if not (plain >= COSINE and centred >= COSINE_CENTRED):  # NaN fails too
        raise CheckFailed(
            f"the store's features are not the loop's: least cosine {plain:.6f} (at least {COSINE}), less their mean "
            f"{centred:.6f} (at least {COSINE_CENTRED})"
        )
    return plain, centred


def measure_network(name: str, images: ImageSet, engine_name: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one network and return its figures."""
    weights = "default" if name == DEFAULT_BACKBONE else "random"
    start = time.perf_counter()
    backbone = open_backbone(name, weights, seed=SEED)
    open_s = time.perf_counter() - start
    spec = backbone.spec
    if spec.fit != "shorter":
        raise CheckFailed(f"{name} wants {spec.fit!r} resizing, which the usual loop here does not do: choose another")
    # a network of its own, in contiguous memory: an engine may rearrange the one that it is given
    own = open_backbone(name, weights, seed=SEED).network
    files = [images.file(i) for i in range(len(images))]
    recipe = recipes(spec)[0]
    with decoding():
        read = [read_picture(images, i, lambda _: [recipe]) for i in range(len(images))]
    if bad := [p for p in read if not p.inputs]:
        raise CheckFailed(f"{files[bad[0].index]} cannot be read ({bad[0].reason}): choose other pictures")
    pixels = np.stack([p.inputs[recipe] for p in read])
    digests = np.array([p.digest for p in read], dtype="S64")
    start = time.perf_counter()
    engine = open_engine(backbone, Setup(engine_name, "cpu"), pixels[:SAMPLE])
    engine_start_s = time.perf_counter() - start
    usual_loop(own, files[:BATCH], spec)  # warm
    extractions: list[tuple[Path, Extraction]] = []

    def penult() -> None:
        store = folder / f"{name.replace('/', '-')}-{len(extractions)}.h5"
        extractions.append((store, extract_into(store, images, name, weights, engine_name, backbone)))

    peers = {title: functools.partial(run, files) for title, run in find_peers(name).items()}
    contestants = {
        "loop": lambda: usual_loop(own, files, spec),
        "engine": lambda: engine_alone(engine, pixels),
        "penult": penult,
    }
    seconds, results = in_turn({**contestants, **peers}, repeats)
    if bad_peers := [title for title in peers if len(results[title]) != len(files)]:
        raise CheckFailed(f"{', '.join(bad_peers)} did not give one vector a picture: mend benchmarks/peers.py")
    found = [check(store, result, digests, results["loop"]) for store, result in extractions]
    typical = medians(seconds)
    return {
        "speedup": typical["loop"] / typical["penult"],
        "limit_fraction": typical["engine"] / typical["penult"],
        "against_peers": {title: typical[title] / typical["penult"] for title in peers},
        "cosine_min": min(plain for plain, _ in found),
        "cosine_min_centred": min(centred for _, centred in found),
        "ms_per_image": {k: 1000 * v / len(files) for k, v in typical.items()},
        "seconds": seconds,
        "stage_seconds": extractions[-1][1].stage_seconds,
        "engine": engine.name,
        "engine_start_s": engine_start_s,
        "open_s": open_s,
        "weights": weights,
        "dim": extractions[-1][1].dim,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every network that was asked for."""
    source = arguments.images or real_data() / "hotdog_kaggle"
    with tempfile.TemporaryDirectory(prefix="penult-bench-", dir=arguments.work) as temporary:
        images = choose_pictures(source, arguments.limit, Path(temporary) / source.name)
        networks = {}
        say(f"{len(images)} pictures of {source}, medians of {arguments.repeats}; ms a picture")
        say(f"{'network':22}{'loop':>8}{'engine':>8}{'penult':>8}{'speedup':>9}{'of limit':>10}{'least cosine':>14}")
        for name in arguments.networks:
            n = measure_network(name, images, arguments.engine, arguments.repeats, Path(temporary))
            networks[name] = n
            ms = n["ms_per_image"]
            say(
                f"{name:22}{ms['loop']:8.1f}{ms['engine']:8.1f}{ms['penult']:8.1f}{n['speedup']:8.2f}x"
                f"{n['limit_fraction']:10.1%}{n['cosine_min']:14.7f}"
            )
            for title, ratio in n["against_peers"].items():
                say(f"{'':22}{title} {ms[title]:.1f} ms, {ratio:.1f}x penult's")
        return {
            "networks": networks,
            "images": len(images),
            "repeats": arguments.repeats,
            "construction_included": False,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="extraction against the usual DataLoader loop and the engine's limit")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="default: $PENULT_REAL_DATA/hotdog_kaggle")
    parser.add_argument("--limit", type=positive, default=400, metavar="N", help="pictures (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--engine", default="auto", help="Penult's engine (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the temporary folder goes (default: /tmp)")
    return parser


if __name__ == "__main__":
    sys.exit(finish(measure, build_parser().parse_args()))
