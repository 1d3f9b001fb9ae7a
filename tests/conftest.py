"""What tests share: drawn pictures, a tiny network's weights, and the way to the real data."""

import contextlib
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.layout import block_image
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.views import View
from pipeline import main

# Said before PyTorch and scikit-learn are loaded, here and in processes that tests start: threads that wait for each
# other sleep. Spinning, as they would, costs a tiny network up to ten times what it computes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
# A real network that is small enough to run in a moment; its weights are random, by seed.
TINY = ["--backbone", "timm/test_resnet", "--weights", "random"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep exported graphs in a folder of the session, for processes that tests start too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PENULT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real pictures, or skip."""
    folder = os.environ.get("PENULT_REAL_DATA")
    if not folder:
        pytest.skip("PENULT_REAL_DATA names no folder of real pictures")
    return Path(folder)


@pytest.fixture(scope="session")
def real_weights(real_data: Path) -> Path:
    """Return the folder of real state dicts beside the pictures."""
    return real_data.parent / "weights"


def draw(path: Path, seed: int, hue: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    """Write a picture of coloured noise around a hue; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, size=(size[1], size[0], 3))
    pixels[..., hue % 3] += 130
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def age(folder: Path) -> None:
    """Make files look an hour old: newer ones are read again by design, since they may still change."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_file():
            old = path.stat().st_mtime - 3600
            os.utime(path, (old, old))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of 24 train and 12 test pictures in the classes blue, green and red."""
    folder = tmp_path / "pictures"
    seed = 0
    for split, n in (("train", 8), ("test", 4)):
        for hue, name in enumerate(("red", "green", "blue")):
            for i in range(n):
                draw(folder / split / name / f"{i}.png", seed, hue)
                seed += 1
    age(folder)
    return folder


def penult(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has loaded torch already; exit code and output as from a shell."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as usage:
            code = int(usage.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def penult_process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


SPEC = FeatureSpec("timm/test_resnet", "sha256:" + "0" * 64)


def digest_of(i: int) -> bytes:
    """Return the digest of imaginary picture `i`."""
    return hashlib.sha256(b"%d" % i).hexdigest().encode()


def make_view(rows: list[int], name: str = "toys", root: str = "/toys", **changes: Any) -> View:
    """Return a view of imaginary pictures: even numbers are cats, odd ones dogs; a third is for test."""
    n = len(rows)
    values: dict[str, Any] = {
        "name": name,
        "root": root,
        "classes": ["cat", "dog"],
        "paths": [f"{i:05d}.png" for i in rows],
        "digests": np.array([digest_of(i) for i in rows], dtype="S64"),
        "targets": np.array([i % 2 for i in rows], dtype=np.int32),
        "splits": np.array(["test" if i % 3 == 0 else "train" for i in rows], dtype=np.str_),
        "sizes": np.full(n, 100, dtype=np.int64),
        "mtimes": np.full(n, 10**18, dtype=np.int64),
        **changes,
    }
    return View(**values)


def vectors_of(rows: list[int], dim: int = 8) -> np.ndarray:
    """Return the features of imaginary pictures, (n, dim) float32, each decided by its number alone."""
    return np.stack([np.random.default_rng(i).normal(size=dim) for i in rows]).astype(np.float32)


@pytest.fixture
def store(pictures: Path, tmp_path: Path) -> Path:
    """Return a store of the drawn pictures, by the tiny network on 32 px, where a test names no other."""
    path = tmp_path / "f.h5"
    assert penult("extract", pictures, "-o", path, *TINY, "--input-size", "32", "--seed", "1").returncode == 0
    return path


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, a store and two heads, for tests that read them and name what they write."""
    folder = tmp_path_factory.mktemp("work")
    seed = 0
    for split, n in (("train", 10), ("test", 6)):
        for hue, name in enumerate(("red", "green", "blue")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=folder).returncode == 0
    for kind in ("lr", "svm"):
        assert penult("fit", "f.h5", "--head", kind, "-o", f"{kind}.head", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def settings_kept() -> Iterator[None]:
    """Put back what engines set for their threads, as `extract.flow` does."""
    from extract.flow import decoding

    with decoding():
        yield


@pytest.fixture(scope="session")
def resnet() -> Any:
    """Return the tiny network, on 64 px."""
    from extract.backbones import open_backbone
    from extract.options import Options

    return open_backbone(TINY[1], "random", Options(input_size=64))


@pytest.fixture(scope="session")
def photos() -> np.ndarray:
    """Return eight pictures of noise for it, uint8."""
    return np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def stage() -> Callable[..., Path]:
    """Return a function that stages a block of imaginary pictures beside a store."""

    def stage(store: Path, rows: list[int], spec: FeatureSpec = SPEC, dim: int = 8, dtype: str = "<f4") -> Path:
        features = {
            "spec": spec,
            "provenance": [{"run": "made-by-a-test", "engine": "none"}],
            "requests": [],
            "rows": len(rows),
            "dim": dim,
            "dtype": np.dtype(dtype),
            "slabs": [(np.array([digest_of(i) for i in rows], dtype="S64"), vectors_of(rows, dim))],
        }
        return stage_block(store, new_run_id(), 1, block_image(features, make_view(rows)))

    return stage


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, a store, heads and bundles, for every test of bundles: see `bundles`."""
    from bundles import make_bundles

    folder = tmp_path_factory.mktemp("kit")
    make_bundles(folder)
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """Start a real S3 server on loopback, with credentials of its own in the environment; return a client, or None.

    One for all tests, since s3fs keeps its connections for as long as the process lives.
    """
    if not all(importlib.util.find_spec(name) for name in ("moto", "flask", "s3fs")):
        yield None
        return
    import boto3
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "someone")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield boto3.client("s3")
    patch.undo()
    running.stop()
