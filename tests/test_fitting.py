import dataclasses
import json

import numpy as np
import pytest
from conftest import SPEC, digest_of, make_view, penult
from PIL import Image

from classify.artifact import load_head
from classify.fitting import Fitting
from classify.folds import Design
from classify.heads import HEADS
from classify.nested import nested
from classify.selection import settings_of, train
from classify.training import Candidate, within_one_standard_error
from data.errors import HeadError
from data.layout import block_image
from data.publish import publish
from data.reading import StoredVectors
from data.staging import new_run_id, stage_block
from data.store import FeatureStore, Samples

CLASSES = ["cat", "dog", "emu"]


def vectors(n, seed=0, dim=12):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (np.eye(3, dim)[y] * 2 + rng.normal(size=(n, dim))).astype(np.float32), y


def samples_of(n=90, seed=0):
    X, y = vectors(n, seed)
    digests = np.array([digest_of(i) for i in range(n)], dtype="S64")
    return Samples(X, y.astype(np.int32), CLASSES, [f"{i}.png" for i in range(n)], digests, SPEC, "toys", "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitting")
    X, y = vectors(150)
    splits = np.array(["train"] * 90 + ["val"] * 30 + ["test"] * 30)
    view = make_view(list(range(150)), targets=y.astype(np.int32), classes=CLASSES, splits=splits)
    features = {
        "spec": SPEC,
        "provenance": [],
        "requests": [],
        "rows": 150,
        "dim": X.shape[1],
        "dtype": np.dtype("float32"),
        "slabs": [(view.digests, X)],
    }
    store = folder / "f.h5"
    stage_block(store, new_run_id(), 0, block_image(features, view))
    publish(store, view, commands={})
    return folder


def fit(folder, *arguments, head="lr"):
    done = penult("fit", "f.h5", "--head", head, *arguments, "--json", "r.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "r.json").read_text())


@pytest.mark.parametrize("kind", ["lr", "svm", "ridge", "lda"])
def test_vectors_that_stay_in_the_store_give_the_same_head(folder, kind):
    store = FeatureStore(folder / "f.h5")
    whole, kept = store.load("train"), store.load("train", memory=1000)
    assert isinstance(kept.X, StoredVectors)
    assert np.array_equal(kept.X[:], whole.X)
    assert np.array_equal(kept.take(np.array([7, 3, 3])).X[:], whole.X[[7, 3, 3]])
    trained = [train(kind, samples, memory=memory) for samples, memory in ((whole, None), (kept, 100_000))]
    assert trained[0].params == trained[1].params
    np.testing.assert_allclose(trained[0].head.coef_, trained[1].head.coef_, atol=1e-4)
    assert trained[0].cv_accuracy == trained[1].cv_accuracy


@pytest.mark.parametrize("kind", ["mlp", "knn", "stack"])
def test_a_head_that_wants_all_vectors_says_so_instead_of_taking_the_memory(folder, kind):
    kept = FeatureStore(folder / "f.h5").load("train", memory=1000)
    with pytest.raises(HeadError, match=rf"^{kind} wants all vectors in memory, .* choose lr, svm, ridge or lda"):
        train(kind, kept, memory=1000)


def test_the_files_stay_open_for_as_long_as_the_vectors_live(folder, tmp_path):
    path = tmp_path / "g.h5"
    path.write_bytes((folder / "f.h5").read_bytes())
    kept = FeatureStore(path).load("train", memory=0)
    some = kept.X.rows(np.arange(5))
    path.unlink()
    del kept
    assert np.array_equal(some[:], FeatureStore(folder / "f.h5").load("train").X[:5])


def test_one_standard_error_takes_the_strongest_regularisation_that_is_as_good():
    candidates = [Candidate({"C": c}, a, 0.5, 0.04) for c, a in ((1, 0.80), (2, 0.885), (3, 0.90), (4, 0.90))]
    # 0.04 / sqrt(4) = 0.02 below 0.90
    assert within_one_standard_error(candidates, 2, 4) == 1
    assert within_one_standard_error(candidates, 2, 10_000) == 2


def test_the_rule_is_obeyed_and_told(folder):
    _, best = fit(folder, "-o", "best.head")
    done, simple = fit(folder, "-o", "simple.head", "--rule", "one-se")
    assert best["rule"] == "best"
    assert simple["rule"] == "one-se"
    chosen = best["candidates"][[c["params"] for c in best["candidates"]].index(best["params"])]
    enough = chosen["accuracy"] - chosen["deviation"] / np.sqrt(5)
    first = next(c for c in simple["candidates"] if c["accuracy"] >= enough)
    assert simple["params"] == first["params"]
    assert "one-standard-error rule" in done.stdout


def test_a_grid_of_ones_own_is_tried_and_drawn(folder):
    done, result = fit(folder, "-o", "grid.head", "--grid", "1e-4", "1", "5", "--png", "path.png")
    assert [c["params"]["C"] for c in result["candidates"]] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert result["chart"] == "path.png"
    with Image.open(folder / "path.png") as image:
        assert min(image.size) >= 600
    assert "deviation" in done.stdout


def test_each_deviation_is_that_of_the_folds():
    samples = samples_of()
    training = train("ridge", samples, params={"alpha": 1.0}, seed=3)
    design = Design.cross_validation(samples, 5, 3)
    accuracies = []
    for f in range(5):
        part = samples.take(design.inside(f))
        alone = train("ridge", part, params={"alpha": 1.0}, tune="none")
        out = np.flatnonzero(design.fold == f)
        answers = alone.head.predict(alone.scaler.transform(samples.X[out]))
        accuracies.append((answers == samples.y[out]).mean())
    assert training.candidates[0].deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert training.cv_accuracy == pytest.approx(np.mean(accuracies))


def test_nested_cross_validation_measures_on_pictures_that_had_no_part_in_the_choice():
    samples, seen = samples_of(), []

    def learn(part):
        seen.append(set(part.digests.tolist()))
        return train("knn", part)

    found = nested(learn, samples, seed=1)
    design = Design.cross_validation(samples, 5, 1)
    assert found.n == 90
    for f, digests in enumerate(seen):
        assert not digests & set(samples.digests[design.fold == f].tolist())
    right = sum(fold["accuracy"] * fold["n"] for fold in found.folds)
    assert found.accuracy == pytest.approx(right / 90)


def test_noise_that_looks_good_in_the_choice_looks_like_noise_when_nested():
    rng = np.random.default_rng(0)
    samples = samples_of()
    chosen, honest = [], []
    for _ in range(5):
        noise = Samples(
            rng.normal(size=(90, 12)).astype(np.float32),
            samples.y,
            CLASSES,
            samples.paths,
            samples.digests,
            SPEC,
            "n",
            "",
        )
        chosen.append(train("knn", noise).cv_accuracy)
        honest.append(nested(lambda part: train("knn", part), noise).accuracy)
    assert np.mean(chosen) > np.mean(honest)
    assert abs(np.mean(honest) - 1 / 3) < 0.08


def test_nested_is_printed_with_an_interval(folder):
    done, result = fit(folder, "-o", "n.head", "--nested")
    low, high = result["nested"]["ci95"]
    assert low < result["nested"]["accuracy"] < high
    assert "nested cross-validation, the choice included: accuracy" in done.stdout


def test_ridge_can_leave_out_each_picture_in_turn(folder):
    _, result = fit(folder, "-o", "loo.head", "--tune", "loo", head="ridge")
    assert result["tuned_on"] == "loo"
    samples = FeatureStore(folder / "f.h5").load("train")
    right = 0
    head = load_head(folder / "loo.head")
    Z = head.scaler.transform(samples.X)  # the standardisation is that of all pictures
    for i in range(len(samples)):
        rest = np.arange(len(samples)) != i
        alone = HEADS["ridge"](**result["params"]).fit(Z[rest], samples.y[rest])
        right += int(alone.predict(Z[i : i + 1])[0] == samples.y[i])
    assert result["cv_accuracy"] == pytest.approx(right / len(samples))


def test_calibration_is_told_before_and_after(folder):
    done, result = fit(folder, "-o", "c.head", "--calibrate", "platt", head="svm")
    assert result["calibration"]["method"] == "platt"
    assert result["calibration"]["after"]["log_loss"] < result["calibration"]["before"]["log_loss"]
    assert "probabilities by platt" in done.stdout
    _, plain = fit(folder, "-o", "c.head", "--calibrate", "none", head="svm")
    assert load_head(folder / "c.head").head.scale_ == 1.0
    assert plain["calibration"]["before"] == plain["calibration"]["after"]


def test_what_trains_and_what_chooses_share_the_half_of_the_memory_that_vectors_may_take(folder):
    # 90 + 30 rows of 12 float32: 4,320 and 1,440 bytes
    for memory, held in ((20_000, (4320, 1440)), (9_000, (4320, 0)), (8_000, (0, 1440)), (2_000, (0, 0))):
        fitting = Fitting(str(folder / "f.h5"), tune="val", memory=memory)
        fitting.open()
        assert (fitting.samples.held, fitting.val.held) == held
        assert sum(held) <= memory / 2


def test_memory_changes_nothing_but_the_memory(folder):
    fit(folder, "-o", "a.head")
    fit(folder, "-o", "b.head", "--memory", "1kB")
    a, b = (load_head(folder / name).head for name in ("a.head", "b.head"))
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-4)


def test_all_heads_are_fitted_and_ranked_by_what_was_held_out(folder):
    done, result = fit(folder, "-o", "heads", head="all")
    ranking = result["ranking"]
    assert {entry["kind"] for entry in ranking} | set(result["refused"]) == set(HEADS)
    assert not result["refused"]
    accuracies = [entry["cv_accuracy"] for entry in ranking]
    assert accuracies == sorted(accuracies, reverse=True)
    assert result["head"] == ranking[0]["head"]
    for entry in ranking:
        assert load_head(folder / entry["head"]).kind == entry["kind"]
        assert f" {entry['kind']} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--head", "lr", "--grid", "1", "0.1", "5"], 1, "--grid takes LOW HIGH N"),
        (["--head", "lr", "--tune", "loo"], 1, "--tune loo is for ridge"),
        (["--head", "centroid", "--png", "x.png"], 1, "--png draws what was tried along one parameter"),
        (["--head", "all", "--param", "C=1"], 1, "--param, --grid and --png are of one kind of head"),
        (["--head", "lr", "--memory", "many"], 2, "must be a size such as 2GB or 500MB"),
        (["--head", "lr", "--tune", "val", "--nested"], 1, "leave out --tune val"),
        (["--head", "mlp", "--memory", "1kB"], 1, "mlp wants all vectors in memory"),
        (
            ["--head", "ridge", "--tune", "loo", "--memory", "1kB"],
            1,
            "ridge with --tune loo wants all vectors",
        ),
        (
            ["--head", "ridge", "--tune", "loo", "--rule", "one-se"],
            1,
            "goes by the deviation between folds",
        ),
        (["--head", "lr", "--param", "C=-1"], 1, "C must be a number above 0, got -1.0"),
        (["--head", "svm", "--param", "C=much"], 1, "C must be a number above 0, got 'much'"),
        (["--head", "knn", "--param", "k=0"], 1, "k must be a whole number above 0, got 0"),
        (["--head", "knn", "--param", "k=2.5"], 1, "k must be a whole number above 0, got 2.5"),
        (["--head", "bayes", "--param", "var_smoothing=much"], 1, "must be a number of 0 or more, got 'much'"),
        (["--head", "lr", "--param", "tol=much"], 1, "tol must be a number of 0 or more, got 'much'"),
        (["--head", "svm", "--param", "max_iter=0"], 1, "max_iter must be a whole number above 0, got 0"),
        (["--head", "head2toe", "--param", "balance=-5"], 1, "balance must be a number from 0 to 1, got -5"),
        (["--head", "stack", "--param", "folds=0"], 1, "folds must be a whole number above 1, got 0"),
        (
            ["--head", "ridge", "--tune", "loo", "--param", "alpha=much"],
            1,
            "alpha must be a number above 0, got 'much'",
        ),
        (["--head", "lda", "--param", "shrinkage=2"], 1, "shrinkage must be auto or a number from 0 to 1, got 2"),
        (["--head", "centroid", "--grid", "1", "2", "3"], 1, "centroid chooses nothing here"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(folder, arguments, code, message):
    done = penult("fit", "f.h5", "-o", "x.head", *arguments, cwd=folder)
    assert done.returncode == code
    assert message in done.stderr
    assert not (folder / "x.head").exists()


@pytest.mark.parametrize(("kind", "name"), [("lr", "C"), ("ridge", "alpha"), ("knn", "k")])
def test_values_of_ones_own_go_from_the_strongest_regularisation_to_the_weakest(kind, name):
    ours = [setting[name] for setting in settings_of(kind, {}, "cv", [1.0, 3.0, 9.0])]
    default = HEADS[kind].grid[name]
    assert (ours[0] > ours[-1]) == (default[0] > default[-1])
    assert {type(value) for value in ours} == {type(default[0])}


def test_a_parameter_may_be_switched_off(folder, tmp_path):
    asked = ("--head", "mlp", "--param", "early_stopping=false", "--param", "epochs=2", "--param", "hidden=4")
    done = penult("fit", folder / "f.h5", *asked, "-o", tmp_path / "m.head")
    assert done.returncode == 0, done.stderr
    assert load_head(tmp_path / "m.head").head.get_params()["early_stopping"] is False


def test_few_shots_take_several_features(folder, tmp_path):
    X, y = vectors(60)
    splits = np.array(["test" if i % 4 == 0 else "train" for i in range(60)])
    view = make_view(list(range(60)), targets=y.astype(np.int32), classes=CLASSES, splits=splits)
    for number, spec in enumerate((SPEC, dataclasses.replace(SPEC, layer="layer3", pooling="avg"))):
        features = {"spec": spec, "provenance": [], "requests": [], "rows": 60, "dim": 12, "dtype": X.dtype}
        image = block_image({**features, "slabs": [(view.digests, X + number)]}, view)
        stage_block(tmp_path / "two.h5", new_run_id(), 0, image)
        publish(tmp_path / "two.h5", view, commands={})
    done = penult(
        "fit",
        "two.h5",
        "--head",
        "centroid",
        "--features",
        "penultimate",
        "layer3",
        "--shots",
        "2",
        "--repeats",
        "2",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_what_belongs_to_a_head_is_refused_where_none_is_written(folder):
    done = penult("fit", "f.h5", "--head", "lr", "--shots", "1", "--nested", cwd=folder)
    assert done.returncode == 2
    assert "are for a head that is written" in done.stderr
