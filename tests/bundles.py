"""What tests of bundles share: pictures, a store and heads of them, and bundles of these."""

import shutil
from pathlib import Path
from typing import Any

from conftest import TINY, age, draw, penult

from data.store import FeatureStore, Samples

KINDS = ("lr", "mlp", "knn")
PLAIN = ["--without", "models"]


def make_bundles(folder: Path) -> None:
    """Draw pictures, extract them and others into one store, fit heads, and pack them: as they are, and projected."""
    seed = 0
    for name, classes in (("pictures", ("red", "green", "blue")), ("others", ("cyan", "pink"))):
        for split, n in (("train", 8), ("test", 5)):
            for hue, label in enumerate(classes):
                for i in range(n):
                    draw(folder / name / split / label / f"{i}.png", seed, hue, (200, 80))
                    seed += 1
    age(folder)
    layers = ["--layers", "layer3", "penultimate"]
    for source, more in (("pictures", layers), ("others", [])):
        assert penult("extract", source, "-o", "f.h5", *TINY, *more, cwd=folder).returncode == 0
    for kind in KINDS:
        fit = ("fit", "f.h5", "--dataset", "pictures", "--features", "penultimate")
        assert penult(*fit, "--head", kind, "-o", f"{kind}.head", cwd=folder).returncode == 0
    heads = [f"{kind}.head" for kind in KINDS]
    for name, more in (("plain", []), ("pca", ["--pca", "6"])):
        done = penult("pack", "f.h5", *heads, "-o", name, "--json", f"{name}.json", *more, *PLAIN, cwd=folder)
        assert done.returncode == 0, done.stderr


def load(store: Path, split: str = "test", **which: Any) -> Samples:
    """Return a split of the pictures."""
    return FeatureStore(store).load(split, dataset="pictures", **which)


def copy_of(work: Path, tmp_path: Path, name: str = "plain") -> Path:
    """Return a bundle that may be harmed."""
    return shutil.copytree(work / name, tmp_path / name)


def refused(*arguments: str | Path, cwd: Path) -> str:
    """Run a command that must fail, and return its one sentence."""
    done = penult(*arguments, cwd=cwd)
    assert done.returncode == 1
    assert "defect" not in done.stderr
    assert done.stderr.startswith("penult: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
