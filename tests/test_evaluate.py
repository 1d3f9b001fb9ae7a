import dataclasses
import io
import json

import numpy as np
import pytest
from conftest import SPEC, digest_of, make_view
from rich.console import Console
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)
from sklearn.metrics import log_loss as sklearn_log_loss

from classify.artifact import load_head, save_head
from classify.evaluate import compare_pairs, evaluate, measure
from classify.report import print_evaluation
from classify.selection import train
from data.errors import FingerprintMismatch, HeadError, StoreError
from data.layout import block_image
from data.publish import publish
from data.reading import Located
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.store import FeatureStore

CLASSES = ["cat", "dog", "emu"]
SIZES = {"train": 60, "val": 45, "test": 90}
CENTRES = {name: np.random.default_rng(i).normal(size=6) * 0.6 for i, name in enumerate([*CLASSES, "fox"])}


def write_store(path, sizes, classes=CLASSES, *, spec=SPEC, first=0, present=None, unlabelled=0, name="toys"):
    """Write a store of overlapping classes; of the last split the last pictures have no label."""
    n = sum(sizes.values())
    rng = np.random.default_rng(first + 7)
    names = list(present or classes)
    labels = [
        names[i] for i in rng.choice(len(names), size=n, p=np.arange(len(names), 0, -1) / sum(range(len(names) + 1)))
    ]
    X = np.stack([CENTRES[label] + rng.normal(size=6) for label in labels]).astype(np.float32)
    targets = np.array([classes.index(label) for label in labels], dtype=np.int32)
    if unlabelled:
        targets[-unlabelled:] = -1
    digests = np.array([digest_of(first + i) for i in range(n)], dtype="S64")
    splits = np.array([split for split, count in sizes.items() for _ in range(count)], dtype=np.str_)
    view = make_view(list(range(n)), name=name, classes=classes, digests=digests, targets=targets, splits=splits)
    features = {"spec": spec, "provenance": [], "requests": [], "rows": n, "dim": 6, "dtype": X.dtype}
    stage_block(path, new_run_id(), 1, block_image({**features, "slabs": [(digests, X)]}, view))
    publish(path, view, commands={spec.fingerprint: {}})
    return FeatureStore(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def store(folder):
    return write_store(folder / "features.h5", SIZES)


def head_of(folder, store, name, kind="lr", split="train", **changes):
    samples = store.load(split)
    save_head(folder / name, train(kind, samples, **changes), samples, request={}, weights_file="")
    return load_head(folder / name)


@pytest.fixture(scope="module")
def heads(folder, store):
    fixed = {"tune": "none"}
    return [
        head_of(folder, store, "lr.head", **fixed),
        head_of(folder, store, "bad.head", "knn", params={"k": 1}, **fixed),
        head_of(folder, store, "centroid.head", "centroid", **fixed),
    ]


@pytest.fixture(scope="module")
def truth(store):
    return store.load("test")


def test_the_figures_equal_scikit_learn(store, heads, truth):
    result = evaluate(heads, store)
    assert (result.split, result.n, result.classes) == ("test", 90, CLASSES)
    by_name = {head.name: head for head in heads}
    for scores in result.heads:
        probabilities = by_name[scores.head].predict_proba(truth.X)
        answers = probabilities.argmax(axis=1)
        assert scores.accuracy == pytest.approx(accuracy_score(truth.y, answers))
        assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth.y, answers))
        assert scores.macro_f1 == pytest.approx(f1_score(truth.y, answers, average="macro"))
        assert scores.log_loss == pytest.approx(sklearn_log_loss(truth.y, probabilities))
        assert scores.confusion_matrix == confusion_matrix(truth.y, answers).tolist()
        per_class = zip(*precision_recall_fscore_support(truth.y, answers, zero_division=np.nan), strict=True)
        for row, name, (precision, recall, f1, support) in zip(scores.per_class, CLASSES, per_class, strict=True):
            assert row == {
                "class": name,
                "precision": None if np.isnan(precision) else pytest.approx(precision),
                "recall": pytest.approx(recall),
                "f1": pytest.approx(f1),
                "support": support,
            }
        assert (scores.correct == (answers == truth.y)).all()


def test_a_class_that_never_occurs_has_null_figures_and_counts_for_nothing(folder, heads):
    store = write_store(folder / "no-emu.h5", {"test": 60}, first=1000, present=["cat", "dog"])
    lr = evaluate(heads[:1], store).heads[0]
    samples = store.load("test")
    answers = heads[0].predict_proba(samples.X).argmax(axis=1)
    emu = lr.per_class[2]
    assert emu["support"] == 0
    assert emu["recall"] is None
    seen = [recall for row in lr.per_class if (recall := row["recall"]) is not None]
    assert lr.balanced_accuracy == pytest.approx(np.mean(seen))
    assert lr.macro_f1 == pytest.approx(f1_score(samples.y, answers, average="macro", zero_division=0))


def test_every_interval_covers_its_estimate(store, heads):
    for scores in evaluate(heads, store).heads:
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"):
            low, high = getattr(scores, f"{name}_ci95")
            assert low < getattr(scores, name) < high, name


def test_the_intervals_depend_on_the_seed_alone(store, heads):
    first, again, other = (evaluate(heads, store, seed=seed) for seed in (0, 0, 1))
    assert first.as_json() == again.as_json()
    assert first.heads[0].macro_f1_ci95 != other.heads[0].macro_f1_ci95
    assert first.heads[0].macro_f1 == other.heads[0].macro_f1


def test_the_intervals_agree_with_a_naive_bootstrap(store, heads, truth):
    scores = evaluate(heads[:1], store).heads[0]
    probabilities = heads[0].predict_proba(truth.X)
    answers = probabilities.argmax(axis=1)
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(1500):
        rows = rng.integers(0, 90, size=90)
        y, p = truth.y[rows], answers[rows]
        confusion = np.zeros((3, 3))
        np.add.at(confusion, (y, p), 1)
        right, support, answered = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        f1 = 2 * right / (support + answered)
        loss = -np.log(probabilities[rows, y]).mean()
        drawn.append(((right / support).mean(), f1.mean(), loss))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    for i, name in enumerate(("balanced_accuracy", "macro_f1", "log_loss")):
        # the ends of an interval from 1,500 draws wander by a few hundredths of its width
        tolerance = 0.12 * (high[i] - low[i])
        assert getattr(scores, f"{name}_ci95") == pytest.approx((low[i], high[i]), abs=tolerance), name


def test_heads_are_ranked_by_accuracy_and_then_by_log_loss(store, heads):
    sloppy = dataclasses.replace(heads[0], name="sloppy.head", head=train("lr", store.load("train"), tune="none").head)
    sloppy.head.scale_ = 0.05  # the same answers, far too unsure
    result = evaluate([sloppy, *heads], store)
    keys = [(-s.accuracy, s.log_loss) for s in result.heads]
    assert keys == sorted(keys)
    names = [s.head for s in result.heads]
    assert names.index(heads[0].name) + 1 == names.index("sloppy.head")
    assert [(p.a, p.b) for p in result.pairs][:3] == [(names[0], names[i]) for i in (1, 2, 3)]
    assert len(result.pairs) == 6


def scores_of(store, heads, name, correct):
    return dataclasses.replace(evaluate(heads[:1], store).heads[0], head=name, correct=np.asarray(correct, dtype=bool))


def test_a_difference_is_claimed_only_where_the_corrected_p_value_is_small(store, heads):
    n = 200
    best, same, worse = np.ones(n, bool), np.ones(n, bool), np.ones(n, bool)
    same[:3] = False
    worse[100:107] = False
    results = [scores_of(store, heads, name, c) for name, c in (("best", best), ("same", same), ("worse", worse))]
    pairs = {(p.a, p.b): p for p in compare_pairs(results)}
    assert pairs["best", "worse"].p_value == pytest.approx(2 / 2**7)
    assert pairs["best", "worse"].p_holm == pytest.approx(3 * 2 / 2**7)
    assert pairs["best", "worse"].verdict == "best is better"
    assert pairs["best", "same"].verdict == "tie at n = 200"
    assert pairs["same", "worse"].verdict == "tie at n = 200"


def test_a_small_p_value_that_the_correction_enlarges_is_a_tie(store, heads):
    best, other = np.ones(50, bool), np.ones(50, bool)
    other[:6] = False
    alone = compare_pairs([scores_of(store, heads, "a", best), scores_of(store, heads, "b", other)])
    assert alone[0].verdict == "a is better"
    three = compare_pairs([scores_of(store, heads, name, c) for name, c in (("a", best), ("b", other), ("c", best))])
    assert three[0].p_value == alone[0].p_value < 0.05
    assert {p.verdict for p in three} == {"tie at n = 50"}


def test_the_better_of_a_pair_is_named_whatever_their_order(store, heads):
    worse, best = np.zeros(50, bool), np.ones(50, bool)
    (pair,) = compare_pairs([scores_of(store, heads, "worse", worse), scores_of(store, heads, "best", best)])
    assert pair.verdict == "best is better"


def test_one_head_has_no_pairs(store, heads):
    assert evaluate(heads[:1], store).pairs == []


def test_verdicts_follow_the_p_values_on_real_heads(store, heads):
    for pair in evaluate(heads, store).pairs:
        assert pair.p_holm >= pair.p_value
        assert (pair.verdict == "tie at n = 90") == (pair.p_holm >= 0.05)


def test_val_that_chose_is_said_to_flatter(folder, store):
    tuned = head_of(folder, store, "val.head", "knn", tune="val", val=store.load("val"))
    assert evaluate([tuned], store, "val").heads[0].notes == [
        "val helped to choose its regularisation: its figures flatter"
    ]
    assert evaluate([tuned], store, "test").heads[0].notes == []


def test_pictures_that_were_trained_on_are_counted(folder, store, heads):
    notes = evaluate(heads[:1], store, "train").heads[0].notes
    assert notes == ["60 of these 60 pictures were in its training set, exactly: its figures flatter"]
    # another image set with the same features, 10 of whose 30 test pictures are copies of training pictures
    overlap = write_store(folder / "overlap.h5", {"test": 30}, first=50)
    notes = evaluate(heads[:1], overlap).heads[0].notes
    assert notes == ["10 of these 30 pictures were in its training set, exactly: its figures flatter"]
    assert evaluate(heads[:1], store, "test").heads[0].notes == []


def test_val_stands_in_for_a_missing_test_and_says_so(folder, heads):
    store = write_store(folder / "no-test.h5", {"train": 10, "val": 30}, first=2000)
    result = evaluate(heads[:1], store)
    assert result.split == "val"
    assert result.notes == ["there is no test split: this is val"]


def test_a_split_that_does_not_exist_is_refused(store, heads):
    with pytest.raises(StoreError, match=r"has no split 'tset', its splits are: test, train, val; "):
        evaluate(heads, store, "tset")


def test_unlabelled_pictures_are_left_out(folder, heads):
    store = write_store(folder / "some.h5", {"test": 40}, first=3000, unlabelled=15)
    assert evaluate(heads, store).n == 25


def test_a_split_without_labels_is_refused(folder, heads):
    store = write_store(folder / "none.h5", {"test": 10}, first=4000, unlabelled=10)
    with pytest.raises(HeadError, match=r"^no picture of split 'test' has a label: nothing can be measured on it$"):
        evaluate(heads, store)


def test_a_class_that_the_head_does_not_know_is_refused(folder, heads):
    store = write_store(folder / "fox.h5", {"test": 40}, [*CLASSES, "fox"], first=5000)
    message = (
        r"/lr\.head tells cat, dog, emu apart, split 'test' of 'toys' has fox: "
        r"name a head for these classes, or a store with the head's$"
    )
    with pytest.raises(HeadError, match=message):
        evaluate(heads, store)


def test_a_strange_class_without_pictures_in_the_split_is_no_matter(folder, heads):
    store = write_store(folder / "foxless.h5", {"test": 40}, ["fox", *CLASSES], first=6000, present=CLASSES)
    assert evaluate(heads, store).classes == CLASSES


def test_heads_for_different_classes_are_not_compared(folder, store, heads):
    pair = write_store(folder / "pair.h5", {"train": 30, "test": 10}, ["cat", "dog"], first=7000)
    other = head_of(folder, pair, "pair.head", tune="none")
    message = r"/pair\.head tells cat, dog apart and .*/lr\.head cat, dog, emu: heads can be compared"
    with pytest.raises(HeadError, match=message):
        evaluate([heads[0], other], store)


def test_features_of_another_network_are_refused_field_by_field(folder, heads):
    other = FeatureSpec("torchvision/resnet18", SPEC.weights, resize=300)
    store = write_store(folder / "other.h5", {"test": 20}, spec=other)
    message = (
        r"other\.h5 holds torchvision/resnet18/penultimate, head .*/lr\.head wants timm/test_resnet/penultimate; "
        r"they differ in backbone: torchvision/resnet18, not timm/test_resnet; resize: 300, not 256: "
    )
    with pytest.raises(FingerprintMismatch, match=message):
        evaluate(heads, store)


def test_classes_are_matched_by_name_and_not_by_number(folder, heads):
    # the same pictures, first under one order of the classes and then under another
    straight = write_store(folder / "straight.h5", {"test": 50}, CLASSES, first=8000, present=CLASSES)
    shuffled = write_store(folder / "shuffled.h5", {"test": 50}, ["emu", "cat", "dog"], first=8000, present=CLASSES)
    assert (straight.load("test").y != shuffled.load("test").y).any()
    assert evaluate(heads, straight).as_json() == evaluate(heads, shuffled).as_json()


def test_heads_with_their_classes_in_another_order_are_compared_by_name(folder, store, heads):
    order = ["emu", "cat", "dog"]
    samples = store.load("train")
    renumbered = dataclasses.replace(samples, classes=order, y=np.array([1, 2, 0], dtype=np.int32)[samples.y])
    save_head(
        folder / "turned.head", train("centroid", renumbered, tune="none"), renumbered, request={}, weights_file=""
    )
    turned = load_head(folder / "turned.head")
    assert turned.classes == order
    result = evaluate([heads[2], turned], store)
    assert result.heads[0].confusion_matrix == result.heads[1].confusion_matrix
    assert result.pairs[0].p_value == 1.0
    assert evaluate([turned], store).classes == order


def test_the_result_is_json_with_the_keys_of_the_contract(store, heads):
    result = json.loads(json.dumps(evaluate(heads, store).as_json(), allow_nan=False))
    assert {"split", "n", "classes", "heads", "pairs"} <= set(result)
    keys = {"head", "kind", "accuracy", "accuracy_ci95", "balanced_accuracy", "macro_f1", "log_loss", "ece"}
    for scores in result["heads"]:
        assert keys | {"per_class", "confusion_matrix"} <= set(scores)
        assert len(scores["accuracy_ci95"]) == 2
    for pair in result["pairs"]:
        assert {"a", "b", "p_value", "verdict"} <= set(pair)


@pytest.mark.parametrize("width", [64, 80, 200])
def test_every_figure_stands_whole_on_a_terminal_of_any_width(store, heads, width):
    result = evaluate(heads, store, "test")
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_evaluation(console, result)
    lines = console.file.getvalue().splitlines()
    for rank, scores in enumerate(result.heads, 1):
        row = next(line for line in lines if line.startswith(f"{rank}  "))
        for value in (scores.accuracy, scores.balanced_accuracy, scores.macro_f1, scores.log_loss, scores.ece):
            assert f"{value:.3f}" in row
        assert "[{:.3f}, {:.3f}]".format(*scores.accuracy_ci95) in row
        assert ("[{:.3f}, {:.3f}]".format(*scores.log_loss_ci95) in row) == (width == 200)
    assert any("in a wider terminal" in line for line in lines) == (width < 200)


def test_the_order_in_which_heads_are_named_changes_nothing(store, heads):
    assert evaluate(heads, store).as_json() == evaluate(heads[::-1], store).as_json()


def test_pairs_come_with_the_paired_bootstrap_of_the_other_scores(store, heads):
    result = evaluate(heads, store)
    by_name = {s.head: s for s in result.heads}
    for pair in result.pairs:
        assert list(pair.bootstrap) == ["balanced_accuracy", "macro_f1", "log_loss"]
        for name, found in pair.bootstrap.items():
            want = getattr(by_name[pair.a], name) - getattr(by_name[pair.b], name)
            assert found["difference"] == pytest.approx(want)
            assert found["ci95"][0] <= want <= found["ci95"][1]
            assert 0 < found["p_value"] <= found["p_holm"] <= 1


def test_a_split_that_is_read_in_blocks_has_the_same_figures(folder):
    store = write_store(folder / "many.h5", {"train": 60, "test": 5000}, first=20_000)
    heads = [head_of(folder, store, f"{kind}.many", kind, tune="none") for kind in ("lr", "knn", "bayes", "mlp")]
    at_once, in_blocks = (evaluate(heads, store, memory=memory).as_json() for memory in (1 << 31, 0))
    assert at_once == in_blocks
    samples = store.load("test")
    assert np.array_equal(measure(heads[0], samples, CLASSES).probabilities, heads[0].predict_proba(samples.X))


def test_heads_on_the_same_features_share_what_is_read(store, heads, monkeypatch):
    read, plain = [], Located.read
    monkeypatch.setattr(Located, "read", lambda self, which: (read.append(which), plain(self, which))[1])
    for memory in (1 << 31, 0):
        read.clear()
        together = evaluate(heads, store, memory=memory)
        assert len(read) == 1
    assert [s.head for s in together.heads] == [s.head for s in evaluate(heads[::-1], store).heads]
