"""Labelled pictures: where they come from, what each is used for, and their pixels."""

import numpy as np
import pytest
from conftest import TINY, age, draw, penult
from tuned import FAST, tuner

from data.errors import TrainingError
from data.images import open_images
from data.store import FeatureStore
from extract.backbones import open_backbone
from extract.options import Options
from finetune.pictures import Inputs, mirrored
from finetune.roster import divide, roster_of_images, roster_of_store


def test_the_split_that_measures_chooses_nothing(pictures):
    roster = roster_of_images(open_images(pictures))
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert parts.measured_on == "test"
    assert not set(parts.measure) & (set(parts.train) | set(parts.choose))
    assert set(roster.splits[parts.choose]) == {"train"}
    assert len(parts.choose) == 6
    roster.splits[roster.splits == "test"] = "val"
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert parts.measured_on == "val"
    assert set(roster.splits[parts.choose]) == {"train"}


def test_val_chooses_where_test_measures(pictures):
    roster = roster_of_images(open_images(pictures))
    roster.splits[:3] = "val"
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert (parts.chosen_on, parts.measured_on) == ("val", "test")
    assert divide(roster, on=None, keep="last", hold_out=0.25, seed=0).choose.size == 0
    with pytest.raises(TrainingError, match="measured on what it is trained on"):
        divide(roster, on="train", keep="last", hold_out=0.25, seed=0)
    with pytest.raises(TrainingError, match="no labelled picture in the split 'dev', only in test, train, val"):
        divide(roster, on="dev", keep="last", hold_out=0.25, seed=0)


def test_pictures_of_which_none_can_be_spared_are_refused_before_training(pictures):
    roster = roster_of_images(open_images(pictures))
    first = {int(target): i for i, target in reversed(list(enumerate(roster.targets)))}
    roster.splits[:] = "test"
    roster.splits[list(first.values())] = "train"
    with pytest.raises(TrainingError, match="none can be spared to choose the epoch: add pictures, or .* --keep last"):
        divide(roster, on=None, keep="best", hold_out=0.15, seed=0)
    assert len(divide(roster, on=None, keep="last", hold_out=0.15, seed=0).train) == 3


def test_a_store_and_its_pictures_are_the_same_roster(pictures, store):
    of_images, of_store = roster_of_images(open_images(pictures)), roster_of_store(FeatureStore(store))
    assert of_images.identity == of_store.identity


def test_a_set_without_splits_is_split_as_extract_splits_it(tmp_path):
    for hue, name in enumerate(("red", "green")):
        for i in range(10):
            draw(tmp_path / "flat" / name / f"{i}.png", 100 * hue + i, hue)
    age(tmp_path / "flat")
    penult("extract", tmp_path / "flat", "-o", tmp_path / "f.h5", *TINY)
    of_images, of_store = (
        roster_of_images(open_images(tmp_path / "flat")),
        roster_of_store(FeatureStore(tmp_path / "f.h5")),
    )
    assert of_images.identity == of_store.identity


def test_a_picture_that_cannot_be_decoded_is_skipped_and_named(pictures, tmp_path):
    (pictures / "train" / "red" / "0.png").write_bytes(b"no picture")
    done = tuner(pictures, tmp_path).run()
    assert [s.path for s in done.skipped] == ["train/red/0.png"]


def test_a_picture_that_changed_since_it_was_extracted_is_refused(pictures, store, tmp_path):
    draw(pictures / "train" / "red" / "0.png", 999, 1)
    with pytest.raises(TrainingError, match="is not the picture that it was"):
        tuner(FeatureStore(store), tmp_path).run()


def test_pixels_depend_on_seed_epoch_and_content_alone(pictures):
    roster = roster_of_images(open_images(pictures))
    spec = open_backbone(TINY[1], "random", Options(input_size=32)).spec
    rows = np.arange(6)
    for augment in ("none", "flip", "views", "crop"):
        one, two = Inputs(roster, spec, augment, 0, workers=1), Inputs(roster, spec, augment, 0, workers=3)
        a, b = (next(iter(inputs.batches([rows], 3))) for inputs in (one, two))
        assert np.array_equal(a, b)
        assert np.array_equal(a[::-1], next(iter(one.batches([rows[::-1]], 3))))
        other = next(iter(one.batches([rows], 4)))
        assert np.array_equal(a, other) == (augment == "none")
        plain = next(iter(one.batches([rows])))
        assert np.array_equal(plain, next(iter(Inputs(roster, spec, "none", 0).batches([rows], 9))))


def test_half_of_the_pictures_are_mirrored():
    share = np.mean([mirrored(0, epoch, b"%d" % i) for epoch in range(20) for i in range(50)])
    assert 0.45 < share < 0.55


def test_sets_that_cannot_be_trained_on_are_refused_with_the_next_step(tmp_path):
    def refused(folder, *more):
        age(folder)
        done = penult("finetune", folder, "-o", tmp_path / "n.ckpt", *FAST, *more)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "defect" not in done.stderr
        assert not list(tmp_path.glob("n.ckpt*"))
        return done.stderr

    flat = tmp_path / "flat"
    for i in range(4):
        draw(flat / f"{i}.png", i)
    assert "no picture to train on, none has a label" in refused(flat)
    one = tmp_path / "one"
    for i in range(4):
        draw(one / "train" / "red" / f"{i}.png", i)
    assert "pictures of one class alone, red" in refused(one)
    val = tmp_path / "val-only"
    for hue, name in enumerate(("red", "green")):
        for i in range(4):
            draw(val / "val" / name / f"{i}.png", 9 * hue + i, hue)
    assert "no labelled picture in the split 'train', only in val: name another set, or split" in refused(val)
    lacking = tmp_path / "lacking"
    for hue, name in enumerate(("red", "green", "blue")):
        for split in ("train", "test")[hue == 2 :]:
            for i in range(4):
                draw(lacking / split / name / f"{i}.png", 99 * hue + 9 * len(split) + i, hue)
    assert "no training picture shows blue" in refused(lacking)
    assert "--init rows starts the last layer from" in refused(lacking, "--mode", "scratch", "--init", "rows")
    assert "freeze is for the mode partial" in refused(lacking, "--freeze", "2")
    assert "views is for augment views" in refused(lacking, "--views", "3")
