"""docs/notebook.md, run from top to bottom as it stands."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, age, draw, penult

PAGE = (ROOT / "docs" / "notebook.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    seed = 0
    for split, n in (("train", 8), ("test", 4)):
        for hue, name in enumerate(("cat", "dog")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    draw(folder / "new-pictures" / "0.png", 900, 1)
    age(folder)
    return folder


def test_the_page_runs(folder):
    code = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "24 of 24 pictures in" in done.stdout
    assert "['dog']" in done.stdout
    (command,) = "".join(blocks("sh")).splitlines()
    _, *arguments = shlex.split(command)
    by_python = (folder / "train.npz").read_bytes()
    assert penult(*arguments, cwd=folder).returncode == 0
    assert (folder / "train.npz").read_bytes() == by_python
    with np.load(folder / "train.npz", allow_pickle=False) as held:
        assert held["X"].shape == (16, 1280)
