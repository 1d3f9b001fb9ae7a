import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import sklearn.metrics
from conftest import SPEC, digest_of, make_view, penult
from rich.console import Console

from classify.audit import Audit
from classify.audit_report import print_audit, write_audit_csv
from classify.duplicates import find_copies, nearest
from classify.leakage import accuracy_with_and_without, tell_splits_apart
from classify.oddities import auc_interval, classes_in_two, lookalike_classes, odd_folders, outliers
from classify.out_of_fold import kept_together, out_of_fold
from classify.selection import train
from classify.suspects import confused_classes, find_hard, find_suspects
from data.errors import HeadError, StoreError
from data.layout import block_image
from data.publish import publish
from data.staging import new_run_id, stage_block
from data.store import FeatureStore, Samples

CLASSES = ["cat", "dog", "emu", "fox"]
DIM = 24
CENTRES = 1.1 * np.random.default_rng(99).normal(size=(4, DIM))
FIXED = {"C": 0.01}


def digests_of(numbers):
    return np.array([digest_of(int(i)) for i in numbers], dtype="S64")


def samples_of(y, seed=0, X=None, classes=CLASSES, paths=None):
    y = np.asarray(y, dtype=np.int32)
    if X is None:
        X = CENTRES[y] + np.random.default_rng(seed).normal(size=(len(y), DIM))
    paths = paths or [f"{classes[t] if t >= 0 else 'loose'}/{i}.png" for i, t in enumerate(y)]
    return Samples(X.astype(np.float32), y, classes, paths, digests_of(range(len(y))), SPEC, "toys", "")


def audit_of(samples, splits=None, **changes):
    splits = np.array(["test" if i % 4 == 0 else "train" for i in range(len(samples))]) if splits is None else splits
    return Audit(samples, np.asarray(splits, dtype=np.str_), find_copies(samples.X, samples.digests), **changes)


def some_labels(n=240, seed=0, k=4):
    return np.random.default_rng(seed).integers(k, size=n)


def flipped(y, share, seed=0, k=4):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(y))[: round(share * len(y))]
    wrong = y.copy()
    wrong[rows] = (y[rows] + rng.integers(1, k, size=len(rows))) % k
    return wrong, np.sort(rows)


def test_probabilities_out_of_fold_are_probabilities_and_the_same_each_time():
    samples = samples_of(some_labels(120))
    p = out_of_fold(samples, params=FIXED)
    assert p.shape == (120, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == samples.y).mean() > 0.9
    np.testing.assert_array_equal(p, out_of_fold(samples, params=FIXED))
    assert not np.array_equal(p, out_of_fold(samples, params=FIXED, seed=1))


def test_no_picture_is_judged_by_a_head_that_has_seen_it_or_its_near_copy():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 200))  # any labels can be learnt by heart, none can be known
    twice = np.concatenate([X, X + 0.01 * rng.normal(size=X.shape)])
    y = np.tile(rng.integers(2, size=100), 2)
    samples = samples_of(y, X=twice, classes=CLASSES[:2])
    by_heart = (out_of_fold(samples, params=FIXED).argmax(axis=1) == y).mean()
    group = find_copies(samples.X, samples.digests).group
    honest = (out_of_fold(kept_together(samples, group), params=FIXED).argmax(axis=1) == y).mean()
    assert by_heart > 0.8
    assert honest < 0.65


def test_the_only_picture_of_a_class_cannot_be_held_out():
    p = out_of_fold(samples_of([0] * 10 + [1] * 10 + [2], classes=CLASSES[:3]), params=FIXED)
    assert np.isnan(p[20]).all()
    assert not np.isnan(p[:20]).any()


def test_one_fold_is_refused():
    with pytest.raises(HeadError, match="at least 2 folds, got 1"):
        out_of_fold(samples_of(some_labels(20)), folds=1)


def confident_learning_by_the_book(p, y):
    """Northcutt et al. 2021, equations 1 and 2, a picture and a class at a time."""
    n, k = p.shape
    held = [i for i in range(n) if not np.isnan(p[i]).any()]
    thresholds = []
    for j in range(k):
        own = [p[i, j] for i in held if y[i] == j]
        thresholds.append(sum(own) / len(own) if own else float("nan"))
    joint, flagged = np.zeros((k, k), dtype=int), []
    for i in held:
        above = [j for j in range(k) if p[i, j] >= thresholds[j]]
        if above:
            best = max(above, key=lambda j: p[i, j])
            joint[y[i], best] += 1
            if best != y[i] and max(p[i]) != p[i, y[i]]:
                flagged.append((p[i, y[i]] - p[i, best], i, best))
    return joint, sorted(flagged)


@pytest.mark.parametrize("seed", range(4))
def test_suspects_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 0.4), size=150)
    p[rng.permutation(150)[:5]] = np.nan
    y = rng.integers(3 if seed == 3 else 4, size=150)  # once a class has no picture
    joint, flagged = confident_learning_by_the_book(p, y)
    found = find_suspects(p, y)
    np.testing.assert_array_equal(found.joint, joint)
    assert list(zip(found.rows.tolist(), found.suggested.tolist(), strict=True)) == [(i, j) for _, i, j in flagged]
    np.testing.assert_allclose(found.margin, [m for m, _, _ in flagged])


@pytest.mark.parametrize("seed", range(2))
def test_flipped_labels_are_found(seed):
    truth = some_labels(400, seed)
    given, rows = flipped(truth, 0.05, seed)
    X = samples_of(truth, seed).X
    samples = samples_of(given, X=X)
    found = find_suspects(out_of_fold(samples, seed=seed), given)
    assert np.isin(found.rows, rows).mean() > 0.8  # precision
    assert np.isin(rows, found.rows).mean() > 0.8  # recall
    right = np.isin(found.rows, rows)
    np.testing.assert_array_equal(found.suggested[right], truth[found.rows[right]])


def test_hard_pictures_are_answered_wrongly_and_not_suspect():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.95, 0.05], [0.1, 0.9], [0.2, 0.8], [np.nan, np.nan]])
    y = np.array([0, 0, 0, 1, 1, 1, 1])
    suspects = find_suspects(p, y)
    assert suspects.rows.tolist() == [3]
    assert find_hard(p, y, suspects).tolist() == [2]


def test_confused_pairs_count_both_ways():
    y = np.repeat([0, 1, 2], [10, 20, 30])
    answers = y.copy()
    answers[:4], answers[10:12], answers[30:31] = 1, 0, 0
    matrix, pairs = confused_classes(np.eye(3)[answers], y)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(y, answers))
    assert [(c.a, c.b, c.a_as_b, c.b_as_a, c.n_a, c.n_b) for c in pairs] == [(0, 1, 4, 2, 10, 20), (0, 2, 0, 1, 10, 30)]
    assert pairs[0].rate == 6 / 30
    assert pairs[0].rate_ci95[0] < 0.2 < pairs[0].rate_ci95[1]


def test_the_auc_equals_scikit_learn_and_its_interval_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        positive = np.arange(60) < 25
        score = (rng.normal(size=60) + 0.9 * positive).round(1)  # with ties
        auc, (low, high) = auc_interval(score, positive)
        assert auc == pytest.approx(sklearn.metrics.roc_auc_score(positive, score))
        covered += low <= 0.7377 <= high  # Phi(0.9 / sqrt 2)
    assert covered >= 182  # 95% of 200, less three deviations


def test_two_names_for_one_class_are_lookalikes():
    truth = some_labels(300, k=3)
    y = truth.copy()
    y[truth == 2] += np.random.default_rng(1).integers(2, size=(truth == 2).sum())  # emu and fox are one
    p = out_of_fold(samples_of(y, X=samples_of(truth).X), params=FIXED)
    (pair,) = lookalike_classes(p, y, confused_classes(p, y)[0])
    assert (pair.a, pair.b) == (2, 3)
    assert pair.auc_ci95[0] < 0.5


def test_a_class_from_two_sources_falls_in_two_and_others_do_not():
    y = np.repeat([0, 1, 2], 120)
    samples = samples_of(y)
    X = samples.X.copy()
    X[120:160] += 2 * np.random.default_rng(5).normal(size=DIM)
    (found,) = classes_in_two(X, y)
    assert found.label == 1
    assert [len(g) for g in found.groups] == [80, 40]
    assert set(found.groups[1].tolist()) == set(range(120, 160))
    assert classes_in_two(X[100:139], y[100:139]) == []  # too few


def test_a_folder_of_another_class_is_named():
    y = np.repeat([0, 1], 100)
    p = np.where(np.eye(2)[y] > 0, 0.9, 0.1)
    p[60:80] = [0.2, 0.8]
    paths = [
        f"{CLASSES[t]}/{'day' if i % 100 < 60 else 'night' if i % 100 < 80 else 'dusk'}/{i}.png"
        for i, t in enumerate(y)
    ]
    (found,) = odd_folders(paths, p, y)
    assert (found.folder, found.label, found.n, found.wrong, found.rest_wrong) == ("cat/night", 0, 20, 20, 0)
    assert found.suggested == 1
    assert found.p_holm < 1e-9
    chance = np.random.default_rng(0).random(200) < 0.1
    p[chance] = p[chance][:, ::-1]
    p[60:80] = p[:20]
    assert odd_folders(paths, p, y) == []
    assert odd_folders([f"{CLASSES[t]}/{i}.png" for i, t in enumerate(y)], p, y) == []  # a folder a class


def test_a_picture_unlike_all_others_is_an_outlier():
    rng = np.random.default_rng(0)
    X = 3 * rng.normal(size=(4, 200))[some_labels(300)] + rng.normal(size=(300, 200))
    X[17] = 3 * rng.normal(size=200)
    rows, far, beyond = outliers(nearest(X.astype(np.float32), 20))
    assert (rows[0], beyond, len(rows)) == (17, 1, 10)
    assert far[0] > 4
    assert (np.diff(far) <= 0).all()


def test_accuracy_with_and_without_copies():
    truth = some_labels(200)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 300)).astype(np.float32)  # nothing but copies can be known
    X[100:160] = X[:60]
    truth[100:160] = truth[:60]
    samples = samples_of(truth, X=X)
    halves = [dataclasses.replace(samples, X=X[s], y=samples.y[s]) for s in (slice(100), slice(100, 200))]
    training = train("lr", dataclasses.replace(halves[0], digests=samples.digests[:100]), tune="none")
    copied = np.arange(100) < 60
    found = accuracy_with_and_without(training, halves[1], copied)
    assert (found["n"], found["copied"]) == (100, 60)
    assert found["accuracy_without"] < 0.5 < found["accuracy"]
    assert found["difference"] == pytest.approx(found["accuracy"] - found["accuracy_without"])
    low, high = found["difference_ci95"]
    assert 0 < low < found["difference"] < high
    none = accuracy_with_and_without(training, halves[1], np.zeros(100, bool))
    assert (none["difference"], none["accuracy"]) == (0.0, none["accuracy_without"])
    every = accuracy_with_and_without(training, halves[1], np.ones(100, bool))
    assert every["accuracy_without"] is None


def test_splits_from_two_sources_can_be_told_apart_and_random_ones_cannot():
    samples = samples_of(some_labels(300))
    test = np.arange(300) % 3 == 0
    group = np.arange(300)
    same = tell_splits_apart(samples, (~test, test), group)
    assert not same["differ"]
    moved = samples.X.copy()
    moved[test] += 0.5 * np.random.default_rng(1).normal(size=DIM).astype(np.float32)
    other = tell_splits_apart(dataclasses.replace(samples, X=moved), (~test, test), group)
    assert other["differ"]
    assert other["auc"] > 0.7


@pytest.fixture(scope="module")
def faulty():
    """Return pictures with planted faults: copies across splits, one under two labels, flipped labels."""
    truth = some_labels(240)
    X = samples_of(truth).X
    X[4] = X[5] + 0.02 * np.random.default_rng(0).normal(size=DIM)  # near, test and train
    truth[4] = truth[5]
    given, rows = flipped(truth, 0.05, 1)
    samples = samples_of(given, X=X)
    digests = samples.digests.copy()
    samples.X[40] = samples.X[41]  # exact, test and train
    digests[40] = digests[41]
    y = samples.y.copy()
    y[40] = (y[41] + 1) % 4
    return dataclasses.replace(samples, y=y, digests=digests), np.setdiff1d(rows, [4, 5, 40, 41])


@pytest.fixture(scope="module")
def result(faulty):
    return audit_of(faulty[0]).run()


def test_an_audit_finds_what_was_planted(faulty, result):
    samples, rows = faulty
    found = result["duplicates"]
    assert [[p["path"] for p in g["pictures"]] for g in found["groups"]] == [
        [samples.paths[40], samples.paths[41]],  # under two labels first
        [samples.paths[4], samples.paths[5]],
    ]
    assert [g["exact"] for g in found["groups"]] == [True, False]
    assert (found["copies"], found["across_splits"], found["under_two_labels"]) == (1, 2, 1)
    assert result["leak"]["copied"] == 2
    suspects = {row["path"] for row in result["suspects"]}
    assert np.mean([samples.paths[i] in suspects for i in rows]) > 0.7
    assert len(result["outliers"]) == 10
    assert not result["split_shift"]["differ"]
    assert result["notes"] == []
    json.dumps(result)


def test_an_exact_copy_in_a_group_of_near_ones_is_counted_and_told(faulty, capsys):
    samples, _ = faulty
    digests = samples.digests.copy()
    digests[6] = digests[4]
    X = samples.X.copy()
    X[6] = X[4]
    found = audit_of(dataclasses.replace(samples, X=X, digests=digests)).run()
    assert [(g["exact"], g["exact_copies"]) for g in found["duplicates"]["groups"]] == [(True, 1), (False, 1)]
    print_audit(Console(width=200), found)
    told = capsys.readouterr().out
    assert "2 groups of copies (1 exact, 1 near) with 2 exact copies; " in told
    assert " + 1 exact" in told
    assert "): lr (C = " in told


def test_the_same_seed_gives_the_same_audit(faulty, result):
    assert audit_of(faulty[0]).run() == result


def printed(result, **options):
    console = Console(file=io.StringIO(), width=160, markup=False, highlight=False)
    print_audit(console, result, **options)
    return console.file.getvalue()


def test_the_report_says_what_to_do_next_the_worst_first(result):
    text = printed(result)
    steps = text.split("what to do next\n")[1].splitlines()
    assert steps[0].startswith("1. keep one picture of each group of copies across splits, 2 in all (accuracy 0.")
    assert steps[1] == "2. decide on one label for each group of copies with two labels, 1 in all"
    assert "suspect labels, from the top" in steps[2]
    assert steps[-1].endswith("--csv audit.csv writes it")


def test_long_tables_are_cut_and_control_characters_escaped():
    truth = some_labels(240)
    given, _ = flipped(truth, 0.1)
    paths = [f"a\x1b[31m/{i}.png" for i in range(240)]
    samples = samples_of(given, X=samples_of(truth).X, paths=paths, classes=["cat", "d[bold]og", "emu", "f\nox"])
    text = printed(audit_of(samples).run())
    assert "\x1b" not in text
    assert "a\\x1b[31m/" in text
    assert "f\\nox" in text
    assert not [line for line in text.splitlines() if line.startswith("\\n")]
    assert "d[bold]og" in text
    n = int(text.split(" suspect labels")[0].rsplit("\n", 1)[1])
    assert n > 8
    assert f"... and {n - 8} more" in text


def test_a_clean_set_has_nothing_to_do():
    samples = samples_of(
        some_labels(80), X=6 * CENTRES[some_labels(80)] + np.random.default_rng(0).normal(size=(80, DIM))
    )
    text = printed(audit_of(samples).run())
    assert "no picture is a copy of another" in text
    assert "no label is suspect" in text
    assert text.strip().endswith("nothing to do: no fault was found")


@pytest.mark.parametrize(
    ("y", "splits", "note"),
    [
        ([-1] * 40, None, "no labels: labels, classes and folders need at least two classes"),
        ([0] * 40, None, "one class (cat): labels, classes and folders need at least two classes"),
        ([0, 1] * 20, [""] * 40, "there are no splits, without train and test: what copies do"),
        ([0, 1] * 20, ["all"] * 40, "the splits are all, without train and test"),
        ([0, 1] * 20, ["train"] * 20 + ["test"] * 20, "no picture of 'emu', 'fox': they are left out"),
        ([0, 1] * 19 + [1, 2], ["train"] * 20 + ["test"] * 20, "train has no picture of 'emu': the accuracy with"),
        ([0, 1] * 19 + [1, 2], ["train"] * 20 + ["test"] * 20, "1 picture could not be held out, being the only"),
        ([0, 1] * 20, ["train"] * 35 + ["test"] * 5, "train or test has too few pictures of its own"),
    ],
)
def test_what_cannot_be_looked_at_is_said(y, splits, note):
    result = audit_of(samples_of(y), splits).run()
    assert any(note in text for text in result["notes"]), result["notes"]
    assert f"note: {note}" in printed(result)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            ("train", "dev"),
            "'toys' has no split 'dev', its splits are: test, train; name two of these with --split-pair",
        ),
        (("train", "train"), "--split-pair compares two splits, got 'train' twice"),
    ],
)
def test_a_pair_of_splits_must_exist(pair, message):
    with pytest.raises(StoreError, match=message):
        audit_of(samples_of(some_labels(40))).run(pair)


def write(path, samples, splits, specs=(SPEC,)):
    n = len(samples)
    view = make_view(
        list(range(n)),
        classes=samples.classes,
        paths=list(samples.paths),
        digests=samples.digests,
        targets=samples.y,
        splits=splits,
    )
    _, first = np.unique(samples.digests, return_index=True)
    slabs = [(samples.digests[first], samples.X[first])]
    for spec in specs:
        feature = {
            "spec": spec,
            "provenance": [],
            "requests": [],
            "rows": len(first),
            "dim": DIM,
            "dtype": np.dtype("<f4"),
        }
        stage_block(path, new_run_id(), 1, block_image({**feature, "slabs": slabs}, view))
        publish(path, view, commands={spec.fingerprint: {}})
    return FeatureStore(path)


def test_the_verb(faulty, result, tmp_path):
    samples, _ = faulty
    write(tmp_path / "f.h5", samples, audit_of(samples).splits)
    done = penult("audit", "f.h5", "--json", "a.json", "--csv", "a.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "what to do next" in done.stdout
    assert done.stdout.strip().endswith("it is in a.csv")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["store"] == "f.h5"
    assert found["suspects"] == json.loads(json.dumps(result["suspects"]))
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [row["finding"] for row in rows]
    assert kinds.count("suspect label") == len(result["suspects"])
    assert (kinds.count("exact copy"), kinds.count("near copy")) == (2, 2)
    assert rows[0]["path"] == samples.paths[40]


def test_the_csv_goes_to_standard_output_too(result, tmp_path, capsys):
    write_audit_csv("-", result)
    write_audit_csv(str(tmp_path / "a.csv"), result)
    assert capsys.readouterr().out.splitlines() == (tmp_path / "a.csv").read_text().splitlines()


def test_the_verb_refuses_bad_input_in_a_sentence(tmp_path):
    samples = samples_of(some_labels(40))
    splits = np.array(["train", "test"] * 20)
    write(tmp_path / "two.h5", samples, splits, (SPEC, dataclasses.replace(SPEC, backbone="timm/test_vit")))
    for arguments, message in (
        (["no.h5"], "no.h5 does not exist"),
        (["two.h5"], "holds several features that fit"),
        (["two.h5", "--features", "layer9"], "holds no features 'layer9'"),
        (["two.h5", "--dataset", "dogs"], "holds no image set 'dogs', only toys"),
        (["two.h5", "--features", SPEC.fingerprint[:12], "--split-pair", "train", "val"], "has no split 'val'"),
    ):
        done = penult("audit", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert penult("audit", "two.h5", "--folds", "1").returncode == 2
