"""`compare` on stores of overlapping classes: what is ranked, what is tested and what is said."""

import dataclasses
import io
import json

import numpy as np
import pytest
from conftest import SPEC, digest_of, make_view, penult
from PIL import Image
from rich.console import Console

from classify.artifact import load_head
from classify.compare import compare
from classify.compare_report import conclusions, print_ranking
from classify.evaluate import evaluate
from classify.sources import find_sources
from data.errors import HeadError, StoreError
from data.layout import block_image
from data.publish import publish
from data.spec import FeatureSpec
from data.staging import new_run_id, stage_block
from data.store import FeatureStore

CLASSES = ["cat", "dog", "emu"]
CENTRES = np.random.default_rng(5).normal(size=(3, 6))
DEEP = FeatureSpec("timm/test_resnet", SPEC.weights, layer="deep")
FLIP = FeatureSpec("timm/test_resnet", SPEC.weights, layer="deep", view="flip")
SIZES = {"train": 60, "test": 90}


def write(path, specs, *, sizes=SIZES, name="toys", first=0, order=None, only=None):
    """Write a store: the later a spec comes, the better its features tell the classes apart."""
    n = sum(sizes.values())
    rng = np.random.default_rng(first)
    targets = rng.integers(0, 3, size=n).astype(np.int32)
    digests = np.array([digest_of(first + i) for i in range(n)], dtype="S64")
    splits = np.array([split for split, count in sizes.items() for _ in range(count)], dtype=np.str_)
    noise = rng.normal(size=(n, 6))
    rows = np.arange(n) if order is None else order
    view = make_view(
        list(range(n)), name=name, classes=CLASSES, digests=digests[rows], targets=targets[rows], splits=splits[rows]
    )
    for i, spec in enumerate(specs):
        X = ((0.5 + i) * CENTRES[targets] + noise).astype(np.float32)[rows]
        run = {"run": "r", "engine": "onnx/cpu", **({"seconds": 3.0, "pictures": n} if i else {})}
        features = {"spec": spec, "provenance": [run], "requests": [], "rows": n}
        slabs = [(digests[rows], X)]
        stage_block(path, new_run_id(), i, block_image({**features, "dim": 6, "dtype": X.dtype, "slabs": slabs}, view))
    publish(path, view, commands={spec.fingerprint: {"backbone": "test_resnet"} for spec in specs})
    return FeatureStore(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def store(folder):
    return write(folder / "f.h5", [SPEC, DEEP])


@pytest.fixture(scope="module")
def ranking(store):
    (ranking,) = compare([store], ["lr", "centroid"])
    return ranking


def test_every_head_is_measured_on_every_feature_and_the_best_comes_first(ranking):
    assert (ranking.dataset, ranking.split, ranking.n, ranking.classes) == ("toys", "test", 90, CLASSES)
    assert {(e.kind, e.features) for e in ranking.entries} == {
        (kind, spec.title) for kind in ("lr", "centroid") for spec in (SPEC, DEEP)
    }
    keys = [(-e.scores.accuracy, e.scores.log_loss) for e in ranking.entries]
    assert keys == sorted(keys)
    assert ranking.entries[0].features == DEEP.title
    for entry in ranking.entries:
        assert entry.fit_seconds > 0
        assert entry.predict_microseconds > 0
        assert entry.head_bytes > 200
        assert (entry.feature_bytes, entry.n_train, entry.engines) == (24, 60, ["onnx/cpu"])
        # the store does not say it of the first, as one of before
        assert entry.extract_milliseconds == (20.0 if entry.features == DEEP.title else None)


def test_the_figures_are_those_of_fit_and_eval(folder, store):
    rankings = compare([store], ["lr", "centroid"], features=["deep"], save=folder / "heads")
    entries = {e.file: e for e in rankings[0].entries}
    result = evaluate([load_head(file) for file in map(type(folder), entries)], store)
    for scores in result.heads:
        ours = entries[scores.head].scores
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece", "accuracy_ci95"):
            assert getattr(ours, name) == pytest.approx(getattr(scores, name))
        assert entries[scores.head].head_bytes == (folder / "heads" / scores.head).stat().st_size
    assert rankings[0].pairs[0].p_value == result.pairs[0].p_value


def test_all_are_tested_against_the_best_and_ties_are_marked(ranking):
    best, *others = ranking.entries
    assert [(pair.a, pair.b) for pair in ranking.pairs] == [(best.name, other.name) for other in others]
    assert best.tie
    for other, pair in zip(others, ranking.pairs, strict=True):
        assert other.tie == (pair.p_holm >= 0.05)
        assert pair.p_holm >= pair.p_value
    # the shallow features are far worse than the deep ones
    assert {e.features for e in ranking.entries if e.tie} == {DEEP.title}


def test_the_order_and_number_of_stores_change_nothing(folder, store, ranking):
    # the same pictures in another order and the classes' features in another store
    mixed = np.random.default_rng(0).permutation(150)
    again = write(folder / "again.h5", [SPEC, DEEP], order=mixed)
    (both,) = compare([store, again], ["lr", "centroid"])
    assert len(both.entries) == len(ranking.entries)
    assert f"{again.path} holds the same {DEEP.title} again" in both.notes
    (apart,) = compare([again], ["lr", "centroid"])
    got = {(e.kind, e.features): e.scores.accuracy for e in apart.entries}
    for entry in ranking.entries:  # other folds may choose another C
        assert got[entry.kind, entry.features] == pytest.approx(entry.scores.accuracy, abs=0.05)


def test_extractions_of_one_image_set_share_a_ranking_and_other_sets_get_their_own(folder):
    one = write(folder / "one.h5", [SPEC])
    two = write(folder / "two.h5", [DEEP], order=np.random.default_rng(0).permutation(150))
    other = write(folder / "other.h5", [SPEC], name="games", first=5000)
    rankings = compare([one, two, other], ["centroid"])
    assert [(r.dataset, len(r.entries)) for r in rankings] == [("toys", 2), ("games", 1)]
    assert {e.store for e in rankings[0].entries} == {str(one.path), str(two.path)}
    assert (rankings[1].pairs, rankings[1].separation, rankings[1].entries[0].tie) == ([], None, True)
    assert conclusions(rankings[1]) == []
    assert [r.dataset for r in compare([one, other], ["centroid"], dataset="games")] == ["games"]


def test_of_several_views_the_centre_stands_for_them_unless_another_is_named(folder):
    store = write(folder / "views.h5", [DEEP, FLIP])
    assert [s.info.spec for s in find_sources([store])] == [DEEP]
    assert {s.info.spec.view for s in find_sources([store], ["deep"])} == {"center", "flip"}
    assert [s.info.spec for s in find_sources([store], [FLIP.fingerprint[:10]])] == [FLIP]


def test_names_tell_apart_what_titles_do_not(folder):
    other = FeatureSpec("timm/test_resnet", SPEC.weights, resize=300)
    store = write(folder / "resized.h5", [SPEC, other])
    names = [e.name for e in compare([store], ["centroid"])[0].entries]
    assert sorted(names) == sorted(f"centroid on {s.title[5:]} ({s.fingerprint[:8]})" for s in (SPEC, other))


def test_features_and_image_sets_that_are_not_there_are_refused(folder, store):
    with pytest.raises(StoreError, match=r"f\.h5 holds no features 'vgg', only timm/test_resnet/penultimate \("):
        compare([store], ["lr"], features=["vgg"])
    with pytest.raises(StoreError, match=r"no features of every picture of the image set 'x'; image sets: toys"):
        compare([store], ["lr"], dataset="x")
    with pytest.raises(StoreError, match=r"has no split 'tset'"):
        compare([store], ["lr"], on="tset")
    with pytest.raises(HeadError, match=r"no head could be fitted; not fitted: tree on .*: no head 'tree'"):
        compare([store], ["tree"])


def test_a_head_that_cannot_be_fitted_costs_no_other(store):
    (ranking,) = compare([store], ["tree", "centroid"], features=["deep"])
    assert [e.kind for e in ranking.entries] == ["centroid"]
    assert any(note.startswith(f"not fitted: tree on {DEEP.title}: no head 'tree'") for note in ranking.notes)


def test_the_conclusions_say_what_would_separate_the_two_best(ranking):
    group, separate, optimism = conclusions(ranking)
    assert group == (
        "1 of the 3 others cannot be told from the best (McNemar's exact test, Holm's correction over 3 pairs)."
    )
    assert "test pictures" in separate
    assert "optimistic by about 0.0" in optimism
    equal = dataclasses.replace(
        ranking,
        separation=dataclasses.replace(ranking.separation, difference=0.0, discordant=0.0, pictures=None),
    )
    assert conclusions(equal)[1] == (
        "No number of test pictures would separate the two best: here they are equal. "
        "They are right and wrong on the same pictures."
    )


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal_gets_the_costs_in_a_table_of_their_own(ranking, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_ranking(console, ranking)
    text = console.file.getvalue()
    assert "\u2026" not in text  # where rich cuts a cell
    titles = [line for line in text.splitlines() if "head on features" in line]
    assert [("accuracy" in line, "predict" in line) for line in titles] == (
        [(True, False), (False, True)] if width == 80 else [(True, True)]
    )
    for entry in ranking.entries:
        for figure in (f"{entry.scores.log_loss:.3f}", f"{entry.predict_microseconds:.3g} us"):
            assert figure in text


def test_val_stands_in_for_test_and_says_so(folder):
    store = write(folder / "val.h5", [DEEP], sizes={"train": 40, "val": 30}, first=9000)
    (ranking,) = compare([store], ["centroid"])
    assert ranking.split == "val"
    assert ranking.notes[0] == "there is no test split: this is val"


def test_the_command_prints_a_ranking_and_writes_json_heads_and_a_chart(folder, store):
    done = penult(
        "compare", "f.h5", "--heads", "lr", "centroid", "--features", "deep", "--save", "kept", "--png", "r.png",
        "--json", "r.json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "toys, test: 90 pictures, 3 classes on test_resnet/deep; accuracy" in done.stdout
    assert "80% power" in done.stdout or "No number of test pictures" in done.stdout
    assert "wrote 2 heads to kept" in done.stdout
    result = json.loads((folder / "r.json").read_text())
    (ranking,) = result["rankings"]
    assert {"accuracy", "accuracy_ci95", "log_loss", "ece", "fit_seconds", "head_bytes"} <= set(ranking["heads"][0])
    assert {"a", "b", "p_value", "verdict", "bootstrap"} <= set(ranking["pairs"][0])
    assert set(ranking["separation"]) == {"difference", "discordant", "pictures", "detectable"}
    assert len(list((folder / "kept").glob("*.head"))) == 2
    with Image.open(folder / "r.png") as picture:
        assert picture.size == (1200, 800)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3"], "--epochs belongs to --strategies: name that too"),
        (["--colors", "gray"], "--colors belongs to --strategies: name that too"),
        (["--strategies", "lr", "--heads", "svm"], "--heads is for heads alone: leave it out"),
        (["--strategies", "--memory", "2GB"], "--memory is for heads alone: leave it out"),
    ],
)
def test_options_of_the_other_half_are_refused(options, message):
    done = penult("compare", "f.h5", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_wrong_usage_of_the_command_exits_2(folder):
    for arguments in (["f.h5", "--heads", "tree"], ["f.h5", "--png", "r.jpg"], []):
        assert penult("compare", *arguments, cwd=folder).returncode == 2
    assert "no.h5 does not exist" in penult("compare", "no.h5", cwd=folder).stderr


def test_little_memory_reads_in_blocks_and_leaves_out_heads_that_cannot(store, ranking):
    (small,) = compare([store], ["lr", "centroid"], memory=1000)
    assert {e.kind for e in small.entries} == {"lr"}
    assert sum("not fitted: centroid" in note and "1.0 kB" in note for note in small.notes) == 2
    whole = {e.features: e.scores for e in ranking.entries if e.kind == "lr"}
    for entry in small.entries:
        np.testing.assert_array_equal(entry.scores.correct, whole[entry.features].correct)
        assert entry.scores.log_loss == pytest.approx(whole[entry.features].log_loss, abs=1e-4)
