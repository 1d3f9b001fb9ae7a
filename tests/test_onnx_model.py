"""Exported models say what the head says, and need nothing of ours; prediction streams and needs no torch."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, TINY, age, draw, penult
from PIL import Image

from classify.artifact import TrainedHead, load_head
from classify.calibration import METHODS
from classify.heads import HEADS
from classify.tail import exportable
from classify.trials import Scaler
from data.errors import EngineError, HeadError, SpecError
from data.images import open_images
from data.predictions import Prediction, PredictionFile, Unread, print_predictions
from data.spec import Source
from data.tail import Tail
from data.terminal import PlainTerminal, ProgressDisplay
from extract.embed import reopen_cached
from extract.export import export_head
from extract.fused import _TAILS, _Calibration
from extract.model import OnnxModel
from extract.parity import TOLERANCE

EXPORTABLE = sorted(set(HEADS) - {"knn"})
# What a machine may lack that only predicts with an exported model.
ABSENT = ("torch", "torchvision", "timm", "onnx", "h5py", "scipy", "sklearn", "joblib", "safetensors", "rich")
ABSENT += ("threadpoolctl", "zlib_ng", "simplejpeg")
BLOCKED = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import importlib.util
honest = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in {ABSENT!r} else honest(name, *rest)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a folder with pictures of many kinds, their features in two layers, a head and its model."""
    folder = tmp_path_factory.mktemp("exported")
    for split, n in (("train", 8), ("test", 6)):
        for hue, name in enumerate(("red", "green", "blue")):
            for i in range(n):
                size = (40 + 37 * i, 90 - 7 * i)
                draw(folder / f"pictures/{split}/{name}/{i}.png", len(name) + 50 * i + hue, hue, size)
    sideways = folder / "pictures/test/red/sideways.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "pictures/test/red/3.png").save(sideways, exif=exif, quality=95)
    age(folder)
    for command in (
        ["extract", "pictures", "-o", "f.h5", *TINY, "--layer", "layer3", "penultimate"],
        ["fit", "f.h5", "--head", "lr", "--features", "penultimate", "-o", "lr.head"],
        ["export", "lr.head", "-o", "lr.onnx", "--store", "f.h5", "--json", "lr.json"],
    ):
        done = penult(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def predictions(done):
    assert done.returncode == 0, done.stderr
    return {p["path"]: p for p in json.loads(done.stdout)["predictions"]}


def trained(kind, calibration, k, seed=0):
    """Return a head on 40 columns, half of which are far from zero and constant in part, calibrated somehow."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, 120)
    X = rng.normal(size=(120, 40)) + rng.normal(size=(k, 40))[y]
    X = np.where(np.arange(40) < 20, 30 + 3 * X, X).astype(np.float32)
    X[:, 7] = 5
    settings = {"widths": (15, 25)} if kind in ("stack", "head2toe") else {}
    head = HEADS[kind](**settings)
    scaler = Scaler.of_training(X)
    head.fit(scaler.transform(X), y)
    if calibration == "temperature":
        head.scale_ = 0.3
    elif calibration == "platt":
        head.scale_, head.bias_ = rng.uniform(0.2, 0.6, k if k > 2 else 1).repeat(1 if k > 2 else 2), rng.normal(size=k)
    classes = [f"c{i}" for i in range(k)]
    return TrainedHead(kind, kind, head, scaler, classes, (), {}, np.zeros(0, np.uint64)), X


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("calibration", METHODS)
@pytest.mark.parametrize("kind", EXPORTABLE)
def test_a_head_as_arrays_says_what_the_head_says(kind, calibration, k):
    head, X = trained(kind, calibration, k)
    tail = exportable(head).tail
    assert all(array.dtype == np.float32 for array in (*tail.arrays.values(), tail.scale, tail.bias))
    with torch.inference_mode():
        logits = _Calibration(tail)(_TAILS[tail.kind](tail)(torch.from_numpy(X)))
        found = torch.softmax(logits, dim=1).numpy()
    assert np.abs(found - head.predict_proba(X)).max() < 2e-6
    assert np.ptp(found, axis=0).min() > 0.01  # the rows are told apart


def test_a_head_that_answers_by_its_training_pictures_is_refused():
    head, _ = trained("knn", "none", 3)
    with pytest.raises(HeadError, match=r"kind knn.*cannot be fused.*export a head of the kind lr, svm"):
        exportable(head)


def test_a_model_predicts_what_its_head_predicts(work):
    head = predictions(penult("predict", "lr.head", "pictures", "--engine", "torch", "--json", "-", cwd=work))
    model = predictions(penult("predict", "lr.onnx", "pictures", "--json", "-", cwd=work))
    assert list(model) == list(head)
    assert len(model) == 43
    for path, p in model.items():
        assert p["label"] == head[path]["label"]
        assert p["probabilities"] == pytest.approx(head[path]["probabilities"], abs=1e-5)
    done = json.loads((work / "lr.json").read_text())
    assert done["difference"] <= TOLERANCE
    assert (done["checked"], done["checked_on"], done["same_label"]) == (19, "pictures", 19)


def test_what_a_model_says_of_itself(work):
    model, head = OnnxModel(work / "lr.onnx"), load_head(work / "lr.head")
    assert model.classes == head.classes
    assert [f["fingerprint"] for f in model.about["features"]] == [head.spec.fingerprint]
    assert model.metadata["license"] == "none, since the weights are random"
    assert model.about["head"]["trained_on"] == head.info["trained_on"]
    how = model.preprocessing
    assert (how["resize"], how["crop"], how["exif"]) == (head.spec.resize, list(head.spec.crop), "apply")
    graph = onnx.load(work / "lr.onnx")
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert [o.name for o in graph.graph.output] == ["probabilities", "logits"]
    pixels = np.random.default_rng(0).integers(0, 256, (7, *how["crop"], 3)).astype(np.uint8)
    together = model.predict_proba(pixels)
    assert together.shape == (7, 3)
    assert np.abs(np.concatenate([model.predict_proba(pixels[i : i + 1]) for i in range(7)]) - together).max() < 1e-6


OTHER_FEATURES = {
    "grey layers of one network, the mean over a mirror image, shortened, of length 1": [
        *("--layer", "layer2", "layer3", "--view", "center", "flip", "--average"),
        *("--gray", "--normalize", "--projection", "random:24"),
    ],
    "one channel, principal components": ["--color", "luma", "--projection", "pca:6"],
    "with opacity": ["--color", "rgba"],
    "padded, without colour": ["--fit", "pad", "--gray"],
}


@pytest.mark.parametrize("options", OTHER_FEATURES.values(), ids=OTHER_FEATURES)
def test_features_of_other_kinds_become_a_part_of_the_graph(work, tmp_path, options):
    for command in (
        ["extract", work / "pictures", "-o", "f.h5", *TINY, *options],
        ["fit", "f.h5", "--head", "lr", "-o", "h.head", *(["--features", "all-stages"] if "layer2" in options else [])],
        ["export", "h.head", "-o", "h.onnx", "--store", "f.h5"],
    ):
        done = penult(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    components = [f for name in tmp_path.glob("f.h5.pca*") for f in ("--projection", name)]
    head = predictions(penult("predict", "h.head", work / "pictures", *components, "--json", "-", cwd=tmp_path))
    model = predictions(penult("predict", "h.onnx", work / "pictures", "--json", "-", cwd=tmp_path))
    for path, p in model.items():
        assert p["probabilities"] == pytest.approx(head[path]["probabilities"], abs=1e-5)


def changed(head, **changes):
    return dataclasses.replace(head, **changes)


def of_view(head, view):
    source = head.sources[0]
    spec = dataclasses.replace(source.spec, view=view)
    return changed(head, sources=(Source(spec, {**source.request, "view": view}),))


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(work, tmp_path):
    head, path = exportable(load_head(work / "lr.head")), tmp_path / "m.onnx"
    other = dataclasses.replace(head.sources[0].spec, backbone="timm/another")
    with pytest.raises(SpecError, match="is of the view top-left, and an exported model sees the centre crop alone"):
        export_head(of_view(head, "top-left"), path)
    with pytest.raises(HeadError, match=r"several networks.*fit a head on the features of one network"):
        export_head(changed(head, sources=(*head.sources, Source(other, {}))), path)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/a.png").write_bytes(b"")
    gone = open_images(tmp_path / "gone")
    with pytest.raises(EngineError, match=r"none of the pictures .* can be read: put them back"):
        export_head(head, path, pictures=gone)
    with pytest.raises(HeadError, match=r"end it in .onnx or .pt2"):
        export_head(head, tmp_path / "m.bin")
    assert [file.name for file in tmp_path.iterdir()] == ["gone"]


def test_an_export_that_says_something_else_is_not_written(work, tmp_path):
    head, path = exportable(load_head(work / "lr.head")), tmp_path / "m.onnx"
    path.write_text("what was there")
    tail = head.tail
    off = Tail(tail.kind, {**tail.arrays, "bias": tail.arrays["bias"] + np.float32([0, 100, 0])}, tail.scale, tail.bias)
    with pytest.raises(EngineError, match=r"off by 1\.0e\+00 in a probability.*nothing was written"):
        export_head(changed(head, tail=off), path, pictures=open_images(work / "pictures"))
    assert path.read_text() == "what was there"


def test_info_of_a_model_says_what_its_head_is(work):
    of_head, of_model = (
        json.loads(penult("info", name, "--json", "-", cwd=work).stdout) for name in ("lr.head", "lr.onnx")
    )
    own = ("head", "bytes", "exported")
    assert {k: v for k, v in of_model.items() if k not in own} == {k: v for k, v in of_head.items() if k not in own}
    assert of_model["exported"]["difference"] == json.loads((work / "lr.json").read_text())["difference"]
    told = penult("info", "lr.onnx", cwd=work).stdout
    assert told.startswith("lr.onnx: exported model of a head of the kind lr, ")
    assert "input        uint8 batch x " in told


def test_the_usage_of_export_says_what_goes_with_what(work):
    for command, words in (
        (["export", "lr.head", "-o", "m.onnx", "--int8"], "name --store STORE"),
        (["export", "lr.head", "-o", "m.pt2", "--int8", "--store", "f.h5"], "end -o in .onnx"),
        (["export", "f.h5", "-o", "m.npz", "--int8"], "are for a model"),
        (["export", "lr.head", "-o", "m.onnx", "--features", "x"], "a head has its features"),
    ):
        done = penult(*command, cwd=work)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    foreign = penult("export", "lr.head", "-o", "m.onnx", "--store", "f.h5", "--split", "nowhere", cwd=work)
    assert foreign.returncode == 1
    assert "no labelled pictures in split 'nowhere' (it has test, train)" in foreign.stderr


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_eight_bits_are_smaller_and_their_cost_is_measured(work, method):
    done = penult("export", "lr.head", "-o", "q.onnx", "--int8", method, "--store", "f.h5", "--json", "-", cwd=work)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["int8"]
    assert (result["method"], result["split"], result["n"]) == (method, "test", 19)
    assert result["int8"]["bytes"] < 0.6 * result["float32"]["bytes"]
    assert result["p_value"] <= 1
    model = OnnxModel(work / "q.onnx")
    assert model.about["int8"]["accuracy"] == result["int8"]["accuracy"]
    found = [p.label for p in model.predict(open_images(work / "pictures/test")) if isinstance(p, Prediction)]
    truth = [path.partition("/")[0] for path in open_images(work / "pictures/test").paths]
    assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) == pytest.approx(result["int8"]["accuracy"])


def test_torch_export_gives_the_same(work):
    done = penult("export", "lr.head", "-o", "lr.pt2", "--json", "-", cwd=work)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["difference"] <= TOLERANCE
    files = {"classes.json": "", "penult.json": ""}
    module = torch.export.load(work / "lr.pt2", extra_files=files).module()
    assert json.loads(files["classes.json"]) == ["blue", "green", "red"]
    assert json.loads(files["penult.json"])["parity"] == {
        "checked": 64,
        "difference": json.loads(done.stdout)["difference"],
    }
    model = OnnxModel(work / "lr.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (3, *model.preprocessing["crop"], 3)).astype(np.uint8)
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(pixels))[0].numpy() - model.predict_proba(pixels)).max() < 1e-5


def bare(code, *arguments, cwd):
    """Run code where the packages that are not needed cannot be imported."""
    command = [sys.executable, "-I", "-c", BLOCKED + code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_model_predicts_where_only_onnxruntime_and_pillow_are(work, tmp_path):
    new = tmp_path / "new"
    for i in range(12):
        draw(new / f"{i:02}.png", i, i, (50 + i, 60))
    (new / "05-bad.jpg").write_bytes((new / "05.png").read_bytes()[:100])
    code = f"sys.path.insert(0, {str(ROOT)!r})\nfrom pipeline import main\nsys.exit(main(sys.argv[1:]))"
    model = work / "lr.onnx"
    done = bare(code, "predict", model, "new", "--csv", "p.csv", "--json", "p.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 pictures in" in done.stdout
    assert "skipped new/05-bad.jpg: damaged" in done.stdout
    result = json.loads((tmp_path / "p.json").read_text())
    assert [s["path"] for s in result["skipped"]] == ["new/05-bad.jpg"]
    head = predictions(penult("predict", work / "lr.head", "new", "--json", "-", cwd=tmp_path))
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [p["path"] for p in result["predictions"]] == list(head)
    for row, p in zip(rows, result["predictions"], strict=True):
        assert p["probabilities"] == pytest.approx(head[p["path"]]["probabilities"], abs=1e-5)
        assert float(row["probability"]) == pytest.approx(p["probability"], abs=1e-6)
    piped = bare(code, "predict", model, "new/00.png", "--csv", "-", cwd=tmp_path)
    assert piped.stdout.splitlines()[0] == "path,label,probability,blue,green,red"
    assert len(piped.stdout.splitlines()) == 2
    a_head = bare(code, "predict", work / "lr.head", "new", cwd=tmp_path)
    assert a_head.returncode == 1
    assert "is a head, which needs all of Penult's packages" in a_head.stderr


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_script_needs_nothing_of_ours_and_says_the_same(work, fit):
    named = "lr" if fit == "crop" else fit
    for command in (
        ["extract", "pictures", "-o", f"{fit}.h5", *TINY, "--fit", fit],
        ["fit", f"{fit}.h5", "--head", "lr", "-o", f"{fit}.head"],
        ["export", f"{fit}.head", "-o", f"{fit}.onnx", "--store", f"{fit}.h5"],
    ):
        if fit != "crop":  # of which there is a model already
            assert penult(*command, cwd=work).returncode == 0
    paths = [str(p.relative_to(work)) for p in sorted((work / "pictures/test").rglob("*.*"))]
    assert penult("export", f"{named}.onnx", "-o", "predict.py", cwd=work).returncode == 0
    done = bare((work / "predict.py").read_text(), f"{named}.onnx", *paths, cwd=work)
    assert done.returncode == 0, done.stderr
    head = predictions(penult("predict", f"{named}.head", "pictures/test", "--json", "-", cwd=work))
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {path for path, _, _ in lines} == set(head)
    for path, label, probability in lines:
        assert label == head[path]["label"]
        assert float(probability) == pytest.approx(head[path]["probability"], abs=1e-5)


def test_a_script_is_for_a_model_and_replaces_nothing_else(work, tmp_path):
    done = penult("export", "lr.head", "-o", tmp_path / "predict.py", cwd=work)
    assert done.returncode == 1
    assert "lr.head is no exported model, which a script is for: run `export HEAD -o model.onnx` first" in done.stderr
    (tmp_path / "mine.py").write_text("print('mine')")
    done = penult("export", "lr.onnx", "-o", tmp_path / "mine.py", cwd=work)
    assert done.returncode == 1
    assert "mine.py exists and is another script" in done.stderr
    assert (tmp_path / "mine.py").read_text() == "print('mine')"


def test_a_file_that_is_no_model_is_refused(work, tmp_path):
    pictures = work / "pictures/test"
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    foreign = onnx.load(work / "lr.onnx")
    onnx.helper.set_model_props(foreign, {"classes": "[]"})
    onnx.save(foreign, tmp_path / "foreign.onnx")
    newer = {**OnnxModel(work / "lr.onnx").metadata, "penult": json.dumps({"format": 2})}
    onnx.helper.set_model_props(foreign, newer)
    onnx.save(foreign, tmp_path / "newer.onnx")
    for name, words in (
        ("no.onnx", "ONNX Runtime does not take no.onnx"),
        ("foreign.onnx", r"foreign.onnx is an ONNX graph but no model of Penult's (its metadata lack penult, "),
        ("newer.onnx", "newer.onnx has format 2, this Penult reads up to 1: update Penult"),
        ("absent.onnx", "absent.onnx does not exist: make it with `export HEAD -o absent.onnx`"),
    ):
        done = penult("predict", name, pictures, cwd=tmp_path)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    for option in (["--engine", "torch"], ["--weights", "x.pth"]):
        done = penult("predict", work / "lr.onnx", pictures, *option, cwd=tmp_path)
        assert done.returncode == 1
        assert "leave out" in done.stderr


def test_an_interrupted_prediction_leaves_whole_rows(work, monkeypatch):
    honest = OnnxModel.predict

    def interrupted(self, *arguments):
        for i, item in enumerate(honest(self, *arguments)):
            if i == 5:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(OnnxModel, "predict", interrupted)
    done = penult("predict", "lr.onnx", "pictures", "--csv", "part.csv", cwd=work)
    assert done.returncode == 130
    assert "interrupted: part.csv holds the first 5 pictures" in done.stderr
    rows = list(csv.DictReader((work / "part.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == open_titles(work)[:5]


def open_titles(work):
    return [f"pictures/{path}" for path in open_images(work / "pictures").paths]


def test_rows_are_in_the_file_as_soon_as_they_are_known(tmp_path):
    with PredictionFile(str(tmp_path / "p.csv"), ["a", "b"]) as rows:
        rows.add(Prediction(0, "x,\n.png", ["a", "b"], np.array([0.25, 0.75])))
        held = (tmp_path / "p.csv").read_text()
    assert list(csv.reader(held.splitlines(keepends=True))) == [
        ["path", "label", "probability", "a", "b"],
        ["x,\n.png", "b", "0.750000", "0.250000", "0.750000"],
    ]


def test_a_prediction_streams_what_it_has_before_it_has_read_the_rest(work):
    class Counted:
        def __init__(self, images, times):
            self.images, self.times, self.most = images, times, 0

        def __len__(self):
            return len(self.images) * self.times

        def title(self, index):
            return f"{index}"

        def read(self, index):
            self.most = max(self.most, index)
            return self.images.read(index % len(self.images))

    pictures = Counted(open_images(work / "pictures"), 8)
    seen = []
    for item in OnnxModel(work / "lr.onnx").predict(pictures):
        seen.append(item.index)
        assert pictures.most < item.index + 200  # so many at the most wait in memory
    assert seen == list(range(43 * 8))


def test_a_model_of_which_a_picture_is_not_finite_says_so(work, monkeypatch):
    monkeypatch.setattr(OnnxModel, "predict_proba", lambda self, pixels: np.full((len(pixels), 3), np.nan, np.float32))
    found = list(OnnxModel(work / "lr.onnx").predict(open_images(work / "pictures/test/red")))
    assert {type(item) for item in found} == {Unread}
    assert found[0].reason == "the network gives NaN or infinity for it"


def test_predictions_as_lines_without_rich(capsys):
    found = [
        Prediction(0, "a\x1b.png", ["cat", "dog"], np.array([0.2, 0.8])),
        Prediction(1, "long/" * 30 + "b.png", ["cat", "dog"], np.array([0.9, 0.1])),
    ]
    print_predictions(PlainTerminal(), found)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["path", "label", "probability", "next", "best"]
    assert first.split() == ["a\\x1b.png", "dog", "0.800", "cat", "0.200"]
    assert second.startswith("...")
    assert "/b.png  cat" in second


def test_progress_without_rich_is_lines_on_standard_error(capsys, monkeypatch):
    monkeypatch.setattr("data.terminal._LINE_EVERY", 0.0)
    with ProgressDisplay(PlainTerminal(), "pictures") as display:
        for done in range(5):
            display.update(done, 4, done // 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(",")[0].split(" in ")[0] for line in lines] == [f"{done} of 4 pictures" for done in (2, 3, 4)]
    assert lines[1].endswith("1 skipped")


def test_many_pictures_are_counted_on_the_terminal_and_all_in_the_json(work, monkeypatch):
    monkeypatch.setattr("verbs.predict._SHOWN", 4)
    done = penult("predict", "lr.onnx", "pictures", "--csv", "all.csv", "--json", "all.json", cwd=work)
    assert "... and 39 more: all of them are in all.csv" in done.stdout
    assert "wrote all.csv: 43 pictures in" in done.stdout
    assert len(json.loads((work / "all.json").read_text())["predictions"]) == 43


def test_a_head_whose_graph_is_known_predicts_without_torch(work, tmp_path, monkeypatch):
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "cache"))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline import main; main(sys.argv[1:]); "
    code += "print('torch' in sys.modules, file=sys.stderr)"

    def run():
        command = [sys.executable, "-c", code, "predict", "lr.head", "pictures/test", "--json", "-"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout), done.stderr.splitlines()[-1] == "True"

    by_torch = predictions(penult("predict", "lr.head", "pictures/test", "--engine", "torch", "--json", "-", cwd=work))
    assert penult("predict", "lr.head", "pictures/test", cwd=work).returncode == 0
    found, torch_is_there = run()
    assert not torch_is_there
    for p in found["predictions"]:
        assert p["probabilities"] == pytest.approx(by_torch[p["path"]]["probabilities"], abs=1e-5)
    (graph,) = (tmp_path / "cache/onnx").iterdir()
    graph.write_bytes(graph.read_bytes()[:-1])  # a damaged graph is none
    assert penult("predict", "lr.head", "pictures/test", cwd=work).returncode == 0
    assert run() == (found, False)  # it was made anew
    (mark,) = (tmp_path / "cache/onnx-agreed").iterdir()
    mark.write_text("onnxruntime 0 on another machine")  # whose agreement is none of ours
    assert reopen_cached(load_head(work / "lr.head").sources, "a test", "auto") is None
