"""What an installed Penult does, from any folder; and what one without torch does. Needs the package registry."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT, TINY, draw, penult


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel of the checkout as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT)
    (built,) = folder.glob("penult-*.whl")
    return built


def run(*command, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Fits heads of some kinds in one process, which imports scikit-learn once.
FIT = """
import sys
from pipeline import main
for kind in sys.argv[1:]:
    assert main(["fit", "f.h5", "--head", kind, "-o", f"{kind}.head"]) == 0
"""


def pip(home, *command):
    """Run this environment's pip on another one, which then needs none of its own."""
    return run(sys.executable, "-m", "pip", "--python", home / "bin/python", *command)


def paint(folder: Path) -> Path:
    for split in ("train", "test"):
        for hue, name in enumerate("ab"):
            for i in range(6):
                draw(folder / split / name / f"{i}.png", hash((split, hue, i)) % 1000, hue)
    return folder


def test_the_console_script_works_from_any_folder(wheel, tmp_path):
    # the packages that Penult needs are those of this environment; Penult itself is the wheel alone
    home = tmp_path / "env"
    venv.create(home)
    site = Path(run(home / "bin/python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    pip(home, "install", "--quiet", "--no-deps", wheel)
    (site / "zz_these_packages.pth").write_text(sysconfig.get_paths()["purelib"])
    folder = tmp_path / "somewhere"
    paint(folder / "pictures")
    (folder / "data").mkdir()  # a user's folder of this name is no obstacle
    installed = home / "bin/penult"
    where = run(home / "bin/python", "-c", "import pipeline; print(pipeline.__file__)", cwd=folder).strip()
    assert where == str(site / "pipeline.py")
    assert "run a frozen network over pictures" in run(installed, "--help", cwd=folder)
    run(installed, "extract", "pictures", "-o", "f.h5", *TINY, cwd=folder)
    run(installed, "fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=folder)
    assert "test: 12 pictures, 2 classes" in run(installed, "eval", "lr.head", "f.h5", cwd=folder)
    assert "pictures/test/a/0.png" in run(installed, "predict", "lr.head", "pictures/test/a/0.png", cwd=folder)
    assert "24 thumbnails" in run(installed, "report", "f.h5", "lr.head", "-o", "r.html", "--quick", cwd=folder)


def test_without_extras_a_laptop_fits_measures_and_checks_and_has_no_torch(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home)
    pip(home, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    packages = json.loads(pip(home, "list", "--format", "json"))
    assert not {p["name"] for p in packages} & {"torch", "torchvision", "timm", "onnx"}
    paint(tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    installed = home / "bin/penult"
    run(installed, "fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path)
    run(home / "bin/python", "-c", FIT, "svm", "mlp", "knn", "centroid", "ridge", "lda", cwd=tmp_path)
    assert "test: 12 pictures" in run(installed, "eval", "lr.head", "knn.head", "f.h5", cwd=tmp_path)
    assert "timm/test_resnet" in run(installed, "info", "f.h5", cwd=tmp_path)
    assert "every checksum is right" in run(installed, "verify", "f.h5", cwd=tmp_path)
    # a rename needs no network; new pictures do, and the message says what to install
    (tmp_path / "pictures/train/a").rename(tmp_path / "pictures/train/c")
    (tmp_path / "pictures/test/a").rename(tmp_path / "pictures/test/c")
    report = run(installed, "extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path)
    assert "24 pictures: 0 extracted, 24 reused" in report
    assert "2: b, c" in run(installed, "info", "f.h5", cwd=tmp_path)
    draw(tmp_path / "new.png", 77)
    failed = subprocess.run([installed, "predict", "lr.head", "new.png"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "torch is not installed: install it with `pip install '.[extract]'`" in failed.stderr
