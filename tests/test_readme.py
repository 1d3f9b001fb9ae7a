"""The README's commands, run as they stand."""

import re
import subprocess
import sys

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
    return folder


def test_the_commands_of_the_readme_work_in_their_order(folder):
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 11
    for command in commands:
        name, *arguments = command.split()
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
