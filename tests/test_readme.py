"""The README's commands, run as they stand."""

import json
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import ROOT, draw, penult

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    seed = 0
    for split, n in (("train", 6), ("test", 4)):
        for hue, name in enumerate(("cat", "dog")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    for i in range(2):
        draw(folder / "new-pictures" / f"{i}.png", 900 + i, i)
    write_sources(folder)
    return folder


def write_sources(folder):
    """Write the pictures of the newcomer as every kind of source that the README names and needs no network."""
    datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    files = sorted((folder / "pictures" / "train").rglob("*.png"))
    rows = [{"path": str(path.relative_to(folder)), "label": path.parent.name} for path in files]
    (folder / "pets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    (folder / "shards").mkdir()
    for k in range(2):
        with tarfile.open(folder / "shards" / f"pets-{k:03d}.tar", "w") as archive:
            for i, path in enumerate(files[k::2]):
                (folder / "label").write_text(path.parent.name)
                archive.add(path, f"{i:04d}.png")
                archive.add(folder / "label", f"{i:04d}.cls")
    table = datasets.Dataset.from_list([{"image": str(folder / row["path"]), "label": row["label"]} for row in rows])
    table = table.cast_column("image", datasets.Image())
    table.to_parquet(folder / "pets.parquet")
    table.save_to_disk(folder / "saved-pets")
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        digits = np.random.default_rng(len(name)).integers(0, 255, (8, 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 8, 28, 28) + digits.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 8) + bytes(range(8)))


def test_the_commands_of_the_readme_work_in_their_order(folder):
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 11
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "penult"
        done = penult(*arguments, cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
    assert (folder / "predictions.csv").read_text().startswith("path,label,probability,cat,dog")


def test_the_python_of_the_readme_works(folder):
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(14, 1280) (14,) ['cat', 'dog']\n"


def test_make_knows_the_targets_of_the_readme():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)$", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}: " in makefile


def test_every_file_that_the_readme_names_is_there():
    for path in re.findall(r"\]\(([\w/.-]+)\)", README) + re.findall(r"`(benchmarks/\w+\.py)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "benchmarks").glob("[ab]*.py")))
def test_every_benchmark_says_how_it_is_run(script):
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
