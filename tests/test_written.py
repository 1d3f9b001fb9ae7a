"""What commands write: JSON, tables, predictions, and what they never replace."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import draw, penult

from data.store import FeatureStore


def test_the_json_of_fit(work):
    done = penult("fit", "f.h5", "--head", "lr", "-o", "again.head", "--json", "-", cwd=work)
    result = json.loads(done.stdout)
    assert {"head", "params", "cv_accuracy", "n_train", "seconds"} <= set(result)
    assert (result["head"], result["kind"], result["n_train"]) == ("again.head", "lr", 30)
    assert (work / "again.head").read_bytes() == (work / "lr.head").read_bytes()  # the same command, the same head
    assert "chosen by 5-fold cross-validation" in done.stderr


def test_the_json_of_eval(work):
    done = penult("eval", "lr.head", "svm.head", "f.h5", "--json", "r.json", cwd=work)
    assert done.returncode == 0, done.stderr
    result = json.loads((work / "r.json").read_text())
    assert (result["split"], result["n"], result["classes"]) == ("test", 18, ["blue", "green", "red"])
    keys = {
        "head",
        "kind",
        "accuracy",
        "accuracy_ci95",
        "balanced_accuracy",
        "macro_f1",
        "log_loss",
        "ece",
        "per_class",
        "confusion_matrix",
    }
    for head in result["heads"]:
        assert keys <= set(head)
        low, high = head["accuracy_ci95"]
        assert low <= head["accuracy"] <= high
        assert np.sum(head["confusion_matrix"]) == 18
    accuracies = [head["accuracy"] for head in result["heads"]]
    assert accuracies == sorted(accuracies, reverse=True)
    (pair,) = result["pairs"]
    assert {"a", "b", "p_value", "verdict"} <= set(pair)
    assert "tie at n = 18" in done.stdout or "is better" in done.stdout


def test_prediction_is_the_same_alone_in_a_batch_and_through_the_store(work):
    done = penult("predict", "lr.head", "pictures/test", "--json", "-", cwd=work)
    result = json.loads(done.stdout)
    assert result["skipped"] == []
    together = {p["path"]: p for p in result["predictions"]}
    assert len(together) == 18
    from classify.artifact import load_head

    samples = FeatureStore(work / "f.h5").load("test")
    head = load_head(work / "lr.head")
    for path, probabilities in zip(samples.paths, head.predict_proba(samples.X), strict=True):
        p = together[f"pictures/{path}"]
        assert p["label"] == head.classes[probabilities.argmax()]
        assert p["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        assert sum(p["probabilities"].values()) == pytest.approx(1)
    for path in ["pictures/test/red/0.png", "pictures/test/blue/3.png"]:
        (alone,) = json.loads(penult("predict", "lr.head", path, "--json", "-", cwd=work).stdout)["predictions"]
        assert alone["label"] == together[path]["label"]
        assert alone["probability"] == pytest.approx(together[path]["probability"], abs=1e-5)


def test_prediction_as_a_table_and_as_csv_with_bad_files_listed(work):
    new = work / "new"
    shutil.rmtree(new, ignore_errors=True)
    for i in range(3):
        draw(new / f"{i}.png", 70 + i, i)
    (new / "bad.jpg").write_bytes(b"")
    done = penult("predict", "lr.head", "new", "--csv", "p.csv", cwd=work)
    assert done.returncode == 0
    assert "skipped new/bad.jpg: the file is empty" in done.stdout
    with open(work / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["new/0.png", "new/1.png", "new/2.png"]
    assert set(rows[0]) == {"path", "label", "probability", "blue", "green", "red"}
    piped = penult("predict", "lr.head", "new/0.png", "new/1.png", "--csv", "-", cwd=work)
    assert piped.stdout.splitlines()[0] == "path,label,probability,blue,green,red"
    assert len(piped.stdout.splitlines()) == 3
    none = penult("predict", "lr.head", "new/bad.jpg", "--json", "-", cwd=work)
    assert none.returncode == 1
    assert json.loads(none.stdout) == {
        "predictions": [],
        "skipped": [{"path": "new/bad.jpg", "reason": "the file is empty"}],
    }


def test_the_folders_of_json_and_csv_are_made_like_any_other(work, tmp_path):
    done = penult("predict", "lr.head", "pictures/test/red", "--csv", tmp_path / "a/new/p.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/new/p.csv").exists()
    assert penult("info", "f.h5", "--json", tmp_path / "new/folder/info.json", cwd=work).returncode == 0
    assert json.loads((tmp_path / "new/folder/info.json").read_text())["path"] == "f.h5"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # --json taken for a switch
        (["eval", "--json", "lr.head", "b.head", "f.h5"], "--json takes the file to write, and lr.head exists"),
        (["info", "f.h5", "--json", "f.h5"], "f.h5 exists and is no JSON: name another"),
        (["info", "f.h5", "--json", "notes.txt"], "notes.txt exists and is no JSON"),
        (["info", "f.h5", "--json", "folder"], "that is a folder: name a file, such as folder/results.json"),
        (["predict", "lr.head", "pictures", "--csv", "lr.head"], "--csv takes the file to write, and lr.head exists"),
        (["audit", "f.h5", "--csv", "f.h5"], "f.h5 exists and is no CSV"),
    ],
)  # fmt: skip
def test_results_never_replace_something_else(work, tmp_path, arguments, said):
    for name in ("f.h5", "lr.head"):
        shutil.copy(work / name, tmp_path / name)
    shutil.copy(work / "lr.head", tmp_path / "b.head")
    (tmp_path / "notes.txt").write_text("not to be lost")
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = penult(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write into")
@pytest.mark.parametrize("folder", ["/proc", "/proc/no/such", "lr.head", "lr.head/more"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "nothing", "-o", "x.h5"],
        ["extract", "nothing", "-o", "f.h5", "--json", "x.json"],
        ["fit", "nothing", "--head", "ridge", "-o", "x.head"],
        ["eval", "lr.head", "nothing", "--json", "x.json"],
        ["predict", "nothing", "pictures", "--csv", "x.csv"],
        ["compare", "nothing", "--png", "x.png"],
        ["compare", "nothing", "--save", "x"],
        ["finetune", "nothing", "-o", "x.ckpt"],
        ["finetune", "nothing", "-o", "n.ckpt", "--tensorboard", "x"],
        ["report", "nothing", "lr.head", "-o", "x.html"],
        ["info", "nothing", "--sheet", "x.png"],
        ["export", "nothing", "-o", "x.onnx"],
        ["pack", "nothing", "-o", "x"],
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(work, arguments, folder):
    target = f"{folder}/{arguments[-1]}"
    done = penult(*arguments[:-1], target, cwd=work)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{arguments[-2]} {target} cannot be written (" in done.stderr
    assert done.stderr.rstrip().endswith("): name another place")
    assert not (work / "n.ckpt").exists()


def test_results_replace_results(work, tmp_path):
    (tmp_path / "empty.json").touch()
    for target in ("info.json", "info.json", "empty.json", "/dev/null"):
        assert penult("info", work / "f.h5", "--json", target, cwd=tmp_path).returncode == 0
    for _ in range(2):
        done = penult("predict", work / "lr.head", work / "pictures", "--csv", "p.csv", cwd=tmp_path)
        assert done.returncode == 0


def test_a_head_never_replaces_something_else(work, tmp_path):
    shutil.copy(work / "f.h5", tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    done = penult("fit", "f.h5", "--head", "lr", "-o", "f.h5", cwd=tmp_path)
    assert done.returncode == 1
    assert "f.h5 exists and is no head: name another file with -o" in done.stderr
    assert (tmp_path / "f.h5").read_bytes() == before
    done = penult("fit", "f.h5", "--head", "lr", "-o", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} is a folder: name a file, such as {tmp_path}/lr.head" in done.stderr


def test_heads_of_one_name_are_told_apart(work):
    for folder in ("a", "b"):
        assert penult("fit", "f.h5", "--head", "ridge", "-o", f"{folder}/r.head", cwd=work).returncode == 0
    result = json.loads(penult("eval", "a/r.head", "b/r.head", "f.h5", "--json", "-", cwd=work).stdout)
    assert {head["head"] for head in result["heads"]} == {"a/r.head", "b/r.head"}


def test_two_outputs_are_two_files(work):
    done = penult("report", "f.h5", "lr.head", "-o", "same", "--json", "./same", cwd=work)
    assert done.returncode == 1
    assert "-o and --json are both ./same: name another file for one" in done.stderr
    assert not (work / "same").exists()
