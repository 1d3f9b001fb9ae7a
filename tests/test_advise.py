"""`advise`: each of the four cases from made features, and that nothing but the training split decides."""

import importlib.util
import json

import numpy as np
import pytest
from conftest import SPEC, TINY, digest_of, make_view, penult

from classify.advise import advise
from classify.probing import MOST, Original, draw
from classify.prospects import PAIRS, expected_gain, price
from classify.similarity import FAR, NEAR, UNCLEAR, Evidence, spacing, verdict
from data.errors import HeadError, StoreError
from data.layout import block_image
from data.publish import publish
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.store import FeatureStore

CLASSES = ["ants", "bees", "7"]
CENTRES = np.random.default_rng(5).normal(size=(3, 8))
LAYER = FeatureSpec("timm/test_resnet", SPEC.weights, layer="layer2", pooling="avg")
OTHER = FeatureSpec("torchvision/resnet18", SPEC.weights)


def write(path, signal, *, train=120, test=30, scramble_test=False, classes=CLASSES):
    """Write a store of features that tell three classes apart by a signal of so many deviations."""
    n = train + test
    rng = np.random.default_rng(0)
    targets = (rng.permutation(n) % 3).astype(np.int32)
    digests = np.array([digest_of(i) for i in range(n)], dtype="S64")
    splits = np.array(["train"] * train + ["test"] * test, dtype=np.str_)
    vectors = {spec: strength * CENTRES[targets] + rng.normal(size=(n, 8)) for spec, strength in signal.items()}
    if scramble_test:
        targets[train:] = 0
        vectors = {spec: np.concatenate([X[:train], -9 * X[train:]]) for spec, X in vectors.items()}
    view = make_view(list(range(n)), classes=classes, digests=digests, targets=targets % len(classes), splits=splits)
    for i, (spec, X) in enumerate(vectors.items()):
        held = {
            "spec": spec,
            "provenance": [{"run": "r"}],
            "requests": [],
            "rows": n,
            "dim": 8,
            "dtype": np.dtype("<f4"),
        }
        stage_block(path, new_run_id(), i, block_image({**held, "slabs": [(digests, X.astype(np.float32))]}, view))
    publish(path, view, commands={spec.fingerprint: {"backbone": spec.backbone} for spec in signal})
    return FeatureStore(path)


def knows(_source, classes):
    """Return a last layer of 600 classes that is sure of the three."""
    weight = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32) / 100
    weight[:3] = 4 * CENTRES
    names = ("ant", "bee", *map(str, range(598)))
    rows = tuple((i,) for i in range(len(classes)))
    return Original(weight, np.zeros(600, np.float32), names, rows, ("ants: output 0 (ant)",), "", macs=1e9)


def knows_nothing(_source, classes):
    """Return a last layer to which all pictures are the same."""
    weight = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32) / 100
    return Original(weight, np.zeros(600, np.float32), rows=((),) * len(classes), reason="")


def is_not_there(_source, _classes):
    return Original(reason="torch is not installed")


def test_a_medium_set_that_the_network_knows_stays_frozen(tmp_path):
    found = advise(write(tmp_path / "f.h5", {SPEC: 1.0}, train=450), knows)
    assert (found.size, found.similarity, found.strategy) == ("medium", NEAR, "frozen")
    assert list(found.per_class) == CLASSES
    assert sum(found.per_class.values()) == 450
    said = found.backbones[0].answers
    assert said.zero_shot > 0.8
    assert (said.matched, said.zero_shot_pictures, said.outputs) == (3, 450, 600)
    assert said.most_said[0][1] > 0.2
    assert found.price.macs == 1e9
    assert any("earlier layers" in line for line in found.unknown)


def test_a_large_set_that_the_network_knows_is_tuned_from_the_frozen_head_and_a_far_one_whole(tmp_path):
    store = write(tmp_path / "f.h5", {SPEC: 0.5}, train=3300)
    near, far = advise(store, knows), advise(store, knows_nothing)
    assert (near.size, near.strategy) == ("many", "lp-ft")
    assert (far.size, far.similarity, far.strategy) == ("many", FAR, "full")
    assert near.measured_on < near.pictures
    assert far.gain.points > near.gain.points


def test_where_earlier_layers_help_they_are_advised(tmp_path):
    found = advise(write(tmp_path / "f.h5", {LAYER: 1.5, SPEC: 0.4}), knows_nothing)
    assert (found.size, found.similarity, found.strategy) == ("few", FAR, "head2toe")
    assert "fit --head head2toe --features test_resnet/all-stages" in found.sentence
    assert [layer.name for layer in found.backbones[0].layers] == ["layer2", "penultimate", "all side by side"]
    assert [e.says for e in found.evidence[:2]] == [FAR, FAR]


def test_where_the_last_layer_is_the_best_the_layers_say_near(tmp_path):
    found = advise(write(tmp_path / "f.h5", {LAYER: 0.2, SPEC: 1.5}), is_not_there)
    assert found.evidence[0].says == NEAR
    assert found.similarity == NEAR


def test_without_torch_and_layers_the_similarity_is_not_guessed(tmp_path):
    found = advise(write(tmp_path / "f.h5", {SPEC: 0.5}), is_not_there)
    assert (found.similarity, found.strategy, found.price) == (UNCLEAR, "frozen", None)
    assert found.gain.pairs == len(PAIRS)
    assert found.backbones[0].notes == ["not known: torch is not installed"]
    assert any("original classifier" in line for line in found.unknown)
    assert any(line.startswith("The price") for line in found.unknown)


def test_nothing_but_the_training_split_decides(tmp_path):
    one = advise(write(tmp_path / "a.h5", {LAYER: 1.5, SPEC: 0.4}), knows)
    other = advise(write(tmp_path / "b.h5", {LAYER: 1.5, SPEC: 0.4}, scramble_test=True), knows)
    assert one.as_json() == other.as_json()


def test_networks_are_ranked_and_one_can_be_named(tmp_path):
    store = write(tmp_path / "f.h5", {SPEC: 0.4, OTHER: 1.5})
    found = advise(store, knows)
    assert [b.name for b in found.backbones] == ["torchvision/resnet18", "timm/test_resnet"]
    better, worse = (b.scores for b in found.backbones)
    assert better.log_me > worse.log_me
    assert better.h_score > worse.h_score
    for name in ("test_resnet", "timm/test_resnet/penultimate", SPEC.fingerprint[:10]):
        assert [b.name for b in advise(store, knows, features=name).backbones] == ["timm/test_resnet"]
    with pytest.raises(StoreError, match=r"no penultimate features 'resnet19' .* \(it holds: timm/test_resnet/penult"):
        advise(store, knows, features="resnet19")


def test_a_store_of_earlier_layers_alone_and_a_set_of_one_class_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no penultimate features of every picture of 'toys'.*--layers all-stages"):
        advise(write(tmp_path / "a.h5", {LAYER: 1.0}), knows)
    with pytest.raises(HeadError, match="the training split of 'toys' has 1 class"):
        advise(write(tmp_path / "b.h5", {SPEC: 1.0}, classes=["ants"]), knows)


def test_a_few_pictures_of_each_class_are_no_learning_curve(tmp_path):
    found = advise(write(tmp_path / "f.h5", {SPEC: 1.0}, train=9, test=3), knows)
    assert found.slope is None
    assert any("more pictures" in line for line in found.unknown)


def test_a_large_set_is_drawn_in_proportion(tmp_path):
    samples = write(tmp_path / "f.h5", {SPEC: 1.0}, train=3300).load("train")
    drawn = draw(samples, seed=0)
    assert 0.9 * MOST <= len(drawn) <= MOST
    assert np.ptp(np.bincount(drawn.y)) <= 20
    assert np.array_equal(draw(samples, seed=0).digests, drawn.digests)


def test_the_gain_rests_on_the_pairs_and_on_what_there_is_to_win():
    near, far, either = (expected_gain(900, 1000, near=near) for near in (True, False, None))
    assert far.points > either.points > near.points
    assert far.share == pytest.approx(np.mean([p.share for p in PAIRS if not p.near]))
    for gain in (near, far, either):
        assert gain.interval[0] < gain.points < gain.interval[1] <= 100
        assert gain.covered >= 0.6 * gain.pairs
    assert expected_gain(500, 1000, near=False).points == pytest.approx(5 * far.points)
    perfect = expected_gain(1000, 1000, near=False)
    assert perfect.points == 0
    assert perfect.interval[1] < 0.5
    assert all(p.frozen < 100 and p.tuned <= 100 for p in PAIRS)
    # the mean of VTAB's 19 sets as the paper gives it
    vtab = [p for p in PAIRS if p.source.startswith("VTAB")]
    assert (round(np.mean([p.frozen for p in vtab]), 2), round(np.mean([p.tuned for p in vtab]), 2)) == (52.94, 65.57)


def test_the_price_grows_with_pictures_and_network():
    one, ten, large = price(1000, 5e8), price(10_000, 5e8), price(1000, 1e11)
    assert ten.cpu_minutes == pytest.approx([10 * minutes for minutes in one.cpu_minutes])
    assert large.gpu_minutes[1] > 10 * one.gpu_minutes[1]
    assert one.gpu_minutes[0] <= one.gpu_minutes[1] < one.cpu_minutes[0]
    assert "reading the pictures is the limit" in one.basis
    assert "the network is the limit" in large.basis


def test_the_majority_decides_and_a_tie_is_unclear():
    def said(*words):
        return [Evidence("x", 0.0, word, "") for word in words]

    assert verdict(said(NEAR, NEAR, FAR, UNCLEAR)) == NEAR
    assert verdict(said(FAR, UNCLEAR)) == FAR
    assert verdict(said(NEAR, FAR)) == verdict([]) == UNCLEAR


def test_spacing_finds_the_closest_classes_and_chance_counts_for_nothing():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    centres = np.array([[-1.0] * 20, [1.0] * 20, [1.3] * 20])
    found = spacing(rng.normal(size=(600, 20)) + centres[y], y, ["a", "b", "c"])
    assert (found.a, found.b) == ("b", "c")
    assert 0 < found.closest <= found.median
    assert 0 < found.closest < 0.5
    assert spacing(rng.normal(size=(600, 20)), y, ["a", "b", "c"]).closest < 0.1
    assert spacing(np.ones((3, 4)), np.arange(3), ["a", "b", "c"]) is None
    assert spacing(np.ones((4, 4)), np.zeros(4, int), ["a"]) is None


@pytest.fixture
def store(pictures, tmp_path):
    path = tmp_path / "f.h5"
    assert penult("extract", pictures, "-o", path, *TINY, "--layers", "all-stages", "penultimate").returncode == 0
    return path


def test_the_verb_says_the_advice_first_and_what_it_does_not_know_last(store, tmp_path):
    done = penult("advise", store, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    lines = done.stdout.splitlines()
    assert lines[0] == result["sentence"]
    assert lines[1] == f"Because {result['why']}."
    assert "what this does not know" in lines
    assert "its last layer was never trained" in done.stdout
    assert result["strategy"] in ("frozen", "head2toe", "partial", "full", "lp-ft")
    assert {"size", "similarity", "case", "evidence", "backbones", "slope", "gain", "price"} <= result.keys()
    assert result["price"]["macs"] > 0
    again = penult("advise", store, "--json", "-")
    assert json.loads(again.stdout) == result


def test_the_verb_goes_on_without_torch(store, monkeypatch):
    find = importlib.util.find_spec
    missing = ("torch", "torchvision", "timm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else find(name))
    done = penult("advise", store, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "torch is not installed" in result["backbones"][0]["notes"][0]
    assert result["price"] is None


def test_errors_name_the_next_step(store, tmp_path):
    for arguments, message in (
        (["advise", tmp_path / "no.h5"], "does not exist: run `extract IMAGES"),
        (["advise", store, "--dataset", "dogs"], "holds no image set 'dogs', only pictures"),
        (["advise", store, "--features", "resnet18"], "no penultimate features 'resnet18'"),
    ):
        done = penult(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
