"""Heads in a bundle: folded into projected features or fitted anew, on the labels that they were fitted on."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from bundles import PLAIN, load, refused
from conftest import penult
from paper import HOSTILE, make_store

from classify.artifact import load_head
from classify.carried import calibration_of, rule_of
from data.bundle import read_bundle
from data.relabel import COLUMNS
from data.store import FeatureStore
from extract.components import components_file
from extract.projection import load_pca


@pytest.fixture(scope="module")
def relabelled(tmp_path_factory):
    """A folder with a store, corrections of it, and heads that were fitted with them."""
    folder = tmp_path_factory.mktemp("carried")
    view = make_store(folder).view()
    rows = [(view.paths[i], view.digests[i].decode(), "", name) for i, name in ((0, HOSTILE[0]), (5, "drop"))]
    with open(folder / "c.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    for kind in ("knn", "lr"):
        fit = ("fit", "features.h5", "--head", kind, "-o", f"{kind}.head", "--relabel", "c.csv")
        assert penult(*fit, cwd=folder).returncode == 0
    return folder


def pack(*arguments, cwd):
    return penult("pack", "features.h5", *arguments, "--without", "models", "thumbnails", cwd=cwd)


def test_a_head_is_fitted_anew_on_the_corrected_labels_that_it_was_fitted_on(relabelled, tmp_path):
    done = pack("knn.head", "lr.head", "-o", tmp_path / "b", "--pca", "4", "--relabel", "c.csv", cwd=relabelled)
    assert done.returncode == 0, done.stderr
    fit = ("fit", tmp_path / "b", "--head", "knn", "-o", tmp_path / "knn.head", "--relabel", relabelled / "c.csv")
    assert penult(*fit).returncode == 0
    packed, fitted = load_head(tmp_path / "b" / "heads" / "knn.head"), load_head(tmp_path / "knn.head")
    X = FeatureStore(tmp_path / "b").load("test").X
    assert (packed.predict_proba(X) == fitted.predict_proba(X)).all()
    assert packed.info["trained_on"] == load_head(relabelled / "knn.head").info["trained_on"]
    info = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert info["notes"] == ["measured on the labels that c.csv corrects"]
    assert "--relabel c.csv" in info["made"]["command"]


def test_a_head_is_not_fitted_anew_on_other_labels_than_it_was(relabelled, tmp_path):
    (tmp_path / "d.csv").write_text((relabelled / "c.csv").read_text().replace("drop", ""))
    for more, words in (((), "and none are given"), (("--relabel", tmp_path / "d.csv"), "d.csv, and --pca")):
        done = pack("knn.head", "-o", tmp_path / "b", "--pca", "4", *more, cwd=relabelled)
        assert done.returncode == 1
        assert "knn.head was fitted with corrected labels (a CSV of SHA-256 " in done.stderr
        assert words in done.stderr
        assert done.stderr.endswith("name the same CSV with --relabel, or leave out --pca\n")
        assert not (tmp_path / "b").exists()


def test_what_needs_no_labels_is_packed_without_the_corrections(relabelled, tmp_path):
    done = pack("lr.head", "-o", tmp_path / "b", "--pca", "4", cwd=relabelled)
    assert done.returncode == 0, done.stderr
    assert "note: lr was fitted with corrected labels: with --relabel it is measured on them" in done.stdout


def test_what_would_be_left_out_anyway_is_wrong_usage(relabelled, tmp_path):
    for part, option in (("thumbnails", ("--thumbnails", "5MB")), ("models", ("--weights", "w.pth"))):
        done = penult("pack", "features.h5", "-o", tmp_path / "b", "--without", part, *option, cwd=relabelled)
        assert (done.returncode, (tmp_path / "b").exists()) == (2, False)
        assert f"{option[0]} is for {part}, which --without {part} leaves out" in done.stderr


@pytest.mark.parametrize("calibration", ["temperature", "platt", "none"])
def test_a_head_names_its_rule_and_calibration_and_an_older_one_is_read_by_what_came_of_them(
    relabelled, tmp_path, calibration
):
    options = ("--rule", "one-se", "--calibrate", calibration)
    fit = ("fit", relabelled / "features.h5", "--head", "lr", "-o", tmp_path / "lr.head", *options)
    assert penult(*fit).returncode == 0
    head = load_head(tmp_path / "lr.head")
    assert (rule_of(head), calibration_of(head)) == ("one-se", calibration)
    selection = {key: value for key, value in head.info["selection"].items() if key not in ("rule", "calibration")}
    older = dataclasses.replace(head, info={**head.info, "selection": selection})
    assert calibration_of(older) == calibration


def test_a_rule_that_made_no_difference_is_remembered_too(relabelled, tmp_path):
    fit = ("fit", relabelled / "features.h5", "--head", "lr", "--param", "C=0.01", "--rule", "one-se")
    assert penult(*fit, "-o", tmp_path / "lr.head").returncode == 0
    assert rule_of(load_head(tmp_path / "lr.head")) == "one-se"


def test_projected_features_are_coordinates_along_components_fitted_on_train(kit):
    whole, train, short = load(kit / "plain"), load(kit / "plain", "train"), load(kit / "pca")
    pca = load_pca(components_file(kit / "pca", short.spec.projection))
    assert short.spec.projection.startswith("pca:6:sha256:")
    assert np.allclose(pca.mean, train.X.mean(axis=0), atol=1e-5)
    assert np.allclose(pca.transform(whole.X), short.X, atol=1e-5)
    (info,) = FeatureStore(kit / "pca").features().values()
    assert info.requests[0]["projection"] == short.spec.projection
    assert info.provenance[0]["projected_from"] == whole.spec.fingerprint


@pytest.mark.parametrize("kind", ["lr", "mlp"])
def test_a_folded_head_answers_as_the_head_did_on_what_the_components_say_of_a_picture(kit, kind):
    short = load(kit / "pca")
    pca = load_pca(components_file(kit / "pca", short.spec.projection))
    seen = (short.X.astype(np.float64) @ pca.components + pca.mean).astype(np.float32)
    before, after = load_head(kit / f"{kind}.head"), load_head(kit / "pca" / "heads" / f"{kind}.head")
    assert np.allclose(after.predict_proba(short.X), before.predict_proba(seen), atol=1e-4)
    assert after.specs == short.specs
    assert (after.info["trained_on"], after.info["selection"]) == (before.info["trained_on"], before.info["selection"])
    assert after.info["projected_from"] == [before.spec.fingerprint]


def test_a_head_that_cannot_be_folded_is_the_one_that_fit_would_make_of_the_bundle(kit, tmp_path):
    said = {head["name"]: head["how"] for head in read_bundle(kit / "pca").info["heads"]}
    assert said == {"lr": "folded", "mlp": "folded", "knn": "fitted anew"}
    assert penult("fit", kit / "pca", "--head", "knn", "-o", tmp_path / "knn.head").returncode == 0
    packed, fitted = load_head(kit / "pca" / "heads" / "knn.head"), load_head(tmp_path / "knn.head")
    X = load(kit / "pca").X
    assert packed.head.get_params() == fitted.head.get_params()
    assert (packed.predict_proba(X) == fitted.predict_proba(X)).all()


def test_heads_of_several_features_side_by_side_are_folded_feature_by_feature(kit, tmp_path):
    names = ["layer3", "penultimate"]
    fit = ["fit", "f.h5", "--dataset", "pictures", "--head", "ridge", "--features", *names]
    assert penult(*fit, "-o", tmp_path / "two.head", cwd=kit).returncode == 0
    pack = ["pack", "f.h5", tmp_path / "two.head", "-o", tmp_path / "b", "--pca", "23", *PLAIN]
    done = penult(*pack, cwd=kit)
    assert done.returncode == 0, done.stderr
    before, after = load_head(tmp_path / "two.head"), load_head(tmp_path / "b" / "heads" / "two.head")
    assert [spec.layer for spec in after.specs] == names
    whole = load(kit / "f.h5", "train", spec=before.specs)
    short = load(tmp_path / "b", "train", spec=after.specs)
    assert short.widths == (23, 23)
    # 24 training pictures vary in 23 directions: nothing of them is lost
    assert np.allclose(after.predict_proba(short.X), before.predict_proba(whole.X), atol=1e-3)


def test_what_was_lost_and_won_is_counted_picture_by_picture(kit):
    for one in read_bundle(kit / "pca").info["measured"]:
        before = load_head(kit / f"{one['head']}.head").predict_proba(load(kit / "plain").X).argmax(axis=1)
        after = load_head(kit / "pca" / "heads" / f"{one['head']}.head").predict_proba(load(kit / "pca").X)
        a, b = before == load(kit / "plain").y, after.argmax(axis=1) == load(kit / "pca").y
        assert (one["lost"], one["won"]) == ((a & ~b).sum(), (~a & b).sum())
        assert one["after"]["accuracy"] == b.mean()
        assert one["difference"] == pytest.approx(b.mean() - a.mean())
        assert one["difference_ci95"][0] < one["difference"] < one["difference_ci95"][1]
        assert 0 < one["p_value"] <= one["p_holm"] <= 1


def test_features_of_a_projected_bundle_can_be_computed_again(kit):
    pytest.importorskip("torch")
    done = penult("verify", kit / "pca", "--sample", "3")
    assert done.returncode == 0, done.stderr
    assert "3 pictures extracted again" in done.stdout


def test_features_that_are_projected_already_are_not_projected_again(kit, tmp_path):
    error = refused("pack", "pca", "-o", tmp_path / "b", "--pca", "3", *PLAIN, cwd=kit)
    assert "is made shorter or scaled already (pca)" in error
    error = refused("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--pca", "24", *PLAIN, cwd=kit)
    assert "ask for fewer, or fit on more pictures" in error
