"""Bundles: what every verb reads in place, what is found damaged or refused, and what predicts without torch."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundles import KINDS, PLAIN, copy_of, load, refused
from conftest import ROOT, TINY, make_view, penult

from classify.artifact import load_head
from classify.tail import exportable
from data.bundle import MANIFEST, manifest, named_heads, read_bundle
from data.errors import BundleError, MissingFile
from data.export import export_table
from data.publish import publish
from data.store import FeatureStore
from data.table import choose_table
from extract.export import export_head


@pytest.mark.parametrize("name", ["plain", "pca"])
def test_every_verb_reads_a_bundle_in_place(kit, tmp_path, name):
    bundle = kit / name
    before = {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    for command in (
        ["fit", bundle, "--head", "lr", "-o", tmp_path / "new.head"],
        ["eval", tmp_path / "new.head", bundle],
        ["eval", bundle, bundle],
        ["info", bundle],
        ["verify", bundle, "--sample", "0"],
        ["compare", bundle, "--heads", "lr", "ridge"],
        ["audit", bundle],
        ["advise", bundle],
        ["export", bundle, "-o", tmp_path / "x.npz"],
        ["pack", bundle, "-o", tmp_path / "again", *PLAIN],
    ):
        done = penult(*command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert before == {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}


def test_a_bundle_alone_is_measured_with_all_its_heads(kit, tmp_path):
    heads = [f"{kind}.head" for kind in KINDS]
    results = []
    for named in (["plain"], [*heads, "f.h5", "--dataset", "pictures"]):
        assert penult("eval", *named, "--json", tmp_path / "eval.json", cwd=kit).returncode == 0
        results.append(json.loads((tmp_path / "eval.json").read_text()))
    figures = [[(head["kind"], head["accuracy"], head["log_loss"]) for head in result["heads"]] for result in results]
    assert figures[0] == figures[1]
    assert penult("eval", "f.h5", cwd=kit).returncode == 2
    assert [path.stem for path in named_heads([kit / "plain"], kit / "f.h5")] == list(KINDS)


def test_nothing_is_written_into_a_bundle(kit, tmp_path):
    bundle = copy_of(kit, tmp_path)
    before = sorted(bundle.rglob("*"))
    assert "is a bundle, which is read only" in refused("extract", kit / "pictures", "-o", bundle, *TINY, cwd=kit)
    assert "is a bundle, which is read only" in refused("drop", bundle, "penultimate", cwd=kit)
    fit = ["fit", bundle, "--head", "lr", "-o", bundle / "heads" / "lr.head"]
    assert f"lr.head would be in the bundle {bundle}, which is read only: name another place" in refused(*fit, cwd=kit)
    assert "would be in the bundle" in refused("pack", "f.h5", "lr.head", "-o", bundle / "more", cwd=kit)
    before_work = refused("export", "nothing", "-o", bundle / "x.onnx", "--int8", "--store", "nothing", cwd=kit)
    assert f"x.onnx would be in the bundle {bundle}" in before_work
    assert "name another place with --json" in refused("info", bundle, "--json", bundle / "x.json", cwd=kit)
    with pytest.raises(BundleError, match="read only"):
        publish(bundle, make_view([1]), commands={})
    with pytest.raises(BundleError, match="would be in the bundle"):
        export_table(choose_table(bundle), bundle / "all.npz")
    head = exportable(load_head(bundle / "heads" / "lr.head"))
    with pytest.raises(BundleError, match="would be in the bundle"):
        export_head(head, bundle / "models" / "lr.onnx")
    assert sorted(bundle.rglob("*")) == before


# --- what was carried


@pytest.mark.parametrize("name", ["features.h5", "heads/lr.head", "thumbnails.zip"])
def test_verify_finds_a_changed_byte_in_any_file(kit, tmp_path, name):
    bundle = copy_of(kit, tmp_path)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    done = penult("verify", bundle, "--sample", "0")
    assert done.returncode == 1
    assert f"{bundle / name} is not what was packed" in done.stderr
    (bundle / name).unlink()
    assert f"{bundle / name} is not there: copy the bundle again" in penult("verify", bundle).stderr


def test_a_stranger_in_the_folder_is_no_part_of_the_store(kit, tmp_path):
    bundle = copy_of(kit, tmp_path)
    shutil.copy(kit / "f.h5", bundle / "a.h5")
    assert len(FeatureStore(bundle).features()) == 1
    done = penult("verify", bundle, "--sample", "0")
    assert done.returncode == 0
    assert "note: a.h5 is not of the bundle" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(" -o plain", " -o other"), "is not what was written: copy the bundle again"),
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "[]", "is not a bundle's of Penult"),
        (lambda text: '"penult_bundle"', "cannot be read"),
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_refused(kit, tmp_path, change, words):
    bundle = copy_of(kit, tmp_path)
    text = (bundle / MANIFEST).read_text()
    assert change(text) != text
    (bundle / MANIFEST).write_text(change(text))
    for verb in ("info", "verify"):
        assert words in refused(verb, bundle, cwd=tmp_path)


def test_a_manifest_of_a_newer_format_or_with_foreign_files_is_refused(kit, tmp_path):
    bundle = copy_of(kit, tmp_path)
    info = json.loads((bundle / MANIFEST).read_text())
    del info["digest"], info["penult_bundle"]
    (bundle / MANIFEST).write_bytes(manifest({**info, "penult_bundle": 2}))
    with pytest.raises(BundleError, match="has format 2, this Penult reads up to 1: update Penult"):
        read_bundle(bundle)
    for name in ("../secret", "/etc/passwd", "a/b/c", "a/../b", ".hidden"):
        foreign = {**info, "files": {**info["files"], name: {"bytes": 1, "sha256": ""}}}
        (bundle / MANIFEST).write_bytes(manifest(foreign))
        with pytest.raises(BundleError, match="can be no file of a bundle"):
            read_bundle(bundle)
    with pytest.raises(MissingFile, match="is no bundle"):
        read_bundle(tmp_path)


def test_reading_a_bundle_needs_neither_numpy_nor_h5py(kit):
    code = """if True:
        import sys
        from pathlib import Path
        from data.bundle import read_bundle
        from data.thumbnails import thumbnails_of
        bundle = read_bundle(Path(sys.argv[1]))
        assert bundle.model("mlp") is None and bundle.problems() == []
        with thumbnails_of(bundle.path) as thumbnails:
            assert len(thumbnails) == 39
        sys.exit(bool({"numpy", "h5py", "torch"} & set(sys.modules)))
    """
    assert subprocess.run([sys.executable, "-c", code, str(kit / "plain")], cwd=ROOT).returncode == 0


# --- models


@pytest.fixture(scope="module")
def carried(kit):
    """A bundle with models, of two heads."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    done = penult("pack", "f.h5", "lr.head", "knn.head", "-o", "carried", "--pca", "8", cwd=kit)
    assert done.returncode == 0, done.stderr
    return kit / "carried"


def probabilities(*arguments, cwd):
    """Return what `predict` says of the red pictures, (n, k)."""
    out = cwd / "predictions.json"
    done = penult("predict", *arguments, "pictures/test/red", "--json", out, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["predictions"]
    assert len(found) == 5
    return np.array([list(one["probabilities"].values()) for one in found])


def test_predict_runs_a_bundles_model_and_says_what_its_head_would(carried, kit):
    lr, knn = read_bundle(carried).info["heads"]
    assert (lr["model"], lr["no_model"]) == ("models/lr.onnx", "")
    assert knn["model"] is None
    assert "knn.head is a head of the kind knn" in knn["no_model"]
    by_model = probabilities("carried", cwd=kit)
    components = read_bundle(carried).components("lr")[0]
    by_head = probabilities("carried/heads/lr.head", "--projection", components, cwd=kit)
    assert np.allclose(by_model, by_head, atol=1e-4)
    assert np.allclose(probabilities("carried", "--engine", "torch", cwd=kit), by_head, atol=1e-4)
    stored = load_head(carried / "heads" / "lr.head").predict_proba(load(carried).X)
    red = [path.startswith("test/red") for path in load(carried).paths]
    assert np.allclose(by_model, stored[red], atol=1e-4)


def test_predict_takes_the_head_that_is_named_and_computes_its_features_where_it_has_no_model(carried, kit):
    done = penult("predict", "carried", "pictures/test/red", cwd=kit)
    assert "note: by lr, the first of lr, knn: name another with --head" in done.stdout
    stored = load_head(carried / "heads" / "knn.head").predict_proba(load(carried).X)
    red = [path.startswith("test/red") for path in load(carried).paths]
    assert np.allclose(probabilities("carried", "--head", "knn", cwd=kit), stored[red], atol=1e-4)
    assert "holds no head 'svm', only lr, knn" in refused("predict", "carried", "pictures", "--head", "svm", cwd=kit)
    assert penult("predict", "lr.head", "pictures", "--head", "lr", cwd=kit).returncode == 2


def test_predict_from_a_bundle_needs_neither_torch_nor_h5py(carried, kit):
    code = """if True:
        import sys
        for name in ("torch", "torchvision", "timm", "onnx", "h5py", "sklearn", "scipy", "safetensors"):
            sys.modules[name] = None
        from pipeline import main
        sys.exit(main(sys.argv[1:]))
    """
    command = [sys.executable, "-c", code, "predict", str(carried), str(kit / "pictures" / "test" / "red")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("red") >= 5


def test_a_model_that_is_not_what_was_packed_is_not_run(carried, kit, tmp_path):
    bundle = shutil.copytree(carried, tmp_path / "carried")
    with open(bundle / "models" / "lr.onnx", "ab") as file:
        file.write(b"more")
    error = refused("predict", bundle, kit / "pictures", cwd=tmp_path)
    assert "models/lr.onnx is not what was packed" in error


def test_models_go_along_where_there_is_no_torch(carried, kit, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    assert penult("pack", carried, "-o", tmp_path / "again", "--dtype", "float16").returncode == 0
    assert (tmp_path / "again/models/lr.onnx").read_bytes() == (carried / "models/lr.onnx").read_bytes()
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "new", cwd=kit)
    assert done.returncode == 0, done.stderr
    assert "note: no model of lr: a model needs torch: install it with `pip install '.[extract]'`" in done.stdout
    assert not (tmp_path / "new" / "models").exists()


def test_a_bundle_is_no_head(kit):
    assert "plain is a bundle: name a head of it, plain/heads/lr.head" in refused(
        "finetune", "pictures", "--mode", "lp-ft", "--start", "plain", "-o", "x", *TINY, cwd=kit
    )


def test_a_report_of_a_bundle_shows_pictures_that_are_not_there(kit, tmp_path):
    shutil.copytree(kit / "pictures", tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    assert penult("fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    assert penult("pack", "f.h5", "lr.head", "-o", "b", *PLAIN, cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "pictures")
    for shown, named in ((39, ["b"]), (0, ["f.h5", "lr.head"])):
        command = ["report", *named, "-o", "r.html", "--quick", "--json", "r.json"]
        done = penult(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "r.json").read_text())["thumbnails"] == shown
    assert penult("report", "f.h5", "-o", "r.html", cwd=tmp_path).returncode == 2
