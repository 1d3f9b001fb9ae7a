"""The command line as a person meets it: help, errors, exit codes, JSON, tables."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, draw, penult, penult_process

from data.store import FeatureStore
from verbs.parser import VERBS


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with pictures, a store and two heads."""
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


def test_the_choices_of_the_command_line_are_those_of_the_stages():
    import verbs.arguments
    from classify.heads import HEADS
    from extract.engines import ENGINES, PRECISIONS
    from extract.options import COLORS, FITS

    assert tuple(HEADS) == verbs.arguments.HEADS
    assert ("auto", *ENGINES) == verbs.arguments.ENGINES
    assert PRECISIONS == verbs.arguments.PRECISIONS
    assert (tuple(FITS), set(COLORS)) == (verbs.arguments.FITS, set(verbs.arguments.COLORS))


def test_help_names_every_verb_and_how_to_start():
    text = penult("--help").stdout
    for verb in VERBS:
        assert f"\n    {verb}" in text
        assert penult(verb, "--help").returncode == 0
    assert "penult demo" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["fit", "f.h5"],
        ["extract", "x"],
        ["fit", "f.h5", "--head", "tree", "-o", "h"],
        ["info"],
        ["info", "x", "--sheet", "s.jpg"],
        ["info", "x", "--per-class", "101"],
        ["info", "x", "--per-class", "3"],
        ["info", "x", "--seed", "-1"],
        ["fit", "f.h5", "--head", "lr", "-o", "x.head", "--seed", "-1"],
        ["eval", "x.head", "f.h5", "--seed", "-1"],
        ["verify", "f.h5", "--sample", "-1"],
        ["export", "x.head", "-o", "m.onnx", "--split", "val"],
    ],
)
def test_wrong_usage_exits_2(arguments):
    done = penult(*arguments)
    assert done.returncode == 2
    assert "usage: penult" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "nowhere", "-o", "x.h5"], "nowhere does not exist: name a folder of pictures, a manifest"),
        (["extract", "empty", "-o", "x.h5"], "empty holds no pictures"),
        (["extract", "pictures", "-o", "x.h5", "--backbone", "resnet1800"], "no network 'resnet1800'"),
        (["extract", "pictures", "-o", "x.h5", "--weights", "no.pth"], "no.pth does not exist: check --weights"),
        (["extract", "pictures", "-o", "x.h5", *TINY, "--device", "cuda:9"], "device cuda:9 is not available"),
        (["extract", "pictures", "-o", "x.h5", *TINY, "--resize", "10"], "resized to 10 and cropped to 160"),
        (["extract", "pictures", "-o", "pictures", *TINY], "name a file such as pictures.h5"),
        (["fit", "no.h5", "--head", "lr", "-o", "x.head"], "no.h5 does not exist: run `extract IMAGES -o no.h5`"),
        (["fit", "f.h5", "--head", "lr", "-o", "x.head", "--split", "dev"], "no split 'dev', its splits are: test"),
        (["fit", "f.h5", "--head", "lr", "-o", "x.head", "--tune", "val"], "no split 'val', its splits are: test"),
        (["fit", "f.h5", "--head", "lr", "-o", "x.head", "--param", "k=3"], "head lr has no parameter 'k', only: C"),
        (["fit", "f.h5", "--head", "mlp", "-o", "x.head", "--param", "hidden=8,8,8"], "or two layers, such as 64"),
        (["fit", "f.h5", "--head", "lr", "-o", "x.head", "--dataset", "x"], "holds no image set 'x', only pictures"),
        (["fit", "f.h5", "--head", "lr", "-o", "x.head", "--features", "vgg"], "holds no features 'vgg', only timm"),
        (["fit", "lr.head", "--head", "lr", "-o", "x.head"], "lr.head is a head, not a feature store: name the store"),
        (["report", "lr.head", "lr.head", "-o", "r.html"], "lr.head is a head, not a feature store: name the"),
        (["predict", "f.h5", "pictures"], "f.h5 is a feature store, not a head: name a head (`fit f.h5 --head lr -o"),
        (["predict", "lr.head", "f.h5"], "f.h5 is a feature store, not pictures: name the folder that it was made of"),
        (["export", "f.h5", "-o", "m.onnx"], "a model is made of a head: name one (`fit f.h5 --head lr"),
        (["extract", "lr.head", "-o", "x.h5"], "lr.head is a head, not pictures: name a folder of pictures (`predict"),
        (["eval", "f.h5", "f.h5"], "f.h5 is a feature store, not a head: name a head (`fit f.h5 --head"),
        (["eval", "no.head", "f.h5"], "no.head does not exist: make a head with `fit"),
        (["eval", "lr.head", "f.h5", "--split", "val"], "has no split 'val'"),
        (["predict", "lr.head", "nowhere.png"], "nowhere.png does not exist"),
        (["info", "no.h5"], "no.h5 does not exist"),
        (["info", "nowhere"], "nowhere does not exist: name a folder of pictures, a manifest, an archive or a picture"),
        (["info", "empty"], "empty holds no pictures"),
        (["info", "lr.head"], "lr.head is a head, not pictures: name a folder of pictures"),
        (["info", "f.h5", "--sheet", "s.png"], "f.h5 is a store, and --sheet is for pictures: name the folder"),
        (["info", "f.h5", "--quick"], "f.h5 is a store, and --quick is for pictures"),
        (["info", "pictures", "--sheet", "pictures/s.png"], "would be one of the pictures of pictures: name a file"),
        (["verify", "no.h5"], "no.h5 does not exist"),
        (["verify", "pictures"], "a folder that holds no store: if it holds pictures, run `extract pictures -o "),
        (["compare", "f.h5", "--save", "f.h5"], "f.h5 is a file, and heads go into a folder: name another with --save"),
        (["eval", "pictures", "f.h5"], "pictures is a folder: name a head's file"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_sentence_and_exit_1(work, arguments, message):
    (work / "empty").mkdir(exist_ok=True)
    done = penult(*arguments, cwd=work)
    assert done.returncode == 1
    assert done.stderr.startswith("penult: error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not (work / "x.h5").exists()
    assert not (work / "x.head").exists()


def test_debug_shows_the_traceback(work):
    assert "Traceback" in penult_process("info", "no.h5", "--debug", cwd=work).stderr


def test_pictures_without_labels_give_features_and_no_head(tmp_path):
    for i in range(4):
        draw(tmp_path / "loose" / f"{i}.png", i)
    assert penult("extract", "loose", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    done = penult("fit", "f.h5", "--head", "lr", "-o", "x.head", cwd=tmp_path)
    assert done.returncode == 1
    assert "no picture of 'loose' has a label: put each class into a folder of its own" in done.stderr


def test_one_class_and_a_class_missing_from_train(tmp_path):
    for i in range(4):
        draw(tmp_path / "one/a" / f"{i}.png", i)
        draw(tmp_path / "two/train/a" / f"{i}.png", i)
        draw(tmp_path / "two/train/b" / f"{i}.png", 10 + i)
        draw(tmp_path / "two/test/c" / f"{i}.png", 20 + i)
    for name, message in (
        ("one", "has one class (a): a head needs at least two"),
        ("two", "split 'train' has no picture of 'c': add some"),
    ):
        assert penult("extract", name, "-o", f"{name}.h5", *TINY, cwd=tmp_path).returncode == 0
        done = penult("fit", f"{name}.h5", "--head", "lr", "-o", "x.head", cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr


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


def test_a_store_of_another_fingerprint_is_refused_field_by_field(work):
    assert (
        penult("extract", "pictures", "-o", "other.h5", *TINY, "--interpolation", "nearest", cwd=work).returncode == 0
    )
    done = penult("eval", "lr.head", "other.h5", cwd=work)
    assert done.returncode == 1
    assert "other.h5 holds timm/test_resnet/penultimate, head lr.head wants timm/test_resnet/penultimate" in done.stderr
    assert "they differ in interpolation: nearest, not bi" in done.stderr


def test_info_and_verify(work):
    info = penult("info", "f.h5", cwd=work)
    assert "timm/test_resnet" in info.stdout
    assert "3: blue, green, red" in info.stdout
    result = json.loads(penult("info", "f.h5", "--json", "-", cwd=work).stdout)
    assert result["datasets"][0]["splits"] == {"test": 18, "train": 30}
    assert result["features"][0]["provenance"][0]["engine"] == "onnx/cpu"  # what a CPU runs by default
    verify = penult_process("verify", "f.h5", "--json", "v.json", cwd=work)
    assert verify.returncode == 0, verify.stderr
    assert "every checksum is right" in verify.stdout
    (check,) = json.loads((work / "v.json").read_text())["rechecks"]
    assert check["checked"] == 8
    assert check["largest_deviation"] < 1e-5


def test_info_of_pictures_and_a_contact_sheet(work):
    done = penult("info", "pictures", "--sheet", "sheets/s.png", "--per-class", "5", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "pictures: 48 pictures, " in done.stdout
    assert "wrote sheets/s.png" in done.stdout
    first = (work / "sheets/s.png").read_bytes()
    again = penult("info", "pictures", "--sheet", "sheets/s.png", "--per-class", "5", "--json", "-", cwd=work)
    result = json.loads(again.stdout)
    assert (work / "sheets/s.png").read_bytes() == first
    assert [(c["name"], c["splits"]) for c in result["classes"]] == [
        (name, {"train": 10, "test": 6}) for name in ("blue", "green", "red")
    ]
    (page,) = result["sheets"]
    assert {name: len(paths) for name, paths in page["rows"].items()} == {"blue": 5, "green": 5, "red": 5}
    one = json.loads(penult("info", "pictures/test/red/0.png", "--quick", "--json", "-", cwd=work).stdout)
    assert (one["pictures"], one["decoded"], one["unlabelled"]["pictures"]) == (1, False, 1)


def test_info_tells_a_store_from_pictures_by_looking(work, tmp_path):
    import h5py

    (tmp_path / "folder").mkdir()
    for place in ("store-without-a-suffix", "folder/part.h5"):
        shutil.copy(work / "f.h5", tmp_path / place)
    for name in ("store-without-a-suffix", "folder"):
        assert json.loads(penult("info", name, "--json", "-", cwd=tmp_path).stdout)["datasets"]
    with h5py.File(tmp_path / "other.hdf5", "w"):
        pass
    done = penult("info", "other.hdf5", cwd=tmp_path)
    assert "other.hdf5 is an HDF5 file but not a feature store of Penult's" in done.stderr
    draw(tmp_path / "a.png", 1)
    (tmp_path / "set.csv").write_text("path,label,split\na.png,cat,train\nno.png,dog,test\n")
    result = json.loads(penult("info", "set.csv", "--json", "-", cwd=tmp_path).stdout)
    assert result["unreadable"] == [{"path": "no.png", "reason": "cannot be read: no such file or directory"}]
    assert penult("info", "set.csv", "--sheet", "a.png", cwd=tmp_path).returncode == 1  # its own picture


def test_ctrl_c_in_info_exits_130(work, monkeypatch):
    from data.terminal import ProgressDisplay

    def interrupt(self, done, total, skipped=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressDisplay, "update", interrupt)
    done = penult("info", "pictures", cwd=work)
    assert done.returncode == 130
    assert "interrupted after 1 of 48 pictures: nothing was written" in done.stderr


@pytest.mark.parametrize(("kind", "said"), [("lr", "none was written"), ("all", "finished heads are in heads")])
def test_ctrl_c_in_fit_says_what_is_there(work, monkeypatch, kind, said):
    from classify.fitting import Fitting

    def interrupt(self, *told):
        raise KeyboardInterrupt

    monkeypatch.setattr(Fitting, "fit", interrupt)
    done = penult("fit", "f.h5", "--head", kind, "-o", "heads", cwd=work)
    assert done.returncode == 130
    assert f"interrupted: {said}; the same command starts anew" in done.stderr
    assert not (work / "heads").exists()


def test_verify_notices_features_that_are_not_of_their_pictures(work, tmp_path):
    import h5py

    from data.layout import block_checksum

    shutil.copy(work / "f.h5", tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        (group,) = file["features"].values()
        swapped = group["vectors"][:][::-1].copy()
        group["vectors"][:] = swapped
        group["checksum"][0] = block_checksum(group["digest"][:], swapped)
    done = penult("verify", tmp_path / "f.h5", "--sample", "20", cwd=work)
    assert done.returncode == 1
    assert "features extracted again differ by" in done.stderr


def test_weights_from_a_file_are_found_again_or_asked_for(tmp_path):
    import torch

    from extract.backbones import open_backbone

    torch.manual_seed(0)
    torch.save(open_backbone("timm/test_resnet", "random", seed=3).network.state_dict(), tmp_path / "w.pth")
    for hue, name in enumerate("ab"):
        for i in range(6):
            draw(tmp_path / "p" / name / f"{i}.png", 10 * hue + i, hue)
    assert (
        penult(
            "extract", "p", "-o", "f.h5", "--backbone", "timm/test_resnet", "--weights", "w.pth", cwd=tmp_path
        ).returncode
        == 0
    )
    assert penult("fit", "f.h5", "--head", "centroid", "-o", "c.head", cwd=tmp_path).returncode == 0
    assert penult("predict", "c.head", "p/a/0.png", cwd=tmp_path).returncode == 0
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    lost = penult("predict", "c.head", "p/a/0.png", cwd=tmp_path)
    assert lost.returncode == 1
    assert "needs the weights of timm/test_resnet from a file" in lost.stderr
    assert "name it with --weights FILE" in lost.stderr
    assert penult("predict", "c.head", "p/a/0.png", "--weights", "moved.pth", cwd=tmp_path).returncode == 0
    torch.save(open_backbone("timm/test_resnet", "random", seed=4).network.state_dict(), tmp_path / "other.pth")
    wrong = penult("predict", "c.head", "p/a/0.png", "--weights", "other.pth", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "they differ in weights: sha256:" in wrong.stderr


def test_a_foreign_package_of_the_same_name_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/__init__.py").write_text("")
    paths = [str(tmp_path), str(ROOT)]
    code = f"import sys; sys.path[:0] = {paths!r}; from pipeline import main; sys.exit(main(['info', 'x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"the package 'data' comes from {tmp_path}/data/__init__.py" in done.stderr
    assert "install Penult into an environment of its own" in done.stderr


def test_output_into_a_closed_pipe_is_no_traceback(work):
    command = f"{sys.executable} {ROOT}/pipeline.py info f.h5 | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=work)
    assert "Traceback" not in done.stderr


def test_plain_lines_where_there_is_no_terminal_and_a_bar_where_there_is_one(monkeypatch):
    import io

    from rich.console import Console

    from data import terminal

    now = iter(range(0, 1000, 6))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(now)))
    plain = io.StringIO()
    with terminal.ProgressDisplay(Console(file=plain, width=80), "pictures") as display:
        for done in range(0, 100, 20):
            display.update(done, 100, skipped=done // 40)
    assert plain.getvalue().splitlines() == [
        "20 of 100 pictures",
        "60 of 100 pictures, 3.3/s, 12 s left, 1 skipped",
    ]
    monkeypatch.undo()
    bar = io.StringIO()
    with terminal.ProgressDisplay(Console(file=bar, force_terminal=True, width=80), "pictures") as display:
        display.update(50, 100, skipped=2)
        display._bar.refresh()
    assert "50/100 pictures" in bar.getvalue()
    assert "2 skipped" in bar.getvalue()


def test_a_bar_names_what_it_counts_before_it_knows_how_many():
    import io

    from rich.console import Console

    from data import terminal

    bar = io.StringIO()
    with terminal.ProgressDisplay(Console(file=bar, force_terminal=True, width=80), "pictures") as display:
        display._bar.refresh()
    assert "pictures" in bar.getvalue()
    assert "None" not in bar.getvalue()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extrct", "x"], "penult: error: no verb 'extrct': did you mean extract? (penult --help has all)"),
        (["fit", "f.h5", "--haed", "lr"], "penult fit: error: no option --haed: did you mean --head?"),
        (
            ["fit", "f.h5", "--head", "lr", "--tune=val", "--qqq"],
            "penult fit: error: no option --qqq (penult fit --help",
        ),
        (["eval", "lr.head"], "penult eval: error: name heads and the store to measure them on"),
        (
            ["finetune", "x", "--mode", "scratch", "--weights", "w.pth", "-o", "c"],
            "penult finetune: error: --mode scratch begins with random weights: leave out --weights",
        ),
        (
            ["audit", "f.h5", "--csv", "-", "--json", "-"],
            "penult: error: --json - and --csv - are both standard output",
        ),
    ],
)
def test_wrong_usage_says_what_was_meant_in_two_lines(arguments, said):
    done = penult(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(said)
    assert len(lines) <= 2


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


def test_two_outputs_are_two_files(work):
    done = penult("report", "f.h5", "lr.head", "-o", "same", "--json", "./same", cwd=work)
    assert done.returncode == 1
    assert "-o and --json are both ./same: name another file for one" in done.stderr
    assert not (work / "same").exists()


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


def test_an_input_that_the_network_cannot_take_is_one_message(work):
    options = ["--backbone", "timm/test_vit", "--weights", "random", "--input-size", "50"]
    done = penult("extract", "pictures", "-o", "vit.h5", *options, cwd=work)
    assert done.returncode == 1
    assert "timm/test_vit/penultimate failed on 4 pictures of (50, 50)" in done.stderr
    assert "try another --input-size, or a smaller --batch-size" in done.stderr
