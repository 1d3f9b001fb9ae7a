"""What training keeps in a store to go on from there changes nothing that a plain verb does."""

import dataclasses
import json
import shutil

import pytest
from conftest import SPEC, TINY, age, draw, make_view, penult

from classify.sources import find_sources
from data.errors import StoreError
from data.publish import publish
from data.store import FeatureStore
from data.verify import verify_store

RECIPE = [*TINY, "--epochs", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a store at the network's own size in which `finetune` keeps vectors of another size, and its folder."""
    folder = tmp_path_factory.mktemp("kept")
    seed = 0
    for split, n in (("train", 6), ("test", 3)):
        for hue, name in enumerate(("red", "green")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    age(folder)
    assert penult("extract", folder / "pictures", "-o", folder / "f.h5", *TINY).returncode == 0
    shutil.copy(folder / "f.h5", folder / "plain.h5")
    tune = ("finetune", folder / "f.h5", "-o", folder / "n.ckpt", "--mode", "head", "--augment", "flip", *RECIPE)
    done = penult(*tune, "--input-size", "32")
    assert done.returncode == 0, done.stderr
    assert "keeps activations of frozen stages for next time" in done.stdout
    return folder


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work/f.h5"


def result_of(tmp_path, *arguments):
    done = penult(*arguments, "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "result.json").read_text())


def test_plain_verbs_answer_as_without_them(store, made, tmp_path):
    held = FeatureStore(store).features()
    (own,) = FeatureStore(made / "plain.h5").features()
    assert sorted((info.spec.crop[0], info.spec.view) for fp, info in held.items() if fp != own) == [
        (32, "center"),
        (32, "flip"),
    ]
    assert [fp for fp, info in held.items() if not info.kept] == [own]
    for arguments in (("fit", "--head", "lr"), ("compare", "--heads", "lr", "centroid")):
        verb, *options = arguments
        extra = ("-o", tmp_path / "a.head") if verb == "fit" else ()
        assert penult(verb, store, *options, *extra).returncode == 0
    assert FeatureStore(store).load("train").spec.fingerprint == own
    assert FeatureStore(store).load("train", features="penultimate").spec.fingerprint == own
    refused = penult("fit", store, "--head", "lr", "--augment", "-o", tmp_path / "b.head")
    assert "in no other view: extract some" in refused.stderr
    named = next(fp for fp, info in held.items() if info.kept and info.spec.view == "center")
    assert FeatureStore(store).load("train", features=named[:12]).spec.fingerprint == named


def test_they_do_not_stand_in_for_what_the_store_lacks(tmp_path, stage):
    store, rows = tmp_path / "f.h5", list(range(20))
    small = dataclasses.replace(SPEC, crop=(32, 32))
    for spec, having, request in ((SPEC, rows[:15], {"backbone": "x"}), (small, rows, {"backbone": "x", "kept": True})):
        stage(store, having, spec)
        publish(store, make_view(rows), commands={spec.fingerprint: request})
    for features in (None, "x", "penultimate"):
        with pytest.raises(StoreError, match="5 of 20 pictures have no features of timm/test_resnet/penultimate"):
            FeatureStore(store).load(features=features)
    assert [source.info.spec for source in find_sources([FeatureStore(store)], ["x"])] == [
        small
    ]  # it fits nothing else


def test_info_says_so_and_drop_frees_them_alone(store, made, tmp_path):
    assert penult("info", store).stdout.count("(kept)") == 2
    assert sorted(f["kept"] for f in result_of(tmp_path, "info", store)["features"]) == [False, True, True]
    dropped = result_of(tmp_path, "drop", store, "--activations")["dropped"]
    assert len(dropped) == 2
    assert FeatureStore(store).features().keys() == FeatureStore(made / "plain.h5").features().keys()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_asked_for_later_is_an_ordinary_feature_and_computed_no_more(kind, store, tmp_path):
    if kind == "folder":
        folder = tmp_path / "folder"
        folder.mkdir()
        store = store.rename(folder / "part-000001.h5").parent
    pictures = tmp_path / "work/pictures"
    again = ("extract", pictures, "-o", store, "--name", "pictures", *TINY, "--input-size", "32")
    done = result_of(tmp_path, *again)
    assert (done["extracted"], done["published"]) == (0, True)
    held = FeatureStore(store).features()
    assert not held[done["fingerprint"]].kept
    assert all("kept" not in request for request in held[done["fingerprint"]].requests)
    assert sorted(info.kept for info in held.values()) == [False, False, True]
    assert not verify_store(store).problems
    assert "holds several features that fit" in penult("fit", store, "--head", "lr", "-o", tmp_path / "a").stderr
    # and training again does not take it back, nor writes the store anew
    before = {path: path.stat().st_mtime_ns for path in FeatureStore(store).part_paths()}
    tune = ("finetune", store, "-o", tmp_path / "m.ckpt", "--mode", "head", "--augment", "flip", *RECIPE)
    assert penult(*tune, "--input-size", "32").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in FeatureStore(store).part_paths()} == before


def test_a_measured_checkpoint_leaves_the_plain_feature_alone(store, tmp_path):
    for split in ("train", "test"):
        assert penult("eval", store.with_name("n.ckpt"), store, "--split", split).returncode == 0
    assert FeatureStore(store).load("train").spec.crop != (32, 32)
