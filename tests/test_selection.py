import dataclasses
import math

import numpy as np
import pytest
from conftest import SPEC, digest_of, make_view

from classify.calibration import log_loss
from classify.folds import Design, stratified_folds
from classify.head import softmax
from classify.heads import HEADS
from classify.selection import train
from classify.trials import Scaler, trials
from data.errors import HeadError
from data.layout import block_image
from data.publish import publish
from data.staging import new_run_id, stage_block
from data.store import FeatureStore, Samples

every_kind = pytest.mark.parametrize("kind", HEADS)
CENTRES = np.random.default_rng(99).normal(size=(8, 10)).astype(np.float32)


def quick(kind):
    return {"hidden": 8} if kind == "mlp" else {}


def digests_of(numbers):
    return np.array([digest_of(int(i)) for i in numbers], dtype="S64")


def samples_of(counts, seed=0, distance=1.0, split="train"):
    """Return pictures of overlapping classes in shuffled order, the features far from standardised."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    X = (distance * CENTRES[y] + rng.normal(size=(len(y), 10)).astype(np.float32)) * 7 + 30
    paths = [f"{i}.png" for i in range(len(y))]
    classes = ["cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay"][: len(counts)]
    return Samples(X, y, classes, paths, digests_of(np.arange(len(y)) + 1000 * seed), SPEC, "toys", split)


def same_training(a, b):
    states = a.head.state(), b.head.state()
    arrays = [*zip(*(s.values() for s in states), strict=True), (a.scaler.mean, b.scaler.mean)]
    arrays.append((a.scaler.scale, b.scaler.scale))
    return (
        all(np.array_equal(x, y) for x, y in arrays)
        and (a.params, a.head.scale_, a.cv_accuracy) == (b.params, b.head.scale_, b.cv_accuracy)
        and a.candidates == b.candidates
    )


def test_the_scaler_gives_zero_mean_and_unit_deviation():
    X = samples_of([30, 30]).X
    got = Scaler.fit(X).transform(X)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(got.std(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, -3e4, 1e-30, 1 / 3])
def test_constant_columns_become_zero(constant):
    X = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    X[:, 1] = constant
    scaler = Scaler.fit(X)
    assert scaler.scale[1] == 1
    np.testing.assert_allclose(scaler.transform(X)[:, 1], 0, atol=1e-6)


def test_deviations_of_few_pictures_lean_on_those_of_all_columns():
    X = np.array([[0.0, 0.0, 5.0], [1.0, 3.0, 5.0]], dtype=np.float32)
    scaler = Scaler.of_training(X)
    common = (0.25 + 2.25 + 0) / 3
    expected = np.sqrt([(2 * 0.25 + 10 * common) / 12, (2 * 2.25 + 10 * common) / 12])
    np.testing.assert_allclose(scaler.scale, [*expected, 1.0], rtol=1e-6)
    many = np.random.default_rng(0).normal(size=(100_000, 2)) * [1, 2]
    np.testing.assert_allclose(Scaler.of_training(many).scale, Scaler.fit(many).scale, rtol=2e-4)


def test_one_picture_a_class_still_tells_which_columns_matter():
    # classes differ in one wide column; the others are noise that two pictures would stretch to the same width
    rng = np.random.default_rng(0)
    right = []
    for _ in range(20):
        y = np.arange(42, dtype=np.int32) % 2
        X = rng.normal(size=(42, 200)).astype(np.float32) * 0.3
        X[:, 0] += 20 * y
        samples = Samples(X[:2], y[:2], ["ant", "bee"], ["a", "b"], digests_of([0, 1]), SPEC, "toys", "train")
        training = train("lr", samples, measure=False)
        right.append((training.head.scores(training.scaler.transform(X[2:])).argmax(axis=1) == y[2:]).mean())
    assert np.mean(right) > 0.95


def test_scores_of_settings_are_kept_for_as_many_pictures_as_are_asked_for():
    samples = samples_of([40, 50, 33], distance=0.4)
    design = Design.cross_validation(samples, 5, 0)
    heads = [HEADS["knn"](k=k) for k in (1, 3, 9)]
    whole, some = (
        trials(heads, design, None, kept=kept, block=1 << 20, report=lambda done: None)
        for kept in (slice(None), slice(None, None, 7))
    )
    for a, b in zip(whole, some, strict=True):
        assert b.scores.base is None  # or the rest would be held as well
        np.testing.assert_array_equal(b.scores, a.scores[::7])
        np.testing.assert_array_equal(b.correct, a.correct)
        np.testing.assert_array_equal(a.correct, a.scores.argmax(axis=1) == design.truth)


def test_small_columns_count_as_much_as_large_ones():
    X = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32) * np.float32([1e-6, 1e6])
    np.testing.assert_allclose(Scaler.fit(X).transform(X).std(axis=0), 1, rtol=1e-5)


def test_the_scaler_measures_float16_without_overflow():
    rng = np.random.default_rng(0)
    half = (60_000 + 1000 * rng.normal(size=(500, 4)).clip(-3, 3)).astype(np.float16)
    scaler = Scaler.fit(half)
    wide = half.astype(np.float64)
    np.testing.assert_allclose(scaler.mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaler.scale, wide.std(axis=0), rtol=1e-6)
    assert scaler.transform(half).dtype == np.float32
    np.testing.assert_allclose(scaler.transform(half), (wide - wide.mean(axis=0)) / wide.std(axis=0), atol=1e-4)


def test_float16_and_float32_of_the_same_values_train_the_same_head():
    samples = samples_of([20, 20])
    half = dataclasses.replace(samples, X=samples.X.astype(np.float16))
    full = dataclasses.replace(samples, X=half.X.astype(np.float32))
    assert same_training(train("lr", half), train("lr", full))


def test_every_class_is_spread_evenly_over_the_folds():
    y = np.repeat([0, 1, 2, 3], [50, 23, 7, 3])
    folds = stratified_folds(y, digests_of(range(len(y))), 5, 0)
    assert set(folds.tolist()) == set(range(5))
    for label in range(4):
        counts = np.bincount(folds[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1


def test_copies_of_one_content_never_straddle_two_folds():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 60, size=300)
    y = (contents + (rng.random(300) < 0.05)) % 4  # some copies have another label
    folds = stratified_folds(y, digests_of(contents), 5, 0)
    for content in range(60):
        assert len(set(folds[contents == content].tolist())) <= 1


def test_the_only_content_of_a_class_always_trains():
    y = np.array([0] * 10 + [1] * 3 + [2])
    contents = [*range(10), 10, 10, 10, 11]
    folds = stratified_folds(y, digests_of(contents), 5, 0)
    assert (folds[10:] == -1).all()
    assert (folds[:10] >= 0).all()


@pytest.mark.parametrize("contents_of_b", [[3], [3, 4]])
def test_every_class_trains_in_every_fold_where_its_contents_bear_another_label_too(contents_of_b):
    y = np.array([0] * 10 + [1] * len(contents_of_b) + [2] * 10)
    contents = np.array([*range(10), *contents_of_b, *range(20, 30)])
    for seed in range(20):
        folds = stratified_folds(y, digests_of(contents), 5, seed)
        for fold in range(folds.max() + 1):
            assert set(y[folds != fold].tolist()) == {0, 1, 2}
        for content in contents_of_b:
            assert len(set(folds[contents == content].tolist())) == 1


@pytest.mark.parametrize("n", [2, 3])
def test_small_sets_get_as_many_folds_as_they_can_fill(n):
    folds = stratified_folds(np.repeat([0], n), digests_of(range(n)), 5, 0)
    assert sorted(folds.tolist()) == list(range(n))


def test_folds_depend_on_the_seed_alone():
    y = np.repeat([0, 1], 30)
    digests = digests_of(range(60))
    assert (stratified_folds(y, digests, 5, 3) == stratified_folds(y, digests, 5, 3)).all()
    assert (stratified_folds(y, digests, 5, 3) != stratified_folds(y, digests, 5, 4)).any()


def test_fitting_leaves_numpys_global_generator_alone():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    train("mlp", samples_of([20, 20]), params={"alpha": 0.1, "hidden": 8})
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@every_kind
def test_training_twice_gives_the_same_head(kind):
    samples = samples_of([25, 25, 25])
    assert same_training(
        train(kind, samples, seed=1, params=quick(kind)), train(kind, samples, seed=1, params=quick(kind))
    )


@pytest.mark.parametrize("kind", ["lr", "svm", "knn"])
def test_each_candidate_is_scored_on_folds_its_scaler_and_head_never_saw(kind):
    samples = samples_of([30, 40, 20], distance=0.4)
    folds = stratified_folds(samples.y, samples.digests, 5, 2)
    tight = {"tol": 1e-7} if kind in ("lr", "svm") else {}
    training = train(kind, samples, seed=2, params=tight)
    ((name, values),) = HEADS[kind].grid.items()
    assert [c.params for c in training.candidates] == [{**tight, name: value} for value in values]
    for candidate in training.candidates:
        right = 0
        for fold in range(5):
            inside, outside = folds != fold, folds == fold
            scaler = Scaler.of_training(samples.X[inside])
            head = HEADS[kind](**candidate.params, random_state=2)
            head.fit(scaler.transform(samples.X[inside]), samples.y[inside])
            right += int((head.predict(scaler.transform(samples.X[outside])) == samples.y[outside]).sum())
        assert candidate.accuracy == pytest.approx(right / 90, abs=1e-12)
    assert training.folds == 5
    assert training.tuned_on == "cv"


@every_kind
def test_the_best_candidate_wins_and_is_fitted_again_on_all(kind):
    samples = samples_of([30, 30, 30], distance=0.4)
    training = train(kind, samples, params=quick(kind))
    best = max(training.candidates, key=lambda c: (c.accuracy, -c.log_loss))
    assert training.params == best.params
    assert training.cv_accuracy == best.accuracy
    again = HEADS[kind](**best.params).fit(Scaler.of_training(samples.X).transform(samples.X), samples.y)
    # a path folds the standardisation into the coefficients
    for a, b in zip(again.state().values(), training.head.state().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def write_store(path, train_samples, test_samples):
    parts = [train_samples, *([test_samples] if test_samples else [])]
    digests = np.concatenate([p.digests for p in parts])
    splits = np.array([p.split for p in parts for _ in range(len(p))], dtype=np.str_)
    view = make_view(
        list(range(len(digests))),
        classes=train_samples.classes,
        digests=digests,
        targets=np.concatenate([p.y for p in parts]),
        splits=splits,
    )
    X = np.concatenate([p.X for p in parts])
    features = {"spec": SPEC, "provenance": [], "requests": [], "rows": len(X), "dim": X.shape[1], "dtype": X.dtype}
    stage_block(path, new_run_id(), 1, block_image({**features, "slabs": [(digests, X)]}, view))
    publish(path, view, commands={SPEC.fingerprint: {}})
    return FeatureStore(path)


def test_the_test_split_cannot_change_the_head(tmp_path):
    inside, outside = samples_of([25, 25], distance=0.5), samples_of([20, 20], seed=1, split="test")
    flipped = dataclasses.replace(outside, y=1 - outside.y, X=-outside.X)
    stores = [write_store(tmp_path / f"{i}.h5", inside, test) for i, test in enumerate([outside, flipped, None])]
    for kind in ("lr", "svm"):
        first, second, third = (train(kind, store.load("train")) for store in stores)
        assert same_training(first, second)
        assert same_training(first, third)


def test_val_chooses_where_it_is_told_to():
    samples, val = samples_of([30, 30], distance=0.3), samples_of([40, 40], seed=1, distance=0.3, split="val")
    training = train("lr", samples, tune="val", val=val)
    scaler = Scaler.of_training(samples.X)
    for candidate in training.candidates:
        head = HEADS["lr"](**candidate.params).fit(scaler.transform(samples.X), samples.y)
        assert candidate.accuracy == (head.predict(scaler.transform(val.X)) == val.y).mean()
    assert training.cv_accuracy is None
    assert (training.tuned_on, training.folds) == ("val", 0)
    best = max(training.candidates, key=lambda c: (c.accuracy, -c.log_loss))
    assert training.params == best.params


def test_unlabelled_pictures_of_val_do_not_choose():
    samples, val = samples_of([30, 30], distance=0.3), samples_of([40, 40], seed=1, distance=0.3, split="val")
    extra = samples_of([10, 10], seed=2)
    more = dataclasses.replace(
        val,
        X=np.concatenate([extra.X, val.X]),
        y=np.concatenate([np.full(20, -1, dtype=np.int32), val.y]),
        paths=extra.paths + val.paths,
        digests=np.concatenate([extra.digests, val.digests]),
    )
    assert same_training(train("lr", samples, tune="val", val=val), train("lr", samples, tune="val", val=more))


@pytest.mark.parametrize("val", [None, dataclasses.replace(samples_of([2, 2]), y=np.full(4, -1, dtype=np.int32))])
def test_tuning_on_val_needs_a_labelled_val(val):
    with pytest.raises(HeadError, match=r"^--tune val needs labelled pictures in a split named val: use --tune cv$"):
        train("lr", samples_of([5, 5]), tune="val", val=val)


@every_kind
def test_without_tuning_the_defaults_are_used_and_measured(kind):
    training = train(kind, samples_of([30, 30]), tune="none")
    defaults = HEADS[kind]().get_params()
    assert len(training.candidates) == 1
    assert training.params == {name: defaults[name] for name in HEADS[kind].grid}
    assert training.tuned_on == "none"
    assert 0 <= training.cv_accuracy <= 1


def test_a_fixed_parameter_is_not_chosen():
    training = train("lr", samples_of([20, 20]), params={"C": 0.5})
    assert training.params == {"C": 0.5}
    assert training.head.C == 0.5
    assert len(training.candidates) == 1


def test_what_is_not_fixed_is_still_chosen():
    training = train("bayes", samples_of([20, 20]), params={"priors": [0.4, 0.6]})
    assert np.allclose(np.exp(training.head.log_prior_), [0.4, 0.6])
    values = HEADS["bayes"].grid["var_smoothing"]
    assert [c.params for c in training.candidates] == [{"priors": [0.4, 0.6], "var_smoothing": v} for v in values]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "tree",
            {},
            r"^no head 'tree': choose one of lr, svm, mlp, knn, bayes, centroid, ridge, lda, stack, head2toe$",
        ),
        ("lr", {"tune": "test"}, r"^no way to tune 'test': choose one of cv, val, loo, none$"),
        ("lr", {"params": {"alpha": 1}}, r"^head lr has no parameter 'alpha', only: C, max_iter, solver, tol$"),
        ("knn", {"params": {"C": 1}}, r"^head knn has no parameter 'C', only: k$"),
        ("centroid", {"params": {"k": 1}}, r"^head centroid has no parameter 'k', only: none$"),
        (
            "lr",
            {"params": {"random_state": 1}},
            r"^head lr has no parameter 'random_state', only: C, max_iter, solver, tol$",
        ),
    ],
)
def test_what_is_unknown_is_refused_with_what_there_is(kind, changes, message):
    with pytest.raises(HeadError, match=message):
        train(kind, samples_of([5, 5]), **changes)


def test_one_class_is_refused():
    message = r"^the image set 'toys' has one class \(cat\): a head needs at least two$"
    with pytest.raises(HeadError, match=message):
        train("lr", samples_of([5]))


def test_a_class_without_training_pictures_is_named():
    message = (
        r"^split 'train' has no picture of 'dog', 'fox': add some, take the class out of the other splits too, or "
    )
    with pytest.raises(HeadError, match=message + r"split anew with `extract \.\.\. --test-fraction 0\.2`$"):
        train("lr", samples_of([5, 0, 5, 0, 5]))


def test_pictures_without_labels_alone_are_refused():
    samples = samples_of([5, 5])
    nothing = dataclasses.replace(samples, y=np.full(10, -1, dtype=np.int32), split="")
    with pytest.raises(HeadError, match=r"^no picture of the image set has a label: give each class a folder, or "):
        train("lr", nothing)


def test_unlabelled_pictures_change_nothing():
    samples, extra = samples_of([20, 20]), samples_of([10, 10], seed=1)
    mixed = dataclasses.replace(
        samples,
        X=np.concatenate([extra.X, samples.X]),
        y=np.concatenate([np.full(20, -1, dtype=np.int32), samples.y]),
        paths=extra.paths + samples.paths,
        digests=np.concatenate([extra.digests, samples.digests]),
    )
    assert same_training(train("lr", samples), train("lr", mixed))


@every_kind
@pytest.mark.parametrize(
    ("tune", "counts"),
    [("cv", counts) for counts in ([1, 1], [2, 2], [2, 2, 2], [1, 2], [1, 2, 20])]
    + [(tune, counts) for tune in ("val", "none") for counts in ([1, 1, 1], [2, 2])],
)
def test_few_pictures_of_a_class_are_no_crash(kind, tune, counts):
    samples = samples_of(counts, distance=3)
    val = samples_of([1] * len(counts), seed=1) if tune == "val" else None
    training = train(kind, samples, tune=tune, val=val, params=quick(kind), class_weight="balanced")
    probabilities = training.head.predict_proba(training.scaler.transform(samples.X))
    assert probabilities.shape == (len(samples), len(counts))
    assert np.isfinite(probabilities).all()
    if max(counts) == 1 and tune != "val":  # nothing can be held out
        assert (training.cv_accuracy, training.folds, training.candidates) == (None, 0, [])


@every_kind
def test_a_picture_under_two_labels_is_no_crash(kind):
    samples = samples_of([2, 1])
    digests = digests_of([1, 2, 2])
    order = np.argsort(samples.y, kind="stable")
    samples = dataclasses.replace(samples, X=samples.X[order], y=samples.y[order], digests=digests)
    training = train(kind, samples, params=quick(kind))
    assert np.isfinite(training.head.predict_proba(samples.X)).all()


@every_kind
def test_progress_ends_at_its_total(kind):
    calls = []
    train(kind, samples_of([10, 10]), params=quick(kind), on_progress=lambda done, total: calls.append((done, total)))
    totals = {total for _, total in calls}
    assert totals == {5 * math.prod(len(values) for values in HEADS[kind].grid.values()) + 1}
    done = [done for done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == totals.pop()


def test_the_weakest_regularisation_that_wins_is_pointed_out():
    pairs = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32) * 50
    # forty places, each of one class with two pictures: only the nearest neighbour knows
    places = np.concatenate([pairs, -pairs])
    X = np.concatenate([places, places + 0.01]).astype(np.float32)
    y = np.tile(np.random.default_rng(1).permutation(np.repeat([0, 1], 20)), 2).astype(np.int32)
    training = train("knn", dataclasses.replace(samples_of([40, 40]), X=X, y=y))
    assert training.params == {"k": 1}
    assert training.notes == [
        "the weakest regularisation that was tried won (k = 1); --param sets one beyond it",
    ]


def test_scores_become_probabilities_by_a_factor_from_held_out_pictures():
    samples, fresh = samples_of([40, 40, 40], distance=0.5), samples_of([300] * 3, seed=1, distance=0.5)
    for kind in HEADS:
        training = train(kind, samples)
        scores = training.head.scores(training.scaler.transform(fresh.X))
        scaled = log_loss(softmax(training.head.scale_ * scores), fresh.y)
        # where scores are log-odds already, as of lda and centroids here, it must do them no great harm
        assert scaled < log_loss(softmax(scores), fresh.y) + 0.05
        assert training.head.scale_ != 1
    timid = train("lr", samples, params={"C": 1e-4})  # strongly regularised
    scores = timid.head.scores(timid.scaler.transform(fresh.X))
    assert log_loss(softmax(timid.head.scale_ * scores), fresh.y) < log_loss(softmax(scores), fresh.y) - 0.1


def test_other_views_train_and_are_not_measured():
    samples = samples_of([40, 40], distance=0.5)
    rng = np.random.default_rng(5)
    wild = rng.normal(size=samples.X.shape).astype(np.float32)
    plain, twice = train("lr", samples), train("lr", dataclasses.replace(samples, others=(samples.X,)))
    assert twice.folds == plain.folds
    # each picture counts twice, which is the same objective at twice the C
    doubled = train("lr", samples, params={"C": 0.2}, tune="none")
    halved = train("lr", dataclasses.replace(samples, others=(samples.X,)), params={"C": 0.1}, tune="none")
    np.testing.assert_allclose(doubled.head.state()["coef_"], halved.head.state()["coef_"], atol=1e-3)
    # views of noise make the head worse; were they measured too, the accuracy would be near one half
    assert train("lr", dataclasses.replace(samples, others=(wild,))).cv_accuracy > 0.6
