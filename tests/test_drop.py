"""Features and image sets that are not needed any more leave a store, and nothing else does."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from conftest import SPEC, TINY, make_view, penult, vectors_of

from data.drop import drop_set
from data.merging import write_store
from data.publish import publish
from data.store import FeatureStore
from data.verify import verify_store

OTHER = dataclasses.replace(SPEC, layer="layer3")
KEPT = dataclasses.replace(SPEC, layer="layer2", pooling="flatten")
ROWS = list(range(60))


@pytest.fixture(params=["file", "folder"])
def store(request, tmp_path, stage):
    path = tmp_path / "f.h5"
    if request.param == "folder":
        path.mkdir()
    for spec, dim in ((SPEC, 8), (OTHER, 16), (KEPT, 400)):
        stage(path, ROWS, spec, dim)
        publish(path, make_view(ROWS), commands={spec.fingerprint: {"backbone": "mine"}})
    return path


def test_what_is_named_goes_and_the_rest_stays(store, tmp_path):
    out = tmp_path / "r.json"
    done = penult("drop", store, "--activations", "--json", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [item["fingerprint"] for item in result["dropped"]] == [KEPT.fingerprint]
    assert result["freed_bytes"] > result["dropped"][0]["bytes"] == 60 * 400 * 4
    held = FeatureStore(store)
    assert held.features().keys() == {SPEC.fingerprint, OTHER.fingerprint}
    np.testing.assert_array_equal(held.vectors(SPEC.fingerprint, make_view(ROWS).digests), vectors_of(ROWS))
    assert held.views()["toys"].same_as(make_view(ROWS))
    assert not verify_store(store).problems

    assert penult("drop", store, "layer3").returncode == 0
    assert FeatureStore(store).features().keys() == {SPEC.fingerprint}
    done = penult("drop", store, "--activations")
    assert (done.returncode, done.stdout) == (0, f"{store} keeps no activations\n")


def test_a_network_stands_for_all_its_layers(store):
    assert penult("drop", store, "mine").returncode == 0
    assert not FeatureStore(store).features()
    assert FeatureStore(store).views()["toys"].same_as(make_view(ROWS))


def test_features_of_one_title_are_told_apart(store, stage):
    large = dataclasses.replace(OTHER, crop=(96, 96))
    stage(store, ROWS, large, 16)
    publish(store, make_view(ROWS), commands={large.fingerprint: {"backbone": "mine"}})
    small, large = (f"{OTHER.title} at {spec.crop[0]}x{spec.crop[1]}" for spec in (OTHER, large))
    refusal = penult("drop", store, "nothing").stderr
    assert small in refusal
    assert large in refusal
    done = penult("drop", store, "layer3").stdout
    assert f"dropped {small} of 60 pictures" in done
    assert f"dropped {large} of 60 pictures" in done


def test_names_that_fit_nothing_drop_nothing(store):
    done = penult("drop", store, "layer3", "layer9")
    assert done.returncode == 1
    assert "holds no features 'layer9', only " in done.stderr
    for name in ("", SPEC.fingerprint[:3]):  # an empty variable of a shell's must not fit everything
        assert f"holds no features {name!r}" in penult("drop", store, name).stderr
    assert len(FeatureStore(store).features()) == 3
    done = penult("drop", store)
    assert done.returncode == 2
    assert "name the features that go, --activations or a --dataset" in done.stderr
    done = penult("drop", store, "layer3", "--dataset", "toys")
    assert done.returncode == 2
    assert "--dataset drops a whole image set" in done.stderr


MOVED = list(range(20, 70))  # of the 60 pictures 40, and ten more


@pytest.fixture
def moved(store, stage):
    """Return the store with a second image set that shares most of the pictures with the first."""
    for spec, dim in ((SPEC, 8), (OTHER, 16)):
        stage(store, list(range(60, 70)), spec, dim)
    publish(store, make_view(MOVED, name="gone", root="/gone"), commands={SPEC.fingerprint: {"backbone": "mine"}})
    return store


def test_an_image_set_goes_with_the_vectors_that_no_other_set_names(moved, tmp_path):
    assert (
        "image sets gone, toys: name one with --dataset"
        in penult("fit", moved, "--head", "lr", "-o", tmp_path / "a").stderr
    )
    done = penult("drop", moved, "--dataset", "toys", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "left: gone; the vectors that it shares with others stay\n" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["datasets"] == [{"name": "toys", "root": "/toys", "images": 60}]
    assert {item["fingerprint"]: (item["rows"], item["bytes"]) for item in result["dropped"]} == {
        SPEC.fingerprint: (20, 20 * 8 * 4),
        OTHER.fingerprint: (20, 20 * 16 * 4),
        KEPT.fingerprint: (20, 20 * 400 * 4),
    }
    held = FeatureStore(moved)
    assert held.load().X.tolist() == vectors_of(MOVED).tolist()
    assert set(held.digests(KEPT.fingerprint).tolist()) == set(make_view(list(range(20, 60))).digests.tolist())
    assert not verify_store(moved).problems


def test_features_of_an_image_set_alone_go_with_it(moved, stage):
    own = dataclasses.replace(SPEC, layer="layer1")
    stage(moved, ROWS[:5], own, 4)
    publish(moved, make_view(ROWS), commands={own.fingerprint: {"backbone": "mine"}})
    assert penult("drop", moved, "--dataset", "toys").returncode == 0
    assert own.fingerprint not in FeatureStore(moved).features()
    done = penult("drop", moved, "--dataset", "gone")
    assert "no image set is left: run `extract IMAGES -o" in done.stdout
    assert not FeatureStore(moved).features()
    assert "holds no image set: run `extract IMAGES -o" in penult("fit", moved, "--head", "lr", "-o", "a").stderr


def test_an_image_set_that_is_not_there_is_named(store):
    done = penult("drop", store, "--dataset", "none")
    assert (done.returncode, len(FeatureStore(store).views())) == (1, 1)
    assert "holds no image set 'none', only toys" in done.stderr


@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_drop_that_is_stopped_between_two_files_is_finished_by_the_same_call(moved, files, monkeypatch):
    written = iter(range(10))

    def stopped(*arguments):
        if next(written) == files:
            raise KeyboardInterrupt
        write_store(*arguments)

    monkeypatch.setattr("data.drop.write_store", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        drop_set(moved, "toys")
    monkeypatch.undo()
    assert FeatureStore(moved).load(dataset="gone").X.tolist() == vectors_of(MOVED).tolist()
    if "toys" in FeatureStore(moved).views():
        drop_set(moved, "toys")
    assert FeatureStore(moved).load().X.tolist() == vectors_of(MOVED).tolist()
    assert len(FeatureStore(moved).digests(SPEC.fingerprint)) == len(MOVED)
    assert not verify_store(moved).problems


def test_what_a_link_leads_to_is_written(store, tmp_path):
    (tmp_path / "link.h5").symlink_to(store)
    assert penult("drop", tmp_path / "link.h5", "layer3").returncode == 0
    assert (tmp_path / "link.h5").is_symlink()
    assert OTHER.fingerprint not in FeatureStore(store).features()


def test_pictures_that_moved_are_noticed(pictures, tmp_path):
    store = tmp_path / "m.h5"
    assert penult("extract", pictures, "-o", store, *TINY).returncode == 0
    pictures.rename(tmp_path / "renamed")
    done = penult("extract", tmp_path / "renamed", "-o", store, *TINY, "--json", tmp_path / "r.json")
    (note,) = [note for note in json.loads((tmp_path / "r.json").read_text())["notes"] if "image set" in note]
    assert note.startswith(f"all pictures of 'renamed' are in the image set 'pictures' too, read from {pictures}: if ")
    assert f"`drop {store} --dataset pictures` takes the old set out; to keep its name, drop 'renamed'" in note
    assert done.returncode == 0
    assert penult("drop", store, "--dataset", "pictures").returncode == 0
    assert FeatureStore(store).load("train").dataset == "renamed"
    again = penult("extract", tmp_path / "renamed", "-o", store, *TINY)
    assert "image set 'pictures'" not in again.stdout
