"""What a store and its samples look like in a notebook."""

import dataclasses

import numpy as np
import pytest
from conftest import SPEC, make_view

from data.publish import publish
from data.store import FeatureStore


@pytest.fixture
def store(tmp_path, stage):
    path = tmp_path / "f.h5"
    stage(path, list(range(30)))
    publish(path, make_view(list(range(30)), name="<b>toys"), commands={SPEC.fingerprint: {}})
    return FeatureStore(path)


def test_a_store_says_what_it_holds(store):
    title, features, images = repr(store).splitlines()
    assert title == f"FeatureStore('{store.path}')"
    assert "30 x 8 float32" in features
    assert f"timm/test_resnet/penultimate ({SPEC.fingerprint[:12]})" in features
    assert images.endswith("30 pictures, 2 classes (cat, dog); test 10, train 20")


def test_showing_a_store_never_fails(tmp_path, store):
    assert "does not exist: run `extract" in repr(FeatureStore(tmp_path / "no.h5"))
    content = store.path.read_bytes()
    store.path.write_bytes(content[: len(content) // 2])
    assert "problem" in repr(store)
    assert str(store.path) in store._repr_html_()


def test_samples_say_what_they_are_and_not_every_number(store):
    samples = store.load("train")
    assert repr(samples).splitlines()[0] == "Samples of <b>toys, train"
    assert "20 x 8 float32" in repr(samples)
    assert "cat 10, dog 10" in repr(samples)
    assert "00001.png, ..." in repr(samples)
    loose = dataclasses.replace(samples, y=np.full(20, -1, dtype=np.int32), classes=[str(i) for i in range(9)])
    assert "9 classes of 0 to 0 pictures, 20 without a label" in repr(loose)
    augmented = dataclasses.replace(samples, others=(samples.X, samples.X))
    assert "2 more views" in repr(augmented)


def test_names_are_escaped_in_html(store):
    for shown in (store._repr_html_(), store.load()._repr_html_()):
        assert "<b>" not in shown
        assert "&lt;b&gt;toys" in shown
