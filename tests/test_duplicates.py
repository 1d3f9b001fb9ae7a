import numpy as np
import pytest
from conftest import digest_of

import classify.duplicates
from classify.duplicates import find_copies, nearest
from classify.trials import Scaler


def digests_of(numbers):
    return np.array([digest_of(int(i)) for i in numbers], dtype="S64")


def photographs(n, seed=0, dim=64, classes=5):
    """Return vectors like a network's: classes, scenes within them, columns of different size, nothing below zero."""
    rng = np.random.default_rng(seed)
    spread = rng.gamma(1.0, size=dim)
    X = rng.normal(size=(classes, dim))[rng.integers(classes, size=n)] + rng.normal(size=(n, dim))
    return np.maximum(X * spread, -0.5 * spread).astype(np.float32)


def altered(X, seed=1, amount=0.15):
    """Return the same pictures as if resized or compressed anew."""
    return X + amount * X.std(axis=0) * np.random.default_rng(seed).normal(size=X.shape).astype(np.float32)


def copies_of(X, **changes):
    return find_copies(X, digests_of(range(len(X))), **changes)


def partition(numbers):
    return sorted(sorted(np.flatnonzero(numbers == g).tolist()) for g in np.unique(numbers))


@pytest.mark.parametrize("seed", range(3))
def test_altered_copies_are_found_and_nothing_else(seed):
    X = photographs(400, seed)
    found = copies_of(np.concatenate([X, altered(X[:12], seed)]))
    assert sorted(map(tuple, found.pairs.tolist())) == [(i, 400 + i) for i in range(12)]
    assert (found.similarity > 0.9).all()
    assert (np.diff(found.similarity) <= 0).all()
    assert (found.excess > found.fence).all()
    assert (found.group[:12] == found.group[400:]).all()
    assert len(np.unique(found.group)) == 400
    assert len(np.unique(found.exact)) == 412


def test_sets_without_copies_get_a_false_alarm_in_one_of_twenty():
    alarms = sum(len(copies_of(photographs(200, seed, dim=32)).pairs) > 0 for seed in range(40))
    assert alarms <= 6  # 2 are expected; more than 6 have a chance of 0.3%


def test_pictures_of_one_dull_scene_are_no_copies_of_each_other():
    X = photographs(400, 3)
    meadow = X[0] + 0.5 * X.std(axis=0) * np.random.default_rng(4).normal(size=(60, 64)).astype(np.float32)
    found = copies_of(np.concatenate([X, meadow.astype(np.float32)]))
    assert len(found.pairs) == 0
    nearest_cosine = found.neighbours.similarity[:, 0]
    # a threshold from all pictures would take them for copies
    assert nearest_cosine[400:].min() > np.quantile(nearest_cosine[1:400], 0.99)


def test_a_film_of_thirty_frames_is_one_group():
    X = photographs(1200, 5)
    frames = np.concatenate([altered(X[:1], i, 0.1) for i in range(30)])
    found = copies_of(np.concatenate([X, frames]))
    film = [0, *range(1200, 1230)]
    assert film in partition(found.group)
    assert len(np.unique(found.group)) == 1200


def test_equal_files_are_copies_whatever_the_vectors_and_equal_vectors_whatever_the_files():
    X = photographs(40, 6)
    X[7] = X[3]
    numbers = np.arange(40)
    numbers[20] = numbers[10]
    X[20] = X[10]
    found = find_copies(X, digests_of(numbers))
    assert [group for group in partition(found.group) if len(group) > 1] == [[3, 7], [10, 20]]
    assert [group for group in partition(found.exact) if len(group) > 1] == [[10, 20]]
    assert found.same_vector == 2
    assert found.pairs.tolist() == [[3, 7]]
    assert found.excess.tolist() == [np.inf]
    assert found.first.tolist() == [i for i in range(40) if i != 20]


def test_the_order_of_the_pictures_does_not_matter():
    X = photographs(300, 7)
    X = np.concatenate([X, altered(X[:5])])
    order = np.random.default_rng(0).permutation(len(X))
    straight, shuffled = copies_of(X), copies_of(X[order])
    back = [sorted(order[group].tolist()) for group in partition(shuffled.group)]
    assert sorted(back) == partition(straight.group)


def test_the_search_in_blocks_equals_all_pairs_at_once(monkeypatch):
    X = photographs(150, 8)
    Z = Scaler.fit(X).transform(X).astype(np.float64)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    cosines = Z @ Z.T
    np.fill_diagonal(cosines, -2)
    order = np.argsort(-cosines, axis=1)[:, :7]
    monkeypatch.setattr(classify.duplicates, "_BLOCK_BYTES", 4 * 150 * 11)  # 11 rows at a time
    calls = []
    found = nearest(X, 7, lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.similarity, np.take_along_axis(cosines, order, axis=1), atol=1e-5)
    assert calls[0] == (11, 150)
    assert calls[-1] == (150, 150)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 9])
def test_small_sets_have_the_copies_that_are_certain(n):
    X = photographs(9, 9)[:n]
    assert len(copies_of(X).pairs) == 0
    if n:
        twice = find_copies(np.concatenate([X, X]), digests_of([*range(n), *range(n)]))
        assert len(np.unique(twice.group)) == n


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_constant_and_equal_vectors_are_no_trouble(dtype):
    found = copies_of(np.ones((50, 8), dtype=dtype))
    assert len(np.unique(found.group)) == 1
    assert found.same_vector == 50
