"""How fast this machine runs the default network and decodes a picture; measured, in a process of its own."""

import functools
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from data.errors import MissingDependency, PenultError, WeightsError
from extract.apart import Yielded
from extract.at_hand import cached_networks
from extract.backbones import DEFAULT_BACKBONE, Backbone, open_backbone
from extract.decode import Pixels, decode, simplejpeg
from extract.flow import decoding
from extract.networks import Setup
from extract.preprocess import recipes, to_inputs
from extract.zoo import require_torch

# Batches that each lane runs between two looks at the clock, and the fewest looks for a median.
_ROUND, _LEAST = 2, 3
_SIZE = (800, 600)


def look_at_torch(budget: float) -> Yielded:
    """Yield devices, the networks that work offline and the speeds of the engines; imports torch.

    Parameters
    ----------
    budget : float
        Seconds for each engine, once it is warm.

    Yields
    ------
    tuple of str and object
        ``torch``, ``devices``, ``offline``, ``weights`` and, one after another, engines by name.

    Raises
    ------
    MissingDependency
        If torch, torchvision or timm is not installed.
    """
    require_torch()
    began = time.perf_counter()
    import torch

    yield "torch", {"import_seconds": round(time.perf_counter() - began, 2), "cuda_build": torch.version.cuda}
    mps = torch.backends.mps.is_available()
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    yield "devices", [_device(name) for name in there]
    yield "offline", cached_networks()
    try:
        backbone, weights = open_backbone(DEFAULT_BACKBONE), "default"
    except (WeightsError, MissingDependency):  # of the package of weights, since torch is there
        backbone, weights = open_backbone(DEFAULT_BACKBONE, "random"), "random"
    yield "weights", weights
    # what is moved to a device stays there: the CPU comes first
    for name, device in [("onnx", "cpu"), ("torch", "cpu"), *(("torch", device) for device in there[1:])]:
        yield f"{name} {device}", _engine(name, device, backbone, budget)


def measure_decoding(budget: float = 0.5) -> dict[str, Any]:
    """Return how many pictures a core decodes and resizes in a second: a drawn JPEG of 800 x 600 pixels."""
    from data.spec import FeatureSpec

    wanted = recipes(FeatureSpec("", ""))
    content = _photograph()
    with decoding():
        # time on a core: what else the machine does meanwhile is not counted
        seconds = _median(lambda: to_inputs(decode(content), wanted, b""), budget, time.thread_time)
    return {
        "decoder": "simplejpeg" if simplejpeg() else "pillow",
        "picture": f"JPEG of {_SIZE[0]} x {_SIZE[1]} pixels, {len(content) // 1000} kB, to 224",
        "images_per_second_per_core": round(1 / seconds, 1),
    }


def _engine(name: str, device: str, backbone: Backbone, budget: float) -> dict[str, Any]:
    from extract.engines import ENGINES

    try:
        engine = ENGINES[name](backbone, Setup(name, device))
        rng = np.random.default_rng(0)
        batch: Pixels = rng.integers(0, 256, (engine.batch_size, *backbone.spec.crop, 3), dtype=np.uint8)
        with decoding(), ThreadPoolExecutor(engine.lanes) as pool:
            forward = functools.partial(_every, pool, engine.forward, [batch] * (engine.lanes * _ROUND))
            seconds = _median(forward, budget)
    except PenultError as error:
        return {"engine": f"{name}/{device.partition(':')[0]}", "device": device, "reason": str(error)}
    return {
        "engine": engine.name,
        "device": device,
        "precision": engine.precision,
        "batch_size": engine.batch_size,
        "images_per_second": round(engine.batch_size * engine.lanes * _ROUND / seconds, 1),
    }


def _every(pool: ThreadPoolExecutor, forward: Callable[[Pixels], Any], batches: list[Pixels]) -> None:
    list(pool.map(forward, batches))


def _median(work: Callable[[], Any], budget: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median seconds of a piece of work, after one that warms up."""
    work()
    until = time.perf_counter() + budget
    taken: list[float] = []
    while len(taken) < _LEAST or time.perf_counter() < until:
        began = clock()
        work()
        taken.append(clock() - began)
    return statistics.median(taken)


def _device(name: str) -> dict[str, Any]:
    import torch

    kind = name.partition(":")[0]
    if kind != "cuda":
        return {"device": name}
    properties = torch.cuda.get_device_properties(name)
    free, total = torch.cuda.mem_get_info(name)
    return {
        "device": name,
        "name": properties.name,
        "memory": int(total),
        "memory_free": int(free),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _photograph() -> bytes:
    """Return a JPEG with as much detail as a photograph: a coarse pattern and a little noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(_SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(np.int16) + rng.integers(-6, 7, (_SIZE[1], _SIZE[0], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, format="JPEG", quality=90)
    return file.getvalue()
