"""StoreDataset: stored features as PyTorch wants them."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, SPEC, make_view, vectors_of
from torch.utils.data import DataLoader, Subset

from data.errors import MissingFile, StoreError
from data.publish import publish
from data.store import FeatureStore
from extract.tensors import StoreDataset


@pytest.fixture
def store(tmp_path, stage):
    path = tmp_path / "f.h5"
    stage(path, list(range(30)))
    publish(path, make_view(list(range(30))), commands={SPEC.fingerprint: {}})
    return path


def test_items_are_those_of_the_store_in_its_order(store):
    train, samples = StoreDataset(store, "train"), FeatureStore(store).load("train")
    assert len(train) == len(samples) == 20
    assert train.classes == ["cat", "dog"]
    for (vector, target), x, y in zip(train, samples.X, samples.y, strict=True):
        assert (vector.dtype, type(target)) == (torch.float32, int)
        np.testing.assert_array_equal(vector.numpy(), x)
        assert target == y
    X, y = train.as_tensors()
    np.testing.assert_array_equal(X.numpy(), samples.X)
    assert y.dtype == torch.int64
    assert y.tolist() == samples.y.tolist() == train.targets.tolist()
    assert len(StoreDataset(FeatureStore(store))) == 30


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_data_loader_gives_the_same_with_workers(store, context):
    train = StoreDataset(store, "train", features=SPEC.fingerprint[:8])
    loader = DataLoader(train, batch_size=8, num_workers=1 if context else 0, multiprocessing_context=context)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [8, 8, 4]
    X, y = train.as_tensors()
    assert torch.equal(torch.cat([x for x, _ in batches]), X)
    assert torch.equal(torch.cat([y for _, y in batches]), y)


def test_it_can_be_pickled_before_and_after_it_was_read(store):
    train = StoreDataset(store, "train")
    assert len(pickle.dumps(train)) < 1000
    first = train[3]
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy[3][0], first[0])
    assert torch.equal(next(iter(Subset(copy, [3])))[0], first[0])


def test_half_precision_stays_half_until_it_is_asked_for(tmp_path, stage):
    path = tmp_path / "f.h5"
    stage(path, [1, 2, 3], dtype="<f2")
    publish(path, make_view([1, 2, 3]), commands={SPEC.fingerprint: {}})
    data = StoreDataset(path)
    assert data[0][0].dtype == data.as_tensors()[0].dtype == torch.float32
    assert data._tensors[0].dtype == torch.float16
    np.testing.assert_array_equal(data.as_tensors()[0].numpy(), vectors_of([1, 2, 3]).astype("<f2").astype("<f4"))


def test_unlabelled_pictures_are_left_out_unless_wanted(tmp_path, stage):
    path = tmp_path / "f.h5"
    stage(path, [1, 2, 3, 4])
    view = make_view([1, 2, 3, 4], targets=np.array([1, -1, 1, 0], dtype=np.int32))
    publish(path, view, commands={SPEC.fingerprint: {}})
    assert StoreDataset(path).targets.tolist() == [1, 1, 0]
    everything = StoreDataset(path, labelled=False)
    assert everything.targets.tolist() == [1, -1, 1, 0]
    assert len(everything) == 4


def test_every_view_is_an_item_of_its_own(pictures, tmp_path):
    from conftest import TINY, penult

    path = tmp_path / "f.h5"
    penult("extract", pictures, "-o", path, *TINY, "--views", "center", "flip")
    samples = FeatureStore(path).load("train", augment=True)
    train = StoreDataset(path, "train", augment=True)
    assert len(train) == 2 * len(samples)
    np.testing.assert_array_equal(train[len(samples)][0].numpy(), samples.others[0][0])


def test_what_is_not_there_is_said_when_it_is_read(tmp_path, store):
    with pytest.raises(StoreError, match="has no split 'validation'"):
        len(StoreDataset(store, "validation"))
    with pytest.raises(MissingFile, match="does not exist"):
        StoreDataset(tmp_path / "no.h5")[0]


def test_without_torch_the_message_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import extract.tensors"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "MissingDependency: torch is not installed: install it with `pip install '.[extract]'`" in done.stderr
