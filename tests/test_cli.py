"""The command line as a person meets it: help, wrong usage, errors, exit codes, progress."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, draw, penult, penult_process

from verbs.parser import VERBS


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
        (["doctor", "lr.head"], "lr.head is a head, not pictures: name a folder of pictures"),
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


def test_a_store_of_another_fingerprint_is_refused_field_by_field(work):
    assert (
        penult("extract", "pictures", "-o", "other.h5", *TINY, "--interpolation", "nearest", cwd=work).returncode == 0
    )
    done = penult("eval", "lr.head", "other.h5", cwd=work)
    assert done.returncode == 1
    assert "other.h5 holds timm/test_resnet/penultimate, head lr.head wants timm/test_resnet/penultimate" in done.stderr
    assert "they differ in interpolation: nearest, not bi" in done.stderr


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


def test_no_line_ends_in_blanks_where_no_terminal_is(work):
    lines = penult("compare", "f.h5", "--heads", "lr", "ridge", cwd=work).stdout.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line != line.rstrip()] == []


def test_ctrl_c_before_the_verb_begins_is_one_line(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("verbs.parser.build_parser", interrupt)
    done = penult("info", "f.h5")
    assert (done.returncode, done.stderr) == (130, "\npenult: interrupted: run the same command again\n")


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


def test_a_few_lines_where_there_is_no_terminal_and_a_bar_where_there_is_one(monkeypatch, capsys):
    import io

    from rich.console import Console

    from data import terminal

    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    plain = io.StringIO()
    with terminal.ProgressDisplay(Console(file=plain, width=80), "pictures") as display:
        for done in range(0, 101, 10):
            display.update(done, 100, skipped=done // 40)
            now += 6
        display.count("models")
        for done in range(1, 3):  # nothing is known of their speed before the last is done
            now += 30
            display.update(done, 2)
    assert plain.getvalue() == ""
    assert capsys.readouterr().err.splitlines() == [
        "30 of 100 pictures, 1.7/s, 42 s left",
        "70 of 100 pictures, 1.7/s, 18 s left, 1 skipped",
        "100 of 100 pictures in 1 min 0 s, 2 skipped",
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


def test_version_is_told():
    from data import VERSION

    done = penult("--version")
    assert (done.returncode, done.stdout) == (0, f"penult {VERSION}\n")


def test_a_head_that_is_named_twice_is_measured_once(work):
    done = penult("eval", "lr.head", "svm.head", "lr.head", "f.h5", "--json", "-", cwd=work)
    found = json.loads(done.stdout)
    assert sorted(head["head"] for head in found["heads"]) == ["lr.head", "svm.head"]
    assert len(found["pairs"]) == 1


def test_pictures_of_which_none_can_be_read_get_no_empty_table(work, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    done = penult("predict", work / "lr.head", tmp_path / "x.png")
    assert done.returncode == 1
    assert done.stdout.startswith("skipped ")


def test_extract_says_what_no_head_can_be_fitted_to_and_where_the_classes_are(work, tmp_path):
    def notes(folder):
        done = penult("extract", folder, "-o", tmp_path / f"{folder.name}.h5", "--json", "-", *TINY)
        return json.loads(done.stdout)["notes"]

    assert not any("one class" in note for note in notes(work / "pictures"))
    shutil.copytree(work / "pictures" / "test", tmp_path / "above" / "all of it")
    meant = f"if blue, green, red are the classes, name '{tmp_path}/above/all of it'"
    assert f"one class (all of it), and a head needs two; {meant}" in notes(tmp_path / "above")
    for split in ("train", "test"):
        shutil.copytree(work / "pictures" / split / "red", tmp_path / "split" / split / "red")
    assert "one class (red), and a head needs two" in notes(tmp_path / "split")
    assert any(note.startswith("no picture has a label") for note in notes(work / "pictures" / "test" / "red"))


def test_a_split_that_is_not_there_comes_with_the_option_that_makes_it(work, tmp_path):
    for split, option in (("val", "--val-fraction"), ("nosuch", "--test-fraction")):
        done = penult("eval", "lr.head", "f.h5", "--split", split, cwd=work)
        assert done.returncode == 1
        assert f"extract again with {option} 0.2" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_in_words(work):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(ROOT / "pipeline.py"), "info", "f.h5"],
            cwd=work,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "penult: error: no space left on device\n"


def test_an_input_that_the_network_cannot_take_is_one_message(work):
    options = ["--backbone", "timm/test_vit", "--weights", "random", "--input-size", "50"]
    done = penult("extract", "pictures", "-o", "vit.h5", *options, cwd=work)
    assert done.returncode == 1
    assert "timm/test_vit/penultimate failed on 4 pictures of (50, 50)" in done.stderr
    assert "try another --input-size, or a smaller --batch-size" in done.stderr
