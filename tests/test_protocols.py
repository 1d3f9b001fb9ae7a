"""Few shots, learning curves and repeats: which pictures train, what is measured, and what the command prints."""

import json

import numpy as np
import pytest
from conftest import SPEC, digest_of, penult
from PIL import Image
from test_compare import write

from classify.artifact import load_head
from classify.protocols import distinct, draw_order, few_shots, learning_curve, repeat
from classify.selection import train
from classify.statistics import t_interval
from data.errors import HeadError
from data.store import Samples

CENTRES = np.random.default_rng(0).normal(size=(3, 8))


def samples_of(counts, seed=0, split="train", copies=0):
    """Return pictures of overlapping classes; the last `copies` are copies of the first."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    X = (CENTRES[y] + 0.8 * rng.normal(size=(len(y), 8))).astype(np.float32)
    rows = np.concatenate([np.arange(len(y)), np.arange(copies)])
    digests = np.array([digest_of(10_000 * seed + i) for i in rows.tolist()], dtype="S64")
    classes, paths = ["cat", "dog", "emu"][: len(counts)], [f"{i}.png" for i in range(len(rows))]
    return Samples(X[rows], y[rows], classes, paths, digests, SPEC, "toys", split)


TRAIN, TEST = samples_of([30, 20, 10]), samples_of([20, 20, 20], 1, "test")
FIXED = {"tune": "none"}


def test_shots_are_that_many_of_each_class_and_grow_within_a_repeat():
    for r in range(3):
        order = draw_order(TRAIN, 0, r)
        one, four = set(order.rows[order.place < 1].tolist()), set(order.rows[order.place < 4].tolist())
        assert np.bincount(TRAIN.y[list(four)]).tolist() == [4, 4, 4]
        assert one < four
    assert (draw_order(TRAIN, 0, 0).rows != draw_order(TRAIN, 0, 1).rows).any()
    assert (draw_order(TRAIN, 0, 0).rows == draw_order(TRAIN, 0, 0).rows).all()


def test_parts_of_a_curve_are_nested_and_in_proportion_and_have_every_class():
    order = draw_order(TRAIN, 0, 0).by_share()
    for size in (3, 12, 30, 60):
        counts = np.bincount(TRAIN.y[order[:size]], minlength=3)
        assert counts.min() >= 1
        np.testing.assert_allclose(counts, size * np.array([0.5, 1 / 3, 1 / 6]), atol=1.01)


def test_copies_never_count_twice():
    doubled = samples_of([6, 6, 6], copies=12)
    assert len(distinct(doubled)) == 18
    protocol = few_shots("centroid", doubled, TEST, [6], repeats=2, **FIXED)
    assert protocol.points[0].n_train == 18
    assert protocol.notes == ["12 exact copies among the training pictures were left out"]
    assert learning_curve("centroid", doubled, TEST, repeats=2, **FIXED).points[-1].n_train == 18


def test_a_point_is_what_its_trainings_measure():
    (point,) = few_shots("lr", TRAIN, TEST, [5], repeats=4, **FIXED).points
    for r in range(4):
        order = draw_order(TRAIN, 0, r)
        part = TRAIN.take(np.sort(order.rows[order.place < 5]))
        training = train("lr", part, seed=r, measure=False, **FIXED)
        answers = training.head.predict(training.scaler.transform(TEST.X))
        assert point.accuracies[r] == pytest.approx((answers == TEST.y).mean())
    assert point.mean == pytest.approx(np.mean(point.accuracies))
    assert point.deviation == pytest.approx(np.std(point.accuracies, ddof=1))
    low, high = point.interval
    alone = t_interval(point.accuracies)
    assert low < alone[0] < point.mean < min(alone[1], 1) <= high  # repeats share pictures, so they say less


def test_more_shots_are_better_on_average():
    points = few_shots("centroid", TRAIN, TEST, [10, 1, 3], repeats=10, **FIXED).points
    assert [p.size for p in points] == [1, 3, 10]
    means = [p.mean for p in points]
    assert means == sorted(means)


def test_how_parameters_were_chosen_is_said():
    points = few_shots("lr", TRAIN, TEST, [1, 4], repeats=2).points
    assert [p.chosen for p in points] == ["defaults", "cross-validation"]  # of one picture nothing can be held out
    assert {p["C"] for p in points[0].parameters} == {0.01}
    fixed = few_shots("lr", TRAIN, TEST, [4], repeats=2, tune="none", params={"C": 0.5}).points[0]
    assert (fixed.chosen, fixed.parameters) == ("fixed", [{"C": 0.5}] * 2)


def test_a_class_with_too_few_pictures_gives_all_and_says_so():
    protocol = few_shots("centroid", TRAIN, TEST, [16], repeats=2, **FIXED)
    assert protocol.points[0].n_train == 16 + 16 + 10
    assert protocol.notes == ["1 of 3 classes have fewer than 16 different pictures, and give all"]
    with pytest.raises(HeadError, match=r"largest class of 'toys' has 30 .*: give --shots from 1 to 30, not 31$"):
        few_shots("centroid", TRAIN, TEST, [1, 31], **FIXED)


def test_a_curve_ends_with_all_pictures_where_repeats_have_no_interval():
    protocol = learning_curve("centroid", TRAIN, TEST, sizes=5, repeats=3, **FIXED)
    assert [p.n_train for p in protocol.points] == sorted({p.n_train for p in protocol.points})
    last = protocol.points[-1]
    assert (last.n_train, last.shared, last.interval) == (60, 1.0, None)
    assert protocol.points[0].shared < 0.3


def test_measured_pictures_that_were_trained_on_are_counted():
    notes = few_shots("centroid", TRAIN, TRAIN, [2], repeats=2, **FIXED).notes
    assert notes == ["60 of the 60 measured pictures are among the training pictures: this flatters"]


def test_labels_are_matched_by_name():
    turned = Samples(
        TEST.X, np.array([2, 0, 1], dtype=np.int32)[TEST.y], ["dog", "emu", "cat"], TEST.paths, TEST.digests, SPEC,
        "toys", "test",
    )  # fmt: skip
    straight, other = (few_shots("centroid", TRAIN, t, [5], repeats=2, **FIXED) for t in (TEST, turned))
    assert straight.points[0].accuracies == other.points[0].accuracies


def test_a_measured_split_without_labels_is_refused():
    bare = Samples(TEST.X, np.full(60, -1, np.int32), TEST.classes, TEST.paths, TEST.digests, SPEC, "toys", "test")
    with pytest.raises(HeadError, match=r"no picture of split 'test' has a label"):
        few_shots("centroid", TRAIN, bare, [2], **FIXED)


def test_progress_ends_at_the_total():
    seen = []
    learning_curve("centroid", TRAIN, TEST, sizes=[10, 20], repeats=3, on_progress=lambda *x: seen.append(x), **FIXED)
    assert seen == [(i, 6) for i in range(1, 7)]


def test_repeats_differ_by_their_seed_alone():
    found = repeat(lambda seed: train("lr", TRAIN, seed=seed), range(3, 7))
    values = [t.cv_accuracy for t in found.trainings]
    assert [t.seed for t in found.trainings] == [3, 4, 5, 6]
    assert values[0] == train("lr", TRAIN, seed=3).cv_accuracy
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval == pytest.approx(t_interval(values))
    with pytest.raises(HeadError, match="give --repeats 2 or more"):
        repeat(lambda seed: train("lr", TRAIN, seed=seed), [0])
    with pytest.raises(HeadError, match="use --tune cv"):
        repeat(lambda seed: train("lr", TRAIN, tune="val", val=TEST, seed=seed), [0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols")
    write(folder / "f.h5", [SPEC], sizes={"train": 120, "test": 90})
    return folder


def test_the_command_prints_few_shots_and_writes_no_head(folder):
    done = penult(
        "fit", "f.h5", "--head", "lr", "--shots", "1", "4", "--repeats", "3", "--png", "s.png", "--json", "s.json",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lr on toys, trained on parts of train, measured on test: 90 pictures, 3 classes" in done.stdout
    assert "defaults: C = 0.01" in done.stdout
    assert "all repeats are measured on the same pictures" in " ".join(done.stdout.split())
    result = json.loads((folder / "s.json").read_text())
    assert [p["size"] for p in result["points"]] == [1, 4]
    assert {"accuracy", "deviation", "accuracy_ci95", "accuracies", "params", "chosen"} <= set(result["points"][0])
    with Image.open(folder / "s.png") as picture:
        assert picture.size == (1200, 800)
    assert not list(folder.glob("*.head"))


def test_the_command_prints_a_curve_and_what_more_pictures_would_give(folder):
    done = penult(
        "fit", "f.h5", "--head", "centroid", "--tune", "none", "--curve", "--repeats", "3", "--png", "c.png", "--json",
        "c.json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "times the pictures" in done.stdout or "cannot tell: " in done.stdout
    result = json.loads((folder / "c.json").read_text())
    assert {"law", "backtests", "forecasts", "reason"} == set(result["extrapolation"])
    assert len(result["points"]) > 5
    with Image.open(folder / "c.png") as picture:
        assert picture.size == (1200, 800)


def test_the_command_repeats_over_seeds_and_writes_the_head_of_the_first(folder):
    done = penult(
        "fit", "f.h5", "--head", "centroid", "--repeats", "3", "-o", "three.head", "--json", "r.json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "over 3 seeds: cross-validated accuracy" in done.stdout
    assert penult("fit", "f.h5", "--head", "centroid", "-o", "one.head", cwd=folder).returncode == 0
    assert (folder / "three.head").read_bytes() == (folder / "one.head").read_bytes()
    assert load_head(folder / "three.head").kind == "centroid"
    result = json.loads((folder / "r.json").read_text())["repeats"]
    assert len(result["cv_accuracies"]) == 3
    assert result["ci95"][0] <= result["mean"] <= result["ci95"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the file to write the head to with -o HEAD; only --shots and --curve write none"),
        (["-o", "x.head", "--on", "test"], "--on belongs to --shots and --curve"),
        (["--shots", "1", "--curve"], "--shots or --curve stands alone"),
        (["--curve", "-o", "x.head"], "it writes no head, so leave out -o"),
        (["--shots", "0"], "must be 1 or more, got 0"),
    ],
)
def test_wrong_usage_exits_2(folder, arguments, message):
    done = penult("fit", "f.h5", "--head", "lr", *arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "usage: penult fit" in done.stderr
