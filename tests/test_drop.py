"""Features that are not needed any more leave a store, and nothing else does."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import SPEC, make_view, penult, vectors_of

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


def test_names_that_fit_nothing_drop_nothing(store):
    done = penult("drop", store, "layer3", "layer9")
    assert done.returncode == 1
    assert "holds no features 'layer9', only " in done.stderr
    assert len(FeatureStore(store).features()) == 3
    done = penult("drop", store)
    assert done.returncode == 2
    assert "name the features that go, or --activations" in done.stderr
