"""Bundles: what `pack` makes, what every verb reads in place, and what is refused."""

import hashlib
import importlib.util
import io
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT, SPEC, TINY, age, digest_of, draw, make_view, penult
from PIL import Image

import data.packing
from classify.artifact import load_head
from classify.tail import exportable
from data.bundle import MANIFEST, is_bundle, manifest, named_heads, read_bundle
from data.errors import BundleError, DamagedStore, MissingFile
from data.export import export_table
from data.layout import Part
from data.packing import new_folder
from data.publish import publish
from data.report import is_store
from data.store import FeatureStore
from data.table import choose_table
from data.thumbnails import Thumbnails, thumbnails_of, write_thumbnails
from extract.components import components_file
from extract.export import export_head
from extract.projection import load_pca
from extract.thumbnails import thumbnail
from verbs.pack import _command
from verbs.parser import build_parser

KINDS = ("lr", "mlp", "knn")
PLAIN = ["--without", "models"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with pictures, a store of them and of other ones, heads, and bundles: as they are, and projected."""
    folder = tmp_path_factory.mktemp("work")
    seed = 0
    for name, classes in (("pictures", ("red", "green", "blue")), ("others", ("cyan", "pink"))):
        for split, n in (("train", 8), ("test", 5)):
            for hue, label in enumerate(classes):
                for i in range(n):
                    draw(folder / name / split / label / f"{i}.png", seed, hue, (200, 80))
                    seed += 1
    age(folder)
    layers = ["--layers", "layer3", "penultimate"]
    for source, more in (("pictures", layers), ("others", [])):
        assert penult("extract", source, "-o", "f.h5", *TINY, *more, cwd=folder).returncode == 0
    for kind in KINDS:
        fit = ("fit", "f.h5", "--dataset", "pictures", "--features", "penultimate")
        assert penult(*fit, "--head", kind, "-o", f"{kind}.head", cwd=folder).returncode == 0
    heads = [f"{kind}.head" for kind in KINDS]
    for name, more in (("plain", []), ("pca", ["--pca", "6"])):
        done = penult("pack", "f.h5", *heads, "-o", name, "--json", f"{name}.json", *more, *PLAIN, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def load(store, split="test", **which):
    return FeatureStore(store).load(split, dataset="pictures", **which)


def copy_of(work, tmp_path, name="plain"):
    return shutil.copytree(work / name, tmp_path / name)


def refused(*arguments, cwd):
    """Run a command that must fail, and return its one sentence."""
    done = penult(*arguments, cwd=cwd)
    assert done.returncode == 1
    assert "defect" not in done.stderr
    assert done.stderr.startswith("penult: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_bundle_holds_what_its_heads_need_and_nothing_else(work):
    store, bundle = FeatureStore(work / "f.h5"), FeatureStore(work / "plain")
    assert is_store(work / "plain")
    assert is_bundle(work / "plain")
    assert len(store.features()) == 2
    assert [info.spec.layer for info in bundle.features().values()] == ["penultimate"]
    assert list(bundle.views()) == ["pictures"]
    assert bundle.view().same_as(store.view("pictures"))
    for split in ("train", "test"):
        before, after = load(work / "f.h5", split, features="penultimate"), load(work / "plain", split)
        assert (before.X == after.X).all()
        assert (before.X.dtype, before.paths) == (after.X.dtype, after.paths)
        assert (before.y == after.y).all()
    assert len(bundle.digests(after.spec.fingerprint)) == 39  # none of the other set
    for kind in KINDS:
        assert (work / "plain" / "heads" / f"{kind}.head").read_bytes() == (work / f"{kind}.head").read_bytes()


def test_its_json_says_what_is_in_it_and_where_it_came_from(work):
    said = json.loads((work / "plain.json").read_text())
    info = json.loads((work / "plain" / MANIFEST).read_text())
    assert said == {"bundle": "plain", **info}
    assert info["penult_bundle"] == 1
    assert sorted(info["files"]) == ["features.h5", *sorted(f"heads/{k}.head" for k in KINDS), "thumbnails.zip"]
    for name, listed in info["files"].items():
        content = (work / "plain" / name).read_bytes()
        assert listed == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert info["made"]["command"] == "penult pack f.h5 lr.head mlp.head knn.head -o plain --without models"
    assert info["datasets"][0] == {
        "name": "pictures",
        "images": 39,
        "classes": ["blue", "green", "red"],
        "splits": {"test": 15, "train": 24},
    }
    assert [head["name"] for head in info["heads"]] == list(KINDS)
    assert {head["how"] for head in info["heads"]} == {"as it was"}
    assert all("--without models" in head["no_model"] for head in info["heads"])


def test_the_command_that_made_a_bundle_is_all_of_it():
    asked = "pack f.h5 a.head -o b --weights x.pth --weights y.pth --dataset d e --pca 8 --thumbnails 5MB"
    parser = build_parser()
    arguments = parser.parse_args(asked.split())
    assert parser.parse_args(shlex.split(_command(arguments))[1:]) == arguments


@pytest.mark.parametrize("name", ["plain", "pca"])
def test_every_verb_reads_a_bundle_in_place(work, tmp_path, name):
    bundle = work / name
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


def test_a_bundle_alone_is_measured_with_all_its_heads(work, tmp_path):
    heads = [f"{kind}.head" for kind in KINDS]
    results = []
    for named in (["plain"], [*heads, "f.h5", "--dataset", "pictures"]):
        assert penult("eval", *named, "--json", tmp_path / "eval.json", cwd=work).returncode == 0
        results.append(json.loads((tmp_path / "eval.json").read_text()))
    figures = [[(head["kind"], head["accuracy"], head["log_loss"]) for head in result["heads"]] for result in results]
    assert figures[0] == figures[1]
    assert penult("eval", "f.h5", cwd=work).returncode == 2
    assert [path.stem for path in named_heads([work / "plain"], work / "f.h5")] == list(KINDS)


def test_float16_halves_the_features_and_measures_what_that_costs(work, tmp_path):
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "half", "--dtype", "float16", *PLAIN, cwd=work)
    assert done.returncode == 0, done.stderr
    whole, half = load(work / "plain"), load(tmp_path / "half")
    assert half.X.dtype == np.float16
    assert (whole.X.astype(np.float16) == half.X).all()
    assert half.spec == whole.spec
    (one,) = read_bundle(tmp_path / "half").info["measured"]
    assert (one["split"], one["n"], one["how"]) == ("test", 15, "as it was")
    head = load_head(work / "lr.head")
    for side, samples in (("before", whole), ("after", half)):
        right = head.predict_proba(samples.X).argmax(axis=1) == samples.y
        assert one[side]["accuracy"] == right.mean()
        low, high = one[side]["accuracy_ci95"]
        assert low < right.mean() <= high


def test_a_value_that_float16_cannot_hold_is_refused(tmp_path, stage, monkeypatch):
    huge = np.full((6, 8), 1e5, dtype=np.float32)
    monkeypatch.setattr("conftest.vectors_of", lambda rows, dim: huge)
    stage(tmp_path / "f.h5", list(range(6)))
    publish(tmp_path / "f.h5", make_view(list(range(6))), commands={SPEC.fingerprint: {}})
    error = refused("pack", "f.h5", "-o", "b", "--dtype", "float16", cwd=tmp_path)
    assert "values above 65,504, which float16 cannot hold: leave out --dtype float16" in error
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_projected_features_are_coordinates_along_components_fitted_on_train(work):
    whole, train, short = load(work / "plain"), load(work / "plain", "train"), load(work / "pca")
    pca = load_pca(components_file(work / "pca", short.spec.projection))
    assert short.spec.projection.startswith("pca:6:sha256:")
    assert np.allclose(pca.mean, train.X.mean(axis=0), atol=1e-5)
    assert np.allclose(pca.transform(whole.X), short.X, atol=1e-5)
    (info,) = FeatureStore(work / "pca").features().values()
    assert info.requests[0]["projection"] == short.spec.projection
    assert info.provenance[0]["projected_from"] == whole.spec.fingerprint


@pytest.mark.parametrize("kind", ["lr", "mlp"])
def test_a_folded_head_answers_as_the_head_did_on_what_the_components_say_of_a_picture(work, kind):
    short = load(work / "pca")
    pca = load_pca(components_file(work / "pca", short.spec.projection))
    seen = (short.X.astype(np.float64) @ pca.components + pca.mean).astype(np.float32)
    before, after = load_head(work / f"{kind}.head"), load_head(work / "pca" / "heads" / f"{kind}.head")
    assert np.allclose(after.predict_proba(short.X), before.predict_proba(seen), atol=1e-4)
    assert after.specs == short.specs
    assert (after.info["trained_on"], after.info["selection"]) == (before.info["trained_on"], before.info["selection"])
    assert after.info["projected_from"] == [before.spec.fingerprint]


def test_a_head_that_cannot_be_folded_is_the_one_that_fit_would_make_of_the_bundle(work, tmp_path):
    said = {head["name"]: head["how"] for head in read_bundle(work / "pca").info["heads"]}
    assert said == {"lr": "folded", "mlp": "folded", "knn": "fitted anew"}
    assert penult("fit", work / "pca", "--head", "knn", "-o", tmp_path / "knn.head").returncode == 0
    packed, fitted = load_head(work / "pca" / "heads" / "knn.head"), load_head(tmp_path / "knn.head")
    X = load(work / "pca").X
    assert packed.head.get_params() == fitted.head.get_params()
    assert (packed.predict_proba(X) == fitted.predict_proba(X)).all()


def test_heads_of_several_features_side_by_side_are_folded_feature_by_feature(work, tmp_path):
    names = ["layer3", "penultimate"]
    fit = ["fit", "f.h5", "--dataset", "pictures", "--head", "ridge", "--features", *names]
    assert penult(*fit, "-o", tmp_path / "two.head", cwd=work).returncode == 0
    pack = ["pack", "f.h5", tmp_path / "two.head", "-o", tmp_path / "b", "--pca", "23", *PLAIN]
    done = penult(*pack, cwd=work)
    assert done.returncode == 0, done.stderr
    before, after = load_head(tmp_path / "two.head"), load_head(tmp_path / "b" / "heads" / "two.head")
    assert [spec.layer for spec in after.specs] == names
    whole = load(work / "f.h5", "train", spec=before.specs)
    short = load(tmp_path / "b", "train", spec=after.specs)
    assert short.widths == (23, 23)
    # 24 training pictures vary in 23 directions: nothing of them is lost
    assert np.allclose(after.predict_proba(short.X), before.predict_proba(whole.X), atol=1e-3)


def test_what_was_lost_and_won_is_counted_picture_by_picture(work):
    for one in read_bundle(work / "pca").info["measured"]:
        before = load_head(work / f"{one['head']}.head").predict_proba(load(work / "plain").X).argmax(axis=1)
        after = load_head(work / "pca" / "heads" / f"{one['head']}.head").predict_proba(load(work / "pca").X)
        a, b = before == load(work / "plain").y, after.argmax(axis=1) == load(work / "pca").y
        assert (one["lost"], one["won"]) == ((a & ~b).sum(), (~a & b).sum())
        assert one["after"]["accuracy"] == b.mean()
        assert one["difference"] == pytest.approx(b.mean() - a.mean())
        assert one["difference_ci95"][0] < one["difference"] < one["difference_ci95"][1]
        assert 0 < one["p_value"] <= one["p_holm"] <= 1


def test_features_of_a_projected_bundle_can_be_computed_again(work):
    pytest.importorskip("torch")
    done = penult("verify", work / "pca", "--sample", "3")
    assert done.returncode == 0, done.stderr
    assert "3 pictures extracted again" in done.stdout


def test_the_store_may_be_packed_without_heads(work, tmp_path):
    which = ["--dataset", "others", "pictures", "--features", "penultimate"]
    done = penult("pack", "f.h5", "-o", tmp_path / "b", *which, cwd=work)
    assert done.returncode == 0, done.stderr
    held = FeatureStore(tmp_path / "b")
    assert sorted(held.views()) == ["others", "pictures"]
    assert [info.rows for info in held.features().values()] == [65]
    assert "holds no head: fit one with" in refused("eval", tmp_path / "b", tmp_path / "b", cwd=work)


def test_a_test_split_without_labels_is_carried_and_not_measured(work, tmp_path):
    rows = ["path,label,split"]
    rows += [f"pictures/train/{label}/{i}.png,{label},train" for label in ("red", "green") for i in range(4)]
    rows += [f"pictures/test/red/{i}.png,,test" for i in range(2)]
    (work / "unlabelled.csv").write_text("\n".join(rows) + "\n")
    store = tmp_path / "f.h5"
    assert penult("extract", work / "unlabelled.csv", "-o", store, *TINY).returncode == 0
    assert penult("fit", store, "--head", "centroid", "-o", tmp_path / "c.head").returncode == 0
    done = penult("pack", store, tmp_path / "c.head", "-o", tmp_path / "b", *PLAIN)
    assert done.returncode == 0, done.stderr
    info = read_bundle(tmp_path / "b").info
    assert (info["measured"], info["datasets"][0]["splits"]) == ([], {"test": 2, "train": 8})


def test_a_folder_store_becomes_one_file_with_each_content_once(tmp_path, stage):
    store = tmp_path / "store"
    store.mkdir()
    for rows in (list(range(300)), list(range(200, 700))):
        stage(store, rows)
        publish(store, make_view(rows, name=f"toys{rows[0]}"), commands={SPEC.fingerprint: {}})
    assert len(FeatureStore(store).part_paths()) == 2
    which = ["--dataset", "toys200", "--dtype", "float16", "--without", "thumbnails"]
    done = penult("pack", "store", "-o", "b", *which, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "features.h5").is_file()
    bundle = FeatureStore(tmp_path / "b")
    assert sorted(bundle.digests(SPEC.fingerprint).tolist()) == sorted(digest_of(i) for i in range(200, 700))
    assert (FeatureStore(store).load(dataset="toys200").X.astype(np.float16) == bundle.load().X).all()
    assert penult("verify", tmp_path / "b", "--sample", "0").returncode == 0


def test_other_views_go_along_with_a_head_that_was_trained_on_them(work, tmp_path):
    shutil.copy(work / "f.h5", tmp_path / "f.h5")
    views = ["--views", "center", "flip"]
    assert penult("extract", work / "pictures", "-o", "f.h5", *TINY, *views, cwd=tmp_path).returncode == 0
    which = ["--dataset", "pictures", "--features", "penultimate"]
    assert penult("fit", "f.h5", *which, "--augment", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    assert penult("pack", "f.h5", "lr.head", "-o", "b", "--pca", "5", *PLAIN, cwd=tmp_path).returncode == 0
    samples = FeatureStore(tmp_path / "b").load("train", augment=True)
    assert len(samples.others) == 1
    assert samples.others[0].shape == (24, 5)


def test_a_fine_tuned_network_goes_along_once_the_store_has_its_features(work, tmp_path):
    shutil.copytree(work / "pictures", tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    tune = ["finetune", "pictures", "-o", "net.safetensors", "--epochs", "1", *TINY]
    assert penult(*tune, cwd=tmp_path).returncode == 0
    error = refused("pack", "f.h5", "net.safetensors", "-o", "b", cwd=tmp_path)
    assert f"`extract {tmp_path}/pictures -o f.h5 --weights net.safetensors` first" in error
    assert penult("extract", "pictures", "-o", "f.h5", "--weights", "net.safetensors", cwd=tmp_path).returncode == 0
    assert penult("pack", "f.h5", "net.safetensors", "-o", "b", *PLAIN, cwd=tmp_path).returncode == 0
    assert penult("eval", "b", cwd=tmp_path).returncode == 0
    error = refused("pack", "f.h5", "net.safetensors", "-o", "c", "--pca", "3", cwd=tmp_path)
    assert "whose last layer reads its own features as they are: leave out --pca, or this network" in error


# --- what is refused


def test_a_damaged_block_is_not_packed(work, tmp_path):
    shutil.copy(work / "f.h5", tmp_path / "f.h5")
    with Part(tmp_path / "f.h5") as part:
        group = next(g for g in part.features().values() if g.spec.layer == "penultimate")
        group.prepare()
        at = group._offsets[0]
    with open(tmp_path / "f.h5", "r+b") as file:
        file.seek(at + 5)
        file.write(b"\xff\x00")
    error = refused("pack", "f.h5", work / "lr.head", "-o", "b", *PLAIN, cwd=tmp_path)
    assert "do not match their checksum: restore it from a copy" in error
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_heads_of_other_features_or_classes_or_sets_are_refused_by_name(work, tmp_path):
    other = tmp_path / "other.h5"
    assert penult("extract", work / "pictures", "-o", other, *TINY, "--gray").returncode == 0
    error = refused("pack", other, "lr.head", "-o", tmp_path / "b", *PLAIN, cwd=work)
    assert "they differ in color: gray, not rgb" in error
    error = refused("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--dataset", "others", cwd=work)
    assert "lr.head tells blue, green, red apart, the image set 'others' of f.h5 has the classes cyan, pink" in error
    assert penult("extract", work / "others", "-o", tmp_path / "third.h5", *TINY).returncode == 0
    error = refused("pack", tmp_path / "third.h5", "lr.head", "-o", tmp_path / "b", cwd=work)
    assert "was fitted on the image set 'pictures', and" in error
    assert not (tmp_path / "b").exists()


def test_a_set_or_feature_that_is_not_there_is_refused(work, tmp_path):
    error = refused("pack", "f.h5", "-o", tmp_path / "b", "--dataset", "strangers", cwd=work)
    assert "f.h5 holds no image set 'strangers', only others, pictures" in error
    error = refused("pack", "f.h5", "-o", tmp_path / "b", "--dataset", "others", "--features", "layer9", cwd=work)
    assert "f.h5 holds no features 'layer9'" in error
    assert "holds the image sets others, pictures: name one" in refused("pack", "f.h5", "-o", tmp_path / "b", cwd=work)
    assert "does not exist" in refused("pack", "none.h5", "-o", tmp_path / "b", cwd=work)
    assert not (tmp_path / "b").exists()


def test_a_head_of_other_labels_than_the_store_has_now_is_packed_with_a_note(work, tmp_path):
    for name in ("pictures", "f.h5"):
        (shutil.copytree if (work / name).is_dir() else shutil.copy)(work / name, tmp_path / name)
    shutil.move(tmp_path / "pictures/train/red/0.png", tmp_path / "pictures/train/blue/moved.png")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    done = penult("pack", "f.h5", work / "lr.head", "-o", "b", *PLAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: lr was fitted on other pictures or labels than train has now" in done.stdout
    assert "other pictures" not in "".join(read_bundle(work / "plain").info["notes"])


def test_two_heads_of_one_name_are_refused(work, tmp_path):
    shutil.copy(work / "mlp.head", tmp_path / "lr.head")
    error = refused("pack", "f.h5", "lr.head", tmp_path / "lr.head", "-o", tmp_path / "b", cwd=work)
    assert "would both be called lr in the bundle: rename one" in error
    shutil.copy(work / "lr.head", tmp_path / ".lr.head")
    error = refused("pack", "f.h5", tmp_path / ".lr.head", "-o", tmp_path / "b", cwd=work)
    assert "give it one that does not begin with a dot" in error


def test_nothing_but_a_bundle_is_replaced(work, tmp_path):
    pack = ["pack", work / "f.h5", work / "lr.head", *PLAIN, "-o"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert "exists and is no bundle: name another" in refused(*pack, "notes", cwd=tmp_path)
    assert "is a file, and a bundle is a folder" in refused(*pack, "file", cwd=tmp_path)
    (tmp_path / "link").symlink_to(work / "plain")
    assert "is a link: name the folder that it leads to" in refused(*pack, "link", cwd=tmp_path)
    bundle = copy_of(work, tmp_path)
    (bundle / "mine.txt").write_text("mine")
    assert "also holds mine.txt, which making it anew would lose" in refused(*pack, "plain", cwd=tmp_path)
    (bundle / "mine.txt").unlink()
    assert penult(*pack, "plain", cwd=tmp_path).returncode == 0
    assert list(read_bundle(bundle).heads()) == ["lr"]  # the new one
    assert not (bundle / "heads" / "knn.head").exists()
    assert "is what is to be packed" in refused("pack", "plain", "-o", "plain", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "notes", "plain"]


def test_nothing_is_written_into_a_bundle(work, tmp_path):
    bundle = copy_of(work, tmp_path)
    before = sorted(bundle.rglob("*"))
    assert "is a bundle, which is read only" in refused("extract", work / "pictures", "-o", bundle, *TINY, cwd=work)
    assert "is a bundle, which is read only" in refused("drop", bundle, "penultimate", cwd=work)
    fit = ["fit", bundle, "--head", "lr", "-o", bundle / "heads" / "lr.head"]
    assert f"lr.head would be in the bundle {bundle}, which is read only: name another place" in refused(*fit, cwd=work)
    assert "would be in the bundle" in refused("pack", "f.h5", "lr.head", "-o", bundle / "more", cwd=work)
    before_work = refused("export", "nothing", "-o", bundle / "x.onnx", "--int8", "--store", "nothing", cwd=work)
    assert f"x.onnx would be in the bundle {bundle}" in before_work
    assert "name another place with --json" in refused("info", bundle, "--json", bundle / "x.json", cwd=work)
    with pytest.raises(BundleError, match="read only"):
        publish(bundle, make_view([1]), commands={})
    with pytest.raises(BundleError, match="would be in the bundle"):
        export_table(choose_table(bundle), bundle / "all.npz")
    head = exportable(load_head(bundle / "heads" / "lr.head"))
    with pytest.raises(BundleError, match="would be in the bundle"):
        export_head(head, bundle / "models" / "lr.onnx")
    assert sorted(bundle.rglob("*")) == before


def test_features_that_are_projected_already_are_not_projected_again(work, tmp_path):
    error = refused("pack", "pca", "-o", tmp_path / "b", "--pca", "3", *PLAIN, cwd=work)
    assert "is made shorter or scaled already (pca)" in error
    error = refused("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--pca", "24", *PLAIN, cwd=work)
    assert "ask for fewer, or fit on more pictures" in error


# --- what may go wrong meanwhile


@pytest.mark.parametrize("step", ["pack_features", "measure_trips", "write_thumbnails", "verify_store"])
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_pack_leaves_what_was_there(work, tmp_path, monkeypatch, step, there):
    if there:
        copy_of(work, tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"classify.packing.{step}", stopped)
    assert penult("pack", "f.h5", "lr.head", "-o", tmp_path / "plain", *PLAIN, cwd=work).returncode == 130
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rename_that_fails_brings_the_old_bundle_back(work, tmp_path, monkeypatch):
    bundle = copy_of(work, tmp_path)
    calls = []

    def rename(source, target, real=os.rename):
        calls.append(target)
        if len(calls) == 2:  # the old one is aside, the new one comes
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(data.packing.os, "rename", rename)
        with pytest.raises(OSError, match="Input/output"), new_folder(bundle, work / "f.h5") as folder:
            (folder / "x").write_text("x")
    assert len(calls) == 3
    assert list(read_bundle(bundle).heads()) == list(KINDS)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_killed_pack_leaves_no_half_bundle_and_the_next_one_tidies_up(work, tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from data.packing import new_folder
        with new_folder(Path(sys.argv[1]), Path("none")) as folder:
            (folder / "features.h5").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    bundle = tmp_path / "plain"
    killed = subprocess.run([sys.executable, "-c", code, str(bundle)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("plain.")
    # another was killed between the two renames
    shutil.copytree(work / "plain", left.with_suffix(".replaced"))
    with pytest.raises(ValueError, match="stop"), new_folder(bundle, work / "f.h5"):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    assert list(read_bundle(bundle).heads()) == list(KINDS)


def test_a_full_disk_leaves_nothing_and_says_so(work, tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, old[1]))
        for more in ([], ["--without", "thumbnails"]):
            done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--without", "models", *more, cwd=work)
            assert done.returncode == 1
            assert "no room to write" in done.stderr
            assert "Nothing is lost" in done.stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


# --- what was carried


@pytest.mark.parametrize("name", ["features.h5", "heads/lr.head", "thumbnails.zip"])
def test_verify_finds_a_changed_byte_in_any_file(work, tmp_path, name):
    bundle = copy_of(work, tmp_path)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    done = penult("verify", bundle, "--sample", "0")
    assert done.returncode == 1
    assert f"{bundle / name} is not what was packed" in done.stderr
    (bundle / name).unlink()
    assert f"{bundle / name} is not there: copy the bundle again" in penult("verify", bundle).stderr


def test_a_stranger_in_the_folder_is_no_part_of_the_store(work, tmp_path):
    bundle = copy_of(work, tmp_path)
    shutil.copy(work / "f.h5", bundle / "a.h5")
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
def test_a_manifest_that_is_not_what_was_written_is_refused(work, tmp_path, change, words):
    bundle = copy_of(work, tmp_path)
    text = (bundle / MANIFEST).read_text()
    assert change(text) != text
    (bundle / MANIFEST).write_text(change(text))
    for verb in ("info", "verify"):
        assert words in refused(verb, bundle, cwd=tmp_path)


def test_a_manifest_of_a_newer_format_or_with_foreign_files_is_refused(work, tmp_path):
    bundle = copy_of(work, tmp_path)
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


def test_thumbnails_are_looked_up_by_content(work):
    view = FeatureStore(work / "plain").view()
    with thumbnails_of(work / "plain") as thumbnails:
        assert len(thumbnails) == 39
        assert thumbnails.digests() == {digest.decode() for digest in view.digests.tolist()}
        for digest, path in zip(view.digests.tolist(), view.paths, strict=True):
            jpeg = thumbnails.get(digest)
            assert jpeg == thumbnails.get(digest.decode())
            with Image.open(io.BytesIO(jpeg)) as small, Image.open(work / "pictures" / path) as picture:
                assert (small.format, small.size) == ("JPEG", (168, 67))
                off = np.asarray(small).mean(axis=(0, 1)) - np.asarray(picture).mean(axis=(0, 1))
            assert np.abs(off).max() < 4
        assert thumbnails.get(digest_of(1)) is None
        assert thumbnails.get("../x") is None
    assert thumbnails_of(work / "f.h5") is None


def test_a_thumbnail_is_upright_and_no_larger_than_its_picture():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (0, 0, 60, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    with Image.open(io.BytesIO(thumbnail(file.getvalue()))) as small:
        assert small.size == (56, 168)
        assert small.getpixel((28, 5))[0] < 40  # what was left is on top
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    with Image.open(io.BytesIO(thumbnail(file.getvalue()))) as small:
        assert small.size == (28, 28)
    with pytest.raises(ValueError, match="no picture"):
        thumbnail(b"nonsense")


def test_where_room_is_scarce_what_is_measured_has_thumbnails(work, tmp_path):
    whole = (work / "plain" / "thumbnails.zip").stat().st_size
    room = whole * 20 // 39
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--thumbnails", f"{room / 1000}kB", *PLAIN, cwd=work)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "thumbnails.zip").stat().st_size <= room
    with thumbnails_of(tmp_path / "b") as thumbnails:
        assert {d.decode() for d in load(tmp_path / "b").digests.tolist()} <= thumbnails.digests()
        assert 15 <= len(thumbnails) < 39
        assert f"{len(thumbnails)} of 39 pictures have thumbnails" in done.stdout


def test_thumbnails_outlive_their_pictures_and_none_is_made_of_another_picture(work, tmp_path):
    shutil.copytree(work / "pictures", tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    draw(tmp_path / "pictures" / "test" / "red" / "0.png", 999, 1)
    (tmp_path / "pictures" / "test" / "red" / "1.png").unlink()
    done = penult("pack", "f.h5", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 39 pictures have no thumbnail" in done.stdout
    shutil.rmtree(tmp_path / "pictures")
    (tmp_path / "f.h5").unlink()
    assert penult("pack", "b", "-o", "c", "--dtype", "float16", cwd=tmp_path).returncode == 0
    with thumbnails_of(tmp_path / "b") as before, thumbnails_of(tmp_path / "c") as after:
        assert len(after) == 37
        assert all(before.get(digest) == after.get(digest) for digest in before.digests())


def test_a_damaged_file_of_thumbnails_is_an_error_and_no_absence(tmp_path):
    path = tmp_path / "t.zip"
    assert write_thumbnails(path, [(b"a" * 64, b"jpeg" * 10), (b"b" * 64, b"jpeg")], 10_000) == (2, False)
    content = path.read_bytes()
    assert zipfile.ZipFile(path).namelist() == ["a" * 64 + ".jpg", "b" * 64 + ".jpg"]
    path.write_bytes(content.replace(b"jpegjpeg", b"jpegJPEG", 1))
    with Thumbnails(path) as thumbnails, pytest.raises(DamagedStore, match="copy the bundle again"):
        thumbnails.get("a" * 64)
    path.write_bytes(content[:40])
    with pytest.raises(DamagedStore, match="is no file of thumbnails"):
        Thumbnails(path).get("a" * 64)
    path.unlink()
    with pytest.raises(DamagedStore, match=r"t\.zip is not there: copy the bundle again"):
        Thumbnails(path).get("a" * 64)


def test_reading_a_bundle_needs_neither_numpy_nor_h5py(work):
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
    assert subprocess.run([sys.executable, "-c", code, str(work / "plain")], cwd=ROOT).returncode == 0


def test_packing_without_models_imports_no_torch(work, tmp_path):
    code = "import sys; from pipeline import main; assert main(sys.argv[1:]) == 0; sys.exit('torch' in sys.modules)"
    command = ["pack", str(work / "f.h5"), str(work / "lr.head"), "-o", str(tmp_path / "b"), "--pca", "4", *PLAIN]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- models


@pytest.fixture(scope="module")
def carried(work):
    """A bundle with models, of two heads."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    done = penult("pack", "f.h5", "lr.head", "knn.head", "-o", "carried", "--pca", "8", cwd=work)
    assert done.returncode == 0, done.stderr
    return work / "carried"


def probabilities(*arguments, cwd):
    """Return what `predict` says of the red pictures, (n, k)."""
    out = cwd / "predictions.json"
    done = penult("predict", *arguments, "pictures/test/red", "--json", out, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["predictions"]
    assert len(found) == 5
    return np.array([list(one["probabilities"].values()) for one in found])


def test_predict_runs_a_bundles_model_and_says_what_its_head_would(carried, work):
    lr, knn = read_bundle(carried).info["heads"]
    assert (lr["model"], lr["no_model"]) == ("models/lr.onnx", "")
    assert knn["model"] is None
    assert "knn.head is a head of the kind knn" in knn["no_model"]
    by_model = probabilities("carried", cwd=work)
    components = read_bundle(carried).components("lr")[0]
    by_head = probabilities("carried/heads/lr.head", "--projection", components, cwd=work)
    assert np.allclose(by_model, by_head, atol=1e-4)
    assert np.allclose(probabilities("carried", "--engine", "torch", cwd=work), by_head, atol=1e-4)
    stored = load_head(carried / "heads" / "lr.head").predict_proba(load(carried).X)
    red = [path.startswith("test/red") for path in load(carried).paths]
    assert np.allclose(by_model, stored[red], atol=1e-4)


def test_predict_takes_the_head_that_is_named_and_computes_its_features_where_it_has_no_model(carried, work):
    done = penult("predict", "carried", "pictures/test/red", cwd=work)
    assert "note: by lr, the first of lr, knn: name another with --head" in done.stdout
    stored = load_head(carried / "heads" / "knn.head").predict_proba(load(carried).X)
    red = [path.startswith("test/red") for path in load(carried).paths]
    assert np.allclose(probabilities("carried", "--head", "knn", cwd=work), stored[red], atol=1e-4)
    assert "holds no head 'svm', only lr, knn" in refused("predict", "carried", "pictures", "--head", "svm", cwd=work)
    assert penult("predict", "lr.head", "pictures", "--head", "lr", cwd=work).returncode == 2


def test_predict_from_a_bundle_needs_neither_torch_nor_h5py(carried, work):
    code = """if True:
        import sys
        for name in ("torch", "torchvision", "timm", "onnx", "h5py", "sklearn", "scipy", "safetensors"):
            sys.modules[name] = None
        from pipeline import main
        sys.exit(main(sys.argv[1:]))
    """
    command = [sys.executable, "-c", code, "predict", str(carried), str(work / "pictures" / "test" / "red")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("red") >= 5


def test_a_model_that_is_not_what_was_packed_is_not_run(carried, work, tmp_path):
    bundle = shutil.copytree(carried, tmp_path / "carried")
    with open(bundle / "models" / "lr.onnx", "ab") as file:
        file.write(b"more")
    error = refused("predict", bundle, work / "pictures", cwd=tmp_path)
    assert "models/lr.onnx is not what was packed" in error


def test_models_go_along_where_there_is_no_torch(carried, work, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    assert penult("pack", carried, "-o", tmp_path / "again", "--dtype", "float16").returncode == 0
    assert (tmp_path / "again/models/lr.onnx").read_bytes() == (carried / "models/lr.onnx").read_bytes()
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "new", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "note: no model of lr: a model needs torch: install it with `pip install '.[extract]'`" in done.stdout
    assert not (tmp_path / "new" / "models").exists()


def test_a_bundle_is_no_head(work):
    assert "plain is a bundle: name a head of it, plain/heads/lr.head" in refused(
        "finetune", "pictures", "--mode", "lp-ft", "--start", "plain", "-o", "x", *TINY, cwd=work
    )


def test_a_report_of_a_bundle_shows_pictures_that_are_not_there(work, tmp_path):
    shutil.copytree(work / "pictures", tmp_path / "pictures")
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
