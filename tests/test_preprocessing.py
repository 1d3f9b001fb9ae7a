"""What preprocessing is worth: the sample, the ways, the paired comparison, the verdict and the verb."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import SPEC, TINY, age, draw, make_view, penult
from PIL import Image, ImageDraw

from classify.preprocessing import Comparison, Entry, compare_ways, right_out_of_fold
from classify.preprocessing_report import power_note, verdict
from data.errors import ImageSetError
from data.images import open_images
from data.publish import publish
from data.store import FeatureStore, Samples
from extract.sampling import stratified_sample, training_pictures
from extract.wanted import Wanted
from extract.ways import Tried, Tryout, ways


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    """Return wide pictures whose class is the colour of their outermost part, which a crop does not see."""
    folder = tmp_path_factory.mktemp("edges")
    rng = np.random.default_rng(0)
    for i in range(60):
        for hue, name in enumerate(("green", "red")):
            image = Image.fromarray(rng.integers(0, 90, size=(32, 96, 3), dtype=np.uint8))
            colour = (230, 40, 40) if hue else (40, 230, 40)
            ImageDraw.Draw(image).rectangle([0, 0, 22, 31], fill=colour)
            ImageDraw.Draw(image).rectangle([73, 0, 95, 31], fill=colour)
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
            image.save(folder / "train" / name / f"{i}.png")
    age(folder)
    return folder


def test_one_thing_is_changed_at_a_time_from_whatever_the_network_has():
    own = dataclasses.replace(SPEC, crop=(299, 299), resize=299, fit="squash", interpolation="bicubic", color="gray")
    found = ways(own)
    assert [way.name for way in found] == ["own", "crop", "pad", "224 px", "384 px", "bilinear", "colour"]
    assert found[0].changes == {}
    assert all(len(way.changes) == 1 for way in found[1:])
    assert [way.flags for way in found[1:4]] == ["--fit crop", "--fit pad", "--input-size 224"]


def test_a_sample_has_every_class_in_proportion_and_is_part_of_a_larger_one(tmp_path):
    for name, n in (("many", 40), ("some", 20), ("rare", 2)):
        for i in range(n):
            draw(tmp_path / "set" / "train" / name / f"{i}.png", i, size=(9, 8))
    images = open_images(tmp_path / "set")
    rows = np.arange(len(images))
    drawn = stratified_sample(images, rows, 32, seed=3)
    assert dict(zip(images.classes, np.bincount(images.targets[drawn]).tolist(), strict=True)) == {
        "many": 20,
        "rare": 2,
        "some": 10,
    }
    assert set(drawn.tolist()) <= set(stratified_sample(images, rows, 50, seed=3).tolist())
    assert len(stratified_sample(images, rows, 2, seed=3)) == 6  # two of each class
    assert stratified_sample(images, rows, 32, seed=4).tolist() != drawn.tolist()


def test_test_pictures_choose_nothing_also_where_the_set_brings_no_splits(pictures, tmp_path):
    images = open_images(pictures)
    rows, note = training_pictures(images)
    assert set(images.splits[rows]) == {"train"}
    assert not note
    loose = tmp_path / "loose"
    shutil.copytree(pictures / "train", loose)
    for i in range(9):  # which count neither here nor there
        (loose / "red" / f"cut{i}.png").write_bytes((loose / "red/0.png").read_bytes()[: 200 + i])
    images = open_images(loose)
    store = tmp_path / "f.h5"
    assert penult("extract", loose, "-o", store, *TINY).returncode == 0
    view = FeatureStore(store).view()
    rows, note = training_pictures(images)
    train = {path for path, split in zip(view.paths, view.splits, strict=True) if split == "train"}
    assert {images.paths[row] for row in rows} == train
    assert "extract would hold out" in note
    shutil.rmtree(pictures / "train")
    with pytest.raises(ImageSetError, match=r"no labelled training pictures of two classes \(splits: test\)"):
        training_pictures(open_images(pictures))


def test_the_whole_way_finds_what_a_crop_cannot_see(edges, tmp_path):
    store, chart = tmp_path / "probe.h5", tmp_path / "probe.png"
    command = ["probe-preprocess", edges, *TINY, "-o", store, "--png", chart, "--sample", "90"]
    done = penult(*command, "--json", tmp_path / "probe.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "probe.json").read_text())
    of = {entry["name"]: entry for entry in found["entries"]}
    assert of["own"]["accuracy"] < 0.75
    assert of["squash"]["accuracy"] > 0.95
    assert of["squash"]["verdict"] == "better"
    assert found["options"] in ("--fit squash", "--fit pad")
    assert found["command"].endswith(found["options"])
    assert found["verdict"][0] in done.stdout
    assert (found["n"], found["sample"], found["folds"]) == (90, 90, 5)
    assert {entry["discordant"] for entry in found["entries"]} != {0.0}
    with Image.open(chart) as image:
        assert image.width == 1200
    # the store keeps the features, and the options give the same fingerprint to `extract`
    assert penult("extract", edges, "-o", tmp_path / "f.h5", *TINY, *found["options"].split()).returncode == 0
    (fingerprint,) = FeatureStore(tmp_path / "f.h5").features()
    assert fingerprint == of[found["best"]]["fingerprint"]
    again = penult(*command, "--json", tmp_path / "again.json")
    assert again.returncode == 0
    repeated = json.loads((tmp_path / "again.json").read_text())
    assert all(entry.pop("milliseconds") > 0 for entry in found["entries"])
    assert all(entry.pop("milliseconds") is None for entry in repeated["entries"])  # nothing was computed
    assert repeated["entries"] == found["entries"]


def test_sizes_that_a_network_does_not_take_are_left_out_with_the_reason(edges, tmp_path):
    images = open_images(edges)
    sample = images.take(stratified_sample(images, np.arange(len(images)), 12, 0))
    seen = []
    job = Tryout(sample, tmp_path / "f.h5", Wanted("timm/test_vit3", "random"), on_progress=lambda *at: seen.append(at))
    tried = job.run()
    assert [way.name for way in tried] == ["own", "squash", "pad", "bilinear", "grey"]
    assert set(job.refused) == {"128 px", "192 px"}
    assert "doesn't match model" in job.refused["128 px"]
    assert job.own == "crop of 160 px from a shorter side of 168, bicubic, colour"
    assert seen[-1] == (7 * 12, 7 * 12)


def samples(X, y, digests=None):
    names = np.array([b"%064d" % i for i in (range(len(y)) if digests is None else digests)])
    paths = [f"{i}.png" for i in range(len(y))]
    return Samples(X.astype(np.float32), np.array(y, dtype=np.int32), ["a", "b"], paths, names, SPEC, "set", "train")


def test_no_picture_is_judged_by_a_head_that_saw_it_or_its_copy():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 40)), rng.integers(0, 2, size=100)
    assert right_out_of_fold(samples(X, y), 0).mean() < 0.65  # noise that a head could learn by heart
    twice = samples(np.tile(X, (2, 1)), np.tile(y, 2), digests=[*range(100)] * 2)
    assert right_out_of_fold(twice, 0).mean() < 0.65


def entry(factor, name, difference, p_holm, milliseconds=10.0, reach=0.02):
    flags = f"--{factor} {name}" if factor != "own" else ""
    return Entry(
        factor, name, flags, "", milliseconds, 0.9 + difference, (0.8, 1.0), difference,
        (difference - reach, difference + reach), 0.05, p_holm, p_holm,
    )  # fmt: skip


def comparison(*entries):
    return Comparison(500, 3, 5, 0, 0, [entry("own", "own", 0.0, None), *entries], 0.031, 4321)


def test_the_verdict_is_a_sentence_and_options_to_copy():
    ways = (entry("size", "160", -0.005, 1.0, 4.0, reach=0.01), entry("size", "128", -0.015, 1.0, 3.0))
    even = comparison(entry("fit", "pad", 0.01, 1.0), *ways)
    first, cheaper, unclear = verdict(even)
    assert first.startswith("keep the network's own preprocessing: nothing here is distinguishable from it on 500")
    assert cheaper == (
        "where time matters: --size 160 takes 40% of the time, and loses 1.5 points at most (-0.5 [-1.5, +0.5])"
    )
    assert unclear == (
        "quicker, but what it costs cannot be told from 500 pictures: --size 128 (30% of the time, -1.5 [-3.5, +0.5] "
        "points)"
    )
    assert (even.best.flags, even.as_json()["options"]) == ("", "")
    assert power_note(even) == (
        "500 pictures: a difference of 3.1 points shows in four of five such samples; to tell 1 point takes about "
        "4,300 pictures"
    )
    better = comparison(entry("fit", "pad", 0.031, 0.001), entry("size", "288", 0.02, 0.04), entry("x", "y", -0.1, 0.0))
    first, also, worse = verdict(better)
    assert first == "use --fit pad: +3.1 [+1.1, +5.1] points, p = 0.001"
    assert also == "better by themselves too: --size 288 (+2.0); what they give together was not tried"
    assert worse == "worse, and not to be used: --x y (-10.0)"
    # what ties with the own one and is quicker is no way to save time where another is better
    assert len(verdict(comparison(entry("fit", "pad", 0.031, 0.001), ways[0]))) == 1


def test_ways_are_tested_in_pairs_on_the_same_pictures(tmp_path, stage):
    store = tmp_path / "f.h5"
    rows = list(range(60))
    grey = dataclasses.replace(SPEC, color="gray")
    for spec, dim in ((SPEC, 8), (grey, 6)):
        stage(store, rows, spec, dim)
    publish(store, make_view(rows), commands={})
    named = (("own", "own", SPEC), ("colour", "grey", grey))
    tried = [Tried(factor, name, "", spec.fingerprint, None, 0, 0) for factor, name, spec in named]
    found = compare_ways(FeatureStore(store), "toys", tried, seed=1)
    own, other = found.entries
    assert found.n == 60
    assert other.difference == pytest.approx(other.accuracy - own.accuracy)
    assert other.p_holm == other.p_value  # there is one test alone
    assert other.reach[0] < other.difference < other.reach[1]
    assert compare_ways(FeatureStore(store), "toys", tried, seed=1) == found
