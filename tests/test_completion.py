"""What a shell completes, asked of bash itself."""

import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, penult

from verbs.arguments import HEADS
from verbs.parser import VERBS

shtab = pytest.importorskip("shtab", reason="the extra [completion] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    (folder / "pictures").mkdir()
    (folder / "pets.h5").touch()
    (folder / "notes of mine.txt").touch()
    done = penult("completion", "bash")
    assert done.returncode == 0, done.stderr
    (folder / "penult.bash").write_text(done.stdout)
    return folder


def completed(folder, line):
    """Return what bash offers for the last word of a line, as after the tabulator."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    script = (
        "source penult.bash\n"
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n"
        "_shtab_penult 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()) - {""}


def test_verbs_complete(folder):
    assert completed(folder, "penult ") >= set(VERBS)
    assert completed(folder, "penult fi") == {"fit", "finetune"}


def test_choices_complete(folder):
    assert completed(folder, "penult fit pets.h5 --head ") == {*HEADS, "all"}
    assert completed(folder, "penult extract pictures --engine o") == {"onnx"}
    assert completed(folder, "penult completion z") == {"zsh"}


def test_options_complete_by_verb(folder):
    assert completed(folder, "penult extract pictures --layer") == {"--layer", "--layers"}
    assert "--layer" not in completed(folder, "penult fit pets.h5 --")


@pytest.mark.parametrize(
    "line", ["penult extract ", "penult fit ", "penult eval lr.head ", "penult fit pets.h5 -o ", "penult info --json "]
)
def test_files_complete_as_files(folder, line):
    assert {"pictures", "pets.h5", "notes of mine.txt"} <= completed(folder, line)
    assert completed(folder, line + "pet") == {"pets.h5"}


def test_folders_complete_as_folders(folder):
    assert completed(folder, "penult demo -o ") == {"pictures"}


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh", "powershell"])
def test_other_shells_get_a_script_too(shell):
    done = penult("completion", shell)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_without_shtab_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    done = penult("completion", "bash")
    assert done.returncode == 1
    assert "completion needs shtab: install it with `pip install '.[completion]'`" in done.stderr
    assert str(ROOT) not in done.stderr
