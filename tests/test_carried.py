"""Heads in a bundle: folded into projected features or fitted anew, on the labels that they were fitted on."""

import csv
import dataclasses
import json

import pytest
from conftest import penult
from paper import HOSTILE, make_store

from classify.artifact import load_head
from classify.carried import calibration_of, rule_of
from data.relabel import COLUMNS
from data.store import FeatureStore

KINDS = ("knn", "lr")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a store, corrections of it, and heads that were fitted with them."""
    folder = tmp_path_factory.mktemp("carried")
    view = make_store(folder).view()
    rows = [(view.paths[i], view.digests[i].decode(), "", name) for i, name in ((0, HOSTILE[0]), (5, "drop"))]
    with open(folder / "c.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    for kind in KINDS:
        fit = ("fit", "features.h5", "--head", kind, "-o", f"{kind}.head", "--relabel", "c.csv")
        assert penult(*fit, cwd=folder).returncode == 0
    return folder


def pack(*arguments, cwd):
    return penult("pack", "features.h5", *arguments, "--without", "models", "thumbnails", cwd=cwd)


def test_a_head_is_fitted_anew_on_the_corrected_labels_that_it_was_fitted_on(work, tmp_path):
    done = pack("knn.head", "lr.head", "-o", tmp_path / "b", "--pca", "4", "--relabel", "c.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    fit = ("fit", tmp_path / "b", "--head", "knn", "-o", tmp_path / "knn.head", "--relabel", work / "c.csv")
    assert penult(*fit).returncode == 0
    packed, fitted = load_head(tmp_path / "b" / "heads" / "knn.head"), load_head(tmp_path / "knn.head")
    X = FeatureStore(tmp_path / "b").load("test").X
    assert (packed.predict_proba(X) == fitted.predict_proba(X)).all()
    assert packed.info["trained_on"] == load_head(work / "knn.head").info["trained_on"]
    info = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert info["notes"] == ["measured on the labels that c.csv corrects"]
    assert "--relabel c.csv" in info["made"]["command"]


def test_a_head_is_not_fitted_anew_on_other_labels_than_it_was(work, tmp_path):
    (tmp_path / "d.csv").write_text((work / "c.csv").read_text().replace("drop", ""))
    for more, words in (((), "and none are given"), (("--relabel", tmp_path / "d.csv"), "d.csv, and --pca")):
        done = pack("knn.head", "-o", tmp_path / "b", "--pca", "4", *more, cwd=work)
        assert done.returncode == 1
        assert "knn.head was fitted with corrected labels (a CSV of SHA-256 " in done.stderr
        assert words in done.stderr
        assert done.stderr.endswith("name the same CSV with --relabel, or leave out --pca\n")
        assert not (tmp_path / "b").exists()


def test_what_needs_no_labels_is_packed_without_the_corrections(work, tmp_path):
    done = pack("lr.head", "-o", tmp_path / "b", "--pca", "4", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "note: lr was fitted with corrected labels: with --relabel it is measured on them" in done.stdout


def test_what_would_be_left_out_anyway_is_wrong_usage(work, tmp_path):
    for part, option in (("thumbnails", ("--thumbnails", "5MB")), ("models", ("--weights", "w.pth"))):
        done = penult("pack", "features.h5", "-o", tmp_path / "b", "--without", part, *option, cwd=work)
        assert (done.returncode, (tmp_path / "b").exists()) == (2, False)
        assert f"{option[0]} is of {part}, and --without {part} leaves them out" in done.stderr


@pytest.mark.parametrize("calibration", ["temperature", "platt", "none"])
def test_a_head_names_its_rule_and_calibration_and_an_older_one_is_read_by_what_came_of_them(
    work, tmp_path, calibration
):
    options = ("--rule", "one-se", "--calibrate", calibration)
    fit = ("fit", work / "features.h5", "--head", "lr", "-o", tmp_path / "lr.head", *options)
    assert penult(*fit).returncode == 0
    head = load_head(tmp_path / "lr.head")
    assert (rule_of(head), calibration_of(head)) == ("one-se", calibration)
    selection = {key: value for key, value in head.info["selection"].items() if key not in ("rule", "calibration")}
    older = dataclasses.replace(head, info={**head.info, "selection": selection})
    assert calibration_of(older) == calibration


def test_a_rule_that_made_no_difference_is_remembered_too(work, tmp_path):
    fit = ("fit", work / "features.h5", "--head", "lr", "--param", "C=0.01", "--rule", "one-se")
    assert penult(*fit, "-o", tmp_path / "lr.head").returncode == 0
    assert rule_of(load_head(tmp_path / "lr.head")) == "one-se"
