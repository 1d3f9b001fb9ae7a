import numpy as np
import pytest
from conftest import digest_of

from data.errors import ImageSetError
from data.splits import SplitRule, stratified_split


def digests(n):
    return np.array([digest_of(i) for i in range(n)], dtype="S64")


def test_each_class_gives_its_share():
    targets = np.array([0] * 100 + [1] * 10 + [2] * 3 + [3], dtype=np.int32)
    splits = stratified_split(targets, digests(114), SplitRule(0.2, 0.1, seed=3))
    counts = {t: [int((splits[targets == t] == s).sum()) for s in ("train", "val", "test")] for t in range(4)}
    assert counts == {0: [70, 10, 20], 1: [7, 1, 2], 2: [1, 1, 1], 3: [1, 0, 0]}


def test_the_split_depends_on_content_and_seed_alone():
    targets = np.array([i % 3 for i in range(90)], dtype=np.int32)
    names = digests(90)
    first = stratified_split(targets, names, SplitRule(0.3))
    shuffled = np.random.default_rng(0).permutation(90)
    assert (stratified_split(targets[shuffled], names[shuffled], SplitRule(0.3)) == first[shuffled]).all()
    assert (stratified_split(targets, names, SplitRule(0.3, seed=1)) != first).any()


def test_copies_never_straddle_two_splits():
    names = np.concatenate([digests(40), digests(40)])
    targets = np.array([i % 2 for i in range(40)] + [(i + 1) % 2 for i in range(40)], dtype=np.int32)  # two labels each
    splits = stratified_split(targets, names, SplitRule(0.25, 0.25))
    assert (splits[:40] == splits[40:]).all()
    assert set(splits.tolist()) == {"train", "val", "test"}


@pytest.mark.parametrize("rule", [SplitRule(-0.1), SplitRule(0.6, 0.4), SplitRule(1.0)])
def test_impossible_fractions_are_refused(rule):
    with pytest.raises(ImageSetError, match="must leave something for train"):
        stratified_split(np.zeros(4, dtype=np.int32), digests(4), rule)
