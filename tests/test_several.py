"""Heads on several features of the same pictures: chosen by name, side by side, saved, measured, predicted."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import SPEC, draw, make_view, penult

from classify.artifact import load_head, save_head
from classify.evaluate import evaluate
from classify.selection import train
from data.errors import FingerprintMismatch, HeadError, SpecError, StoreError, WeightsError
from data.publish import publish
from data.spec import FeatureSpec, Source
from data.store import FeatureStore, Samples
from extract.embed import reopen_all

ROWS = list(range(30))
LAYERS = ("layer10", "layer2", "penultimate")
DIMS = dict(zip(LAYERS, (3, 5, 8), strict=True))
OTHER = FeatureSpec("timm/test_vit", "sha256:" + "1" * 64)


def layer(name, **changes):
    pooling = "network" if name == "penultimate" else "avg"
    return dataclasses.replace(SPEC, layer=name, pooling=pooling, **changes)


def store_of(path, stage, specs):
    for spec in specs:
        stage(path, ROWS, spec, DIMS.get(spec.layer, 8))
    publish(path, make_view(ROWS), commands={})
    return FeatureStore(path)


@pytest.fixture
def held(tmp_path, stage):
    """A store of three layers of one network."""
    return store_of(tmp_path / "f.h5", stage, [layer(name) for name in LAYERS])


def test_several_features_stand_side_by_side_in_the_order_named(held):
    samples = held.load("train", features=["penultimate", "test_resnet/layer2"])
    assert [spec.layer for spec in samples.specs] == ["penultimate", "layer2"]
    assert samples.widths == (8, 5)
    apart = [held.load("train", features=name) for name in ("penultimate", "layer2")]
    assert np.array_equal(samples.X, np.hstack([part.X for part in apart]))
    assert samples.digests.tolist() == apart[0].digests.tolist()


def test_all_stages_is_every_layer_in_the_order_of_numbers_with_the_penultimate_last(held):
    samples = held.load(features="all-stages")
    assert [spec.layer for spec in samples.specs] == ["layer2", "layer10", "penultimate"]
    assert samples.widths == (5, 3, 8)
    assert held.load(features="timm/test_resnet/all-stages").specs == samples.specs


def test_of_two_networks_of_one_name_the_one_that_has_every_picture_is_meant(held, stage):
    tuned = dataclasses.replace(layer("penultimate"), weights="sha256:" + "2" * 64)
    stage(held.path, ROWS[:9], tuned, 8)
    publish(held.path, make_view(ROWS), commands={})
    assert held.load("train", features="penultimate").specs == (layer("penultimate"),)
    stage(held.path, ROWS[9:], tuned, 8)
    publish(held.path, make_view(ROWS), commands={})
    with pytest.raises(StoreError, match="several features that fit"):
        held.load("train", features="penultimate")


def test_of_two_networks_all_stages_must_say_which(tmp_path, stage):
    layers = [layer("layer2"), layer("penultimate")]
    others = [OTHER, dataclasses.replace(OTHER, layer="blocks.1", pooling="avg")]
    held = store_of(tmp_path / "f.h5", stage, layers + others)
    with pytest.raises(
        StoreError, match=r"several layers of more than one network .*test_vit: .*--features NETWORK/all"
    ):
        held.load(features="all-stages")
    assert [spec.layer for spec in held.load(features="test_vit/all-stages").specs] == ["blocks.1", "penultimate"]
    both = held.load(features=["test_vit/all-stages", "test_resnet/layer2"])
    assert both.widths == (8, 8, 5)


def test_a_network_of_one_layer_has_no_stages(tmp_path, stage):
    held = store_of(tmp_path / "f.h5", stage, [layer("penultimate"), OTHER])
    with pytest.raises(
        StoreError, match=r"no two layers of one network .*: extract them with --layers all-stages penu"
    ):
        held.load(features="all-stages")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer2", "all-stages"], r"names timm/test_resnet/layer2 twice: name each of the features once"),
        (["layer3"], r"holds no features 'layer3', only timm/test_resnet/"),
    ],
)
def test_names_that_do_not_fit_are_refused_with_the_next_step(held, names, message):
    with pytest.raises(StoreError, match=message):
        held.load(features=names)


def test_of_layers_alone_one_must_be_named(tmp_path, stage):
    held = store_of(tmp_path / "f.h5", stage, [layer("layer2"), layer("layer3")])
    with pytest.raises(StoreError, match=r"several features that fit: .* or all of them with --features all-stages"):
        held.load(features="test_resnet")


def test_what_is_not_named_is_the_penultimate_layer_in_colour(tmp_path, stage):
    plain = layer("penultimate")
    kept = dataclasses.replace(plain, layer="layer2", pooling="flatten")
    grey = dataclasses.replace(plain, color="gray")
    held = store_of(tmp_path / "f.h5", stage, [kept, layer("layer3"), grey, plain])
    assert held.load().spec == plain
    assert held.load(features="test_resnet").spec == plain
    assert held.load(features="layer3").spec == layer("layer3")
    # activations that were kept to train the rest are no stage to fit heads on
    assert kept not in held.load(features="all-stages").specs
    assert held.load(features=kept.fingerprint[:8]).spec == kept


def test_one_of_several_specs_that_is_missing_is_named_field_by_field(held):
    wanted = [layer("layer2"), layer("layer10", normalize="l2")]
    with pytest.raises(
        FingerprintMismatch, match=r"head h wants timm/test_resnet/layer10/l2; they differ in normalize: none,"
    ):
        held.load(spec=wanted, wants="head h")


def test_data_of_several_features_have_no_single_spec(held):
    with pytest.raises(SpecError, match=r"^the data of 'toys' has 3 features side by side .*: ask for `specs`"):
        held.load(features="all-stages").spec  # noqa: B018
    assert held.load(features="layer2").spec == layer("layer2")


def test_augmented_views_stand_side_by_side_as_the_centre_does(tmp_path, stage):
    views = [layer(name, view=view) for name in ("layer2", "penultimate") for view in ("center", "flip")]
    held = store_of(tmp_path / "f.h5", stage, views)
    samples = held.load(features="all-stages", augment=True)
    assert [spec.view for spec in samples.specs] == ["center", "center"]
    (flipped,) = samples.others
    assert np.array_equal(flipped, held.load(spec=[layer("layer2", view="flip"), layer("penultimate", view="flip")]).X)


def test_a_view_that_one_feature_lacks_is_named(tmp_path, stage):
    specs = [layer("layer2"), layer("penultimate"), layer("layer2", view="flip"), layer("penultimate", view="flip")]
    held = store_of(tmp_path / "f.h5", stage, [*specs, layer("layer2", view="random:0:0")])
    with pytest.raises(
        StoreError, match=r"penultimate not in random:0:0, .*: extract it with --views center random:0:0"
    ):
        held.load(features="all-stages", augment=True)


def samples_of(held, split="train"):
    return held.load(split, features=["layer2", "penultimate"])


REQUESTS = [{"backbone": "timm/test_resnet", "layer": "layer2"}, {"backbone": "timm/test_resnet"}]


def test_a_head_records_every_feature_and_eval_gathers_them(held, tmp_path):
    samples = samples_of(held)
    training = train("lr", samples)
    save_head(tmp_path / "a", training, samples, request=REQUESTS, weights_file=["", "w.pth"])
    head = load_head(tmp_path / "a")
    assert head.specs == samples.specs
    assert [source.request for source in head.sources] == REQUESTS
    assert [source.weights_file for source in head.sources] == ["", "w.pth"]
    assert [feature["width"] for feature in head.info["features"]] == [5, 8]
    assert "spec" not in head.info
    with pytest.raises(SpecError, match=r"^head .*a has 2 features side by side"):
        head.spec  # noqa: B018
    result = evaluate([head], held)
    test = samples_of(held, "test")
    right = training.head.predict(training.scaler.transform(test.X)) == test.y
    assert result.heads[0].accuracy == pytest.approx(right.mean())


def test_a_store_without_one_of_the_features_is_refused_by_name(held, tmp_path, stage):
    samples = samples_of(held)
    save_head(tmp_path / "a", train("centroid", samples), samples, request=REQUESTS, weights_file=["", ""])
    poor = store_of(tmp_path / "poor.h5", stage, [layer("penultimate")])
    with pytest.raises(
        FingerprintMismatch, match=r"a wants timm/test_resnet/layer2; they differ in layer: penultimate, n"
    ):
        evaluate([load_head(tmp_path / "a")], poor)


def test_widths_that_do_not_sum_to_the_columns_are_our_own_mistake(held):
    samples = samples_of(held)
    with pytest.raises(AssertionError):
        dataclasses.replace(samples, widths=(4, 8))
    one = Samples(samples.X, samples.y, samples.classes, samples.paths, samples.digests, SPEC, "toys", "train")
    assert (one.specs, one.widths) == ((SPEC,), (13,))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Pictures, and a store of two layers of one network and one of another."""
    folder = tmp_path_factory.mktemp("work")
    seed = 0
    for split, n in (("train", 8), ("test", 4)):
        for hue, name in enumerate(("red", "green")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    extract = ("extract", "pictures", "-o", "f.h5", "--weights", "random", "--input-size", "64")
    layers = ("--backbone", "timm/test_resnet", "--layer", "layer1", "penultimate", "--normalize")
    assert penult(*extract, *layers, cwd=folder).returncode == 0
    assert penult(*extract, "--backbone", "timm/test_efficientnet", cwd=folder).returncode == 0
    return folder


def test_fit_eval_and_predict_know_features_of_two_networks(work, tmp_path):
    names = ("test_resnet/penultimate/l2", "test_efficientnet", "test_resnet/layer1/l2")
    result = penult("fit", "f.h5", "--head", "lr", "--features", *names, "-o", tmp_path / "a.head", cwd=work)
    assert result.returncode == 0, result.stderr
    assert "3 features side by side" in result.stdout
    assert penult("eval", tmp_path / "a.head", "f.h5", cwd=work).returncode == 0
    predicted = penult("predict", tmp_path / "a.head", "pictures/test", "--json", tmp_path / "p.json", cwd=work)
    assert predicted.returncode == 0, predicted.stderr
    found = {p["path"]: p["probabilities"] for p in json.loads((tmp_path / "p.json").read_text())["predictions"]}
    head = load_head(tmp_path / "a.head")
    samples = FeatureStore(work / "f.h5").load("test", spec=head.specs)
    assert samples.widths == tuple(feature["width"] for feature in head.info["features"])
    want = head.predict_proba(samples.X)
    assert len(found) == len(samples) == 8
    for path, row in zip(samples.paths, want, strict=True):
        (mine,) = [p for name, p in found.items() if path.endswith(name) or name.endswith(path)]
        np.testing.assert_allclose([mine[c] for c in head.classes], row, atol=1e-4)


def test_layers_of_one_network_are_one_network_again(work):
    store = FeatureStore(work / "f.h5")
    sources = [info.source for info in store.features().values()]
    opened = reopen_all(sources, "the test")
    assert sorted(len(features) for _, features in opened) == [1, 2]
    given = {feature.spec for _, features in opened for feature in features}
    assert given == {source.spec for source in sources}


def test_weights_are_asked_for_once_for_each_network():
    file = {"weights": {"sha256": "0" * 64}, "options": {}}
    specs = [layer("layer2"), layer("penultimate"), OTHER]
    sources = [Source(spec, {"backbone": spec.backbone.removeprefix("timm/"), **file}, "/gone/w.pth") for spec in specs]
    with pytest.raises(
        WeightsError, match=r"the head needs files of weights for timm/test_resnet, timm/test_vit, and 1 w"
    ):
        reopen_all(sources, "the head", weights=["a.pth"])
    with pytest.raises(WeightsError, match=r"needs the weights of timm/test_resnet from a file, which is not at /gone"):
        reopen_all(sources, "the head")


def test_a_parameter_that_the_data_decide_cannot_be_set(held):
    with pytest.raises(HeadError, match=r"^head stack has no parameter 'widths', only: C, base, folds, how$"):
        train("stack", samples_of(held), params={"widths": (1, 2)})
