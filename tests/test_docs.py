"""Every command in the README and in docs/: run on small pictures, or parsed and named with what runs it."""

import argparse
import contextlib
import functools
import hashlib
import io
import json
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, age, draw, penult

from verbs.parser import VERBS, build_parser

sys.path.insert(0, str(ROOT / "docs"))
from make_api import PAGE, reference
from refresh import fences

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
LANGUAGES = {"sh", "console", "python", "yaml", "text"}
# What needs more than this machine: command -> the test that runs its like.
ELSEWHERE = {
    r" --ray": "tests/test_cluster.py",
    r"s3://": "tests/test_remote.py",
    r"torchvision:CIFAR10": "tests/test_datasets.py",
    r"^penult demo": "tests/test_heads.py",
    r"^penult completion": "tests/test_completion.py",
}
# Commands of other tools that pages name.
NOT_OURS = (
    r"python3? -m venv \S+",
    r"\.ci/run",
    r"ray (start|up|job submit) .*",
    r"head -\d+ \S+",
)
# The networks of the pages that this test has no weights for, or no time, and a small one for each.
SMALL = {
    "efficientnet_lite0": "timm/test_efficientnet",
    "resnet18": "timm/test_convnext",
    "resnet50": "timm/test_byobnet",
    "tf_efficientnet_lite1": "timm/test_efficientnet_gn",
}
# The first page of all is run with the networks that it names.
AS_IT_STANDS = "README.md"
# `tests/test_notebook.py` runs this one, Python and all.
NOTEBOOK = "docs/notebook.md"
RUN = [page for page in TEXT if re.search(r"^(\$ )?penult ", TEXT[page], flags=re.MULTILINE) and page != NOTEBOOK]


def commands(page: str) -> list[str]:
    """Return the commands of a page, in their order, without what the shell alone makes of them."""
    found = [command for f in fences(TEXT[page]) if f.language in ("sh", "console") for command in f.commands()]
    return [re.sub(r"^PENULT_REAL_DATA=\S+ ", "", command) for command in found]


def inline(page: str) -> list[str]:
    """Return the commands in a page's prose, those of `penult` and of benchmarks, as far as they are whole."""
    prose = re.sub(r"^```.*?^```$", "", TEXT[page], flags=re.MULTILINE | re.DOTALL)
    found = [" ".join(code.split()) for code in re.findall(r"`((?:penult|python) [^`]+)`", prose)]
    return [code for code in found if "..." not in code and "|" not in code and not re.search(r"\b[A-Z]{3,}\b", code)]


def elsewhere(command: str) -> str:
    return next((test for pattern, test in ELSEWHERE.items() if re.search(pattern, command)), "")


@functools.cache
def help_of(script: str) -> str:
    """Return what a benchmark or script says of its options."""
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    return done.stdout


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb's own arguments."""
    (verbs,) = [action for action in build_parser()._actions if action.choices]
    return verbs.choices[verb]


def unknown_options(words: list[str]) -> list[str]:
    """Return the options of a command that its verb does not have."""
    known = parser_of(words[0])._option_string_actions
    return [word for word in words if re.match(r"--?[a-z]", word) and word not in known]


def parses(words: list[str]) -> str:
    """Return what our own parser has against a command."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        build_parser().parse_args(words)
    return said.getvalue()


def check(command: str, *, whole: bool = True) -> None:
    """Check that a command is one that could run: of ours, of make, of a benchmark, of pip.

    Prose may leave out what a command needs, but must not name what it does not have.
    """
    words = shlex.split(re.split(r" [|>] ", command)[0], comments=True)
    if words[0] == "penult":
        said = parses(words[1:])
        assert said == "" or (not whole and "the following arguments are required" in said), (command, said)
        if words[1] in VERBS:
            assert unknown_options(words[1:]) == [], command
    elif words[0] == "make":
        for target in words[1:]:
            assert f"\n{target}: " in (ROOT / "Makefile").read_text(), command
    elif words[0].endswith("python") and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists(), command
        if words[1] != "pipeline.py":
            for option in (word for word in words if word.startswith("--")):
                assert option in help_of(words[1]), command
    elif words[0].endswith("pip") or words[1:3] == ["-m", "pip"]:
        extras = (ROOT / "setup.cfg").read_text()
        for extra in re.findall(r"[\w]+", "".join(re.findall(r"\[([\w,]+)\]", command))):
            assert re.search(rf"^{extra} =$", extras, flags=re.MULTILINE), command
    else:
        known = (
            r"python3? -m venv \S+",
            r"\.ci/run",
            r"ray (start|up|job submit) .*",
            r"head -\d+ \S+",
            r"echo '.*'.*",
        )
        assert any(re.fullmatch(pattern, command) for pattern in known), f"what is this? {command}"


def small(command: str) -> str:
    """Return a command with small networks, small pictures and short training."""
    for name, instead in SMALL.items():
        command = re.sub(rf"(?<=[ =]){name}\b(?!\.)", instead, command)
    command = re.sub(r"--epochs \d+", "--epochs 1", command)
    command = re.sub(r"--budget \d+", "--budget 1", command)
    command = re.sub(r"--pca \d+", "--pca 4", command)
    command = command.replace(" --init rows", "")  # random weights know no class
    command = re.sub(r"--input-size \d+", "--input-size 32", command)
    command = re.sub(r"--repeats \d+", "--repeats 2", command)
    verb, source = command.split()[1:3] if len(command.split()) > 2 else ("", "")
    if verb in ("extract", "finetune", "depth", "doctor", "probe-preprocess"):
        pictures = verb == "extract" or not source.endswith(".h5")
        if "--backbone" not in command and pictures and "--weights" not in command:
            command += f" --backbone {SMALL['efficientnet_lite0']}"
        if "--weights" not in command and pictures:
            command += " --weights random"
    return command


def paint(folder: Path, classes: dict[str, int], splits: dict[str, int]) -> None:
    """Draw so many pictures of each class, with a hue of its own, in each split."""
    for k, split in enumerate(splits):
        for name, hue in classes.items():
            for i in range(splits[split]):
                draw(folder / split / name / f"{i:03d}.png", 100 * i + 10 * hue + k, hue, (48, 40))


@pytest.fixture
def folder(tmp_path):
    """A newcomer's folder: the pictures that the pages speak of, drawn small."""
    pets = {"cat": 0, "dog": 1}
    paint(tmp_path / "pictures", pets, {"train": 8, "test": 4})
    paint(tmp_path / "demo/digits", {"3": 0, "5": 1, "8": 2}, {"train": 8, "test": 8})
    paint(tmp_path / "hymenoptera", {"ants": 0, "bees": 1}, {"train": 8, "val": 4})
    paint(tmp_path / "hotdog_kaggle", {"hot_dog": 0, "not_hot_dog": 1}, {"train": 8, "test": 4})
    for i in range(2):
        draw(tmp_path / "new-pictures" / f"{i}.png", 900 + i, i)
    odd = tmp_path / "pictures/train/cat/000.png"
    digest = hashlib.sha256(odd.read_bytes()).hexdigest()
    (tmp_path / "corrections.csv").write_text(f"path,digest,label,corrected\ntrain/cat/000.png,{digest},cat,dog\n")
    age(tmp_path)
    return tmp_path


def write_sources(folder):
    """Write the pictures of the newcomer as every kind of source that the guide names and needs no network."""
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


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_work_in_their_order(page, folder):
    if "pets.zip" in TEXT[page]:
        write_sources(folder)
    ran = 0
    for command in commands(page):
        if not command.startswith("penult ") or elsewhere(command):
            continue
        _, *arguments = shlex.split(command if page == AS_IT_STANDS and "resnet" not in command else small(command))
        done = penult(*arguments, cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
        ran += 1
    assert ran


@pytest.mark.parametrize("page", TEXT)
def test_every_command_of_a_page_is_one_that_exists(page):
    in_fences = commands(page)
    for command in [*in_fences, *inline(page)]:
        check(command, whole=command in in_fences)
        if elsewhere(command):
            assert (ROOT / elsewhere(command)).exists()


@pytest.mark.parametrize("page", TEXT)
def test_every_fence_says_what_it_is(page):
    assert {fence.language for fence in fences(TEXT[page])} <= LANGUAGES
    assert TEXT[page].count("```") == 2 * len(fences(TEXT[page]))


@pytest.mark.parametrize("page", TEXT)
def test_every_file_that_a_page_names_is_there(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([\w/.-]*)(?:#([\w-]+))?\)", TEXT[page]):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    for path in re.findall(r"`((?:benchmarks|tests|docs|classify|data|extract|finetune)/[\w/.-]+)`", TEXT[page]):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_index():
    named = set(re.findall(r"\]\((\w+\.md)\)", TEXT["docs/README.md"]))
    assert named == {page.name for page in PAGES if page.parent == ROOT / "docs"} - {"README.md"}


def test_the_reference_is_what_the_docstrings_say():
    assert PAGE.read_text() == reference(), "run `python docs/make_api.py`"


def test_the_python_of_the_guide_works(folder):
    code = "\n".join(fence.text for fence in fences(TEXT["docs/guide.md"]) if fence.language == "python")
    assert penult("extract", "pictures", "-o", "features.h5", cwd=folder).returncode == 0
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(16, 1280) (16,) ['cat', 'dog']\n"


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "benchmarks").glob("[abe]*.py")))
def test_every_benchmark_says_how_it_is_run(script):
    assert help_of(f"benchmarks/{script}")
