"""Corrected labels: what a CSV may say, what it does to what is read, and that the store stays as it was."""

import csv
import json

import numpy as np
import pytest
from conftest import penult
from paper import HOSTILE, make_store

from classify.artifact import load_head
from data.errors import ImageSetError, MissingFile
from data.relabel import COLUMNS, read_corrections
from data.store import FeatureStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("relabel"))


def write(path, rows, columns=COLUMNS):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def row_of(store, i, corrected):
    view = store.view()
    return [view.paths[i], view.digests[i].decode(), view.classes[view.targets[i]], corrected]


def test_a_correction_changes_what_is_read_and_nothing_else(store, tmp_path):
    before, content = store.load(), store.path.read_bytes()
    file = write(tmp_path / "c.csv", [row_of(store, 0, HOSTILE[0]), row_of(store, 5, "drop"), row_of(store, 6, "")])
    after = FeatureStore(store.path, read_corrections(file)).load()
    assert after.classes[after.y[0]] == HOSTILE[0] != before.classes[before.y[0]]
    kept = np.delete(np.arange(len(before)), 5)
    assert list(after.paths) == [before.paths[i] for i in kept]
    np.testing.assert_array_equal(after.X, before.X[kept])
    np.testing.assert_array_equal(after.y[1:], before.y[kept][1:])
    assert store.path.read_bytes() == content


def test_the_copies_of_a_picture_move_together(store, tmp_path):
    digests = store.view().digests
    twice = next(i for i, digest in enumerate(digests) if (digests == digest).sum() == 2)
    file = write(tmp_path / "c.csv", [row_of(store, twice, HOSTILE[2])])
    after = FeatureStore(store.path, read_corrections(file)).load()
    assert [after.classes[y] for y in after.y[digests == digests[twice]]] == [HOSTILE[2]] * 2


def test_drop_is_a_class_where_one_has_that_name(tmp_path):
    store = make_store(tmp_path, ("drop", "keep"))
    rows = [row_of(store, 3, "(drop)"), row_of(store, 20, "drop")]
    after = FeatureStore(store.path, read_corrections(write(tmp_path / "c.csv", rows))).load()
    assert len(after) == len(store.load()) - 1
    assert after.classes[after.y[list(after.paths).index(store.view().paths[20])]] == "drop"


def test_a_path_may_hold_what_python_takes_for_the_end_of_a_line(store, tmp_path):
    row = row_of(store, 0, HOSTILE[0])
    for path in ("a\x85b.png", "a\u2028b.png", "a\x0cb.png"):
        file = write(tmp_path / "c.csv", [[path, *row[1:]], row_of(store, 5, "drop")])
        assert read_corrections(file).names == {row[1]: HOSTILE[0], row_of(store, 5, "")[1]: "drop"}


def test_what_is_wrong_with_a_file_is_said_in_one_sentence(store, tmp_path):
    path = tmp_path / "c.csv"
    good = row_of(store, 0, HOSTILE[0])
    for rows, columns, message in (
        ([[good[0], good[1], good[2], "zebra"]], COLUMNS, "the class 'zebra', and 'paper' has only"),
        ([[good[0], "0" * 64, good[2], HOSTILE[0]]], COLUMNS, "corrects the picture 000000000000, which"),
        ([good, [*good[:3], HOSTILE[2]]], COLUMNS, "line 3: the picture .* is corrected to .* and above to"),
        ([[good[0], "abc", good[2], good[3]]], COLUMNS, "line 2: 'abc' is no digest of a picture"),
        ([good[:3]], COLUMNS, "line 2: 3 columns, and the first line has 4"),
        ([good], ("path", "sha", "label", "class"), "has the columns path, sha, label, class, and corrections need"),
    ):
        write(path, rows, columns)
        with pytest.raises(ImageSetError, match=message):
            FeatureStore(store.path, read_corrections(path)).load()
    path.write_text("")
    with pytest.raises(ImageSetError, match="has the columns none"):
        read_corrections(path)
    with pytest.raises(MissingFile, match="name the CSV of corrections that a report exported"):
        read_corrections(tmp_path / "no.csv")


def test_fit_says_what_was_corrected_and_the_head_remembers(store, tmp_path):
    file = write(
        tmp_path / "c.csv", [row_of(store, 0, HOSTILE[0]), row_of(store, 5, "drop"), row_of(store, 15, "drop")]
    )
    command = ("fit", store.path, "--head", "ridge", "-o", tmp_path / "r.head", "--relabel", file)
    done = penult(*command, "--json", tmp_path / "fit.json")
    assert done.returncode == 0, done.stderr
    assert "labels corrected before: 1, pictures left out: 1; the store is unchanged" in done.stdout
    result = json.loads((tmp_path / "fit.json").read_text())
    assert {key: result["corrections"][key] for key in ("relabelled", "dropped")} == {"relabelled": 1, "dropped": 1}
    head = load_head(tmp_path / "r.head")
    assert head.info["trained_on"]["corrections"] == result["corrections"]
    assert head.info["trained_on"]["n"] == result["n_train"] == len(store.load("train")) - 1


def test_without_corrections_a_head_is_what_it_always_was(store, tmp_path):
    assert penult("fit", store.path, "--head", "ridge", "-o", tmp_path / "r.head").returncode == 0
    assert "corrections" not in load_head(tmp_path / "r.head").info["trained_on"]


def test_audit_looks_at_corrected_labels_and_not_at_what_is_dropped(store, tmp_path):
    wrong, view = "0/<b>00.png", store.view()
    file = write(tmp_path / "c.csv", [row_of(store, 0, HOSTILE[0]), row_of(store, 5, "drop")])
    audits = []
    for more in ((), ("--relabel", file)):
        done = penult("audit", store.path, "--head", "ridge", "--json", tmp_path / "a.json", *more)
        assert done.returncode == 0, done.stderr
        audits.append(json.loads((tmp_path / "a.json").read_text()))
    before, after = audits
    assert [wrong in {row["path"] for row in audit["suspects"]} for audit in audits] == [True, False]
    assert (before["n"], after["n"]) == (len(view.paths), len(view.paths) - 1)
    assert after["splits"] == {**before["splits"], "train": before["splits"]["train"] - 1}


def test_eval_measures_with_corrected_labels(store, tmp_path):
    assert penult("fit", store.path, "--head", "ridge", "-o", tmp_path / "r.head").returncode == 0
    view = store.view()
    test = np.flatnonzero(view.splits == "test")
    file = write(tmp_path / "c.csv", [row_of(store, int(i), "drop") for i in test[:3]])
    penult("eval", tmp_path / "r.head", store.path, "--relabel", file, "--json", tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text())["n"] == len(test) - 3
