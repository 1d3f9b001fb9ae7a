"""Activations of frozen stages: they give the same training, and lie where they should."""

import numpy as np
import pytest
import torch
from conftest import penult
from safetensors.torch import load_file
from tuned import FAST, tuner

from data.store import FeatureStore


@pytest.mark.parametrize("augment", ["none", "flip", "views"])
@pytest.mark.parametrize("mode", ["head", "partial"])
def test_kept_activations_give_what_running_the_frozen_stages_gives(mode, augment, store, tmp_path):
    results = []
    for cache in (True, False):
        job = tuner(FeatureStore(store), tmp_path, mode, f"{cache}.ckpt", augment=augment, epochs=3)
        job.cache = cache
        results.append(job.run())
    kept, plain = results
    assert kept.cached
    assert not plain.cached
    assert np.allclose(kept.scores, plain.scores, atol=2e-3)
    ours, theirs = (load_file(r.checkpoint) for r in results)
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), rtol=1e-2, atol=2e-3), name


def test_random_crops_forbid_keeping_activations_and_a_few_views_allow_it(store, tmp_path):
    crops = tuner(FeatureStore(store), tmp_path, "partial", augment="crop").run()
    assert not crops.cached
    assert any("new in every epoch" in note for note in crops.notes)
    views = tuner(FeatureStore(store), tmp_path, "partial", "v.ckpt", augment="views", views=2).run()
    assert views.cached
    assert views.passes["extracted"] == 36 * 3  # the centre and two crops of every picture
    again = tuner(FeatureStore(store), tmp_path, "partial", "w.ckpt", augment="views", views=2).run()
    assert again.passes["extracted"] == 0


@pytest.mark.parametrize("mode", ["head", "partial"])
def test_mixed_pictures_go_through_all_of_the_network(mode, store, tmp_path):
    mixed = tuner(FeatureStore(store), tmp_path, mode, augment="flip", mixup=0.4).run()
    assert not mixed.cached
    assert any("--mixup 0 lets the frozen stages run once" in note for note in mixed.notes)
    plain = tuner(FeatureStore(store), tmp_path, mode, "plain.ckpt", augment="flip", mixup=0.4)
    plain.cache = False
    assert np.array_equal(mixed.scores, plain.run().scores)


def test_the_views_of_a_layer_share_the_memory_for_activations(store, tmp_path, monkeypatch):
    job = tuner(FeatureStore(store), tmp_path, "head", augment="flip")
    ready = job.prepare()
    cut = job.cut(ready, ready.strategy.frozen(len(ready.operated.stages)))
    job.keep(ready, [cut])
    for room, read in ((5, True), (3, False)):  # times what one of the two views takes
        monkeypatch.setattr("finetune.keeping._MEMORY", room * cut.nbytes // 2)
        found = ready.keeper.open(cut.layer, ready.roster).vectors
        assert [isinstance(view._X, np.ndarray) for view in found] == [read, read]


def test_pictures_without_a_store_leave_nothing_beside_the_checkpoint(pictures, tmp_path):
    job = tuner(pictures, tmp_path / "out", "head")
    (tmp_path / "out").mkdir()
    assert job.run().cached == "penultimate"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["net.ckpt"]


def test_a_store_whose_pictures_have_gone_says_so(pictures, store, tmp_path):
    tuner(FeatureStore(store), tmp_path).run()
    before = store.read_bytes()
    pictures.rename(tmp_path / "elsewhere")
    refused = penult("finetune", store, "--mode", "full", "-o", tmp_path / "n.ckpt", *FAST)
    assert "can no longer be read" in refused.stderr
    for command in (
        ["finetune", store, "--mode", "partial", "-o", tmp_path / "n.ckpt", *FAST],
        ["eval", tmp_path / "net.ckpt", store],
    ):
        refused = penult(*command)
        assert refused.returncode == 1
        assert "lists pictures that it lacks these features of and that cannot be read now" in refused.stderr
        assert store.read_bytes() == before
    # what the last layer alone needs is in the store, but for mirrored pictures
    done = penult("finetune", store, "--mode", "head", "--augment", "none", "-o", tmp_path / "n.ckpt", *FAST)
    assert done.returncode == 0, done.stderr
