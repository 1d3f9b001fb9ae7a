"""PenultFeatures: a scikit-learn step whose cache is a store, for paths from anywhere."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, age, draw, penult
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from data.errors import ImageSetError, MissingFile, ProjectionError, SpecError, StoreError
from data.store import FeatureStore
from data.verify import verify_store
from extract import cache
from extract.transformer import PenultFeatures

TINY = {"backbone": "timm/test_resnet", "weights": "random"}


@pytest.fixture
def paths(pictures):
    return sorted(pictures.rglob("*.png"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "f.h5"


@pytest.fixture(autouse=True)
def nothing_in_memory():
    cache.forget()


@pytest.fixture
def counted(monkeypatch):
    """Return the list of how many pictures each extraction was given."""
    calls = []
    extract = cache.StoreCache._extract

    def counting(self, files, on_progress):
        calls.append(len(files))
        return extract(self, files, on_progress)

    monkeypatch.setattr(cache.StoreCache, "_extract", counting)
    return calls


def labels(paths):
    return [path.parent.name for path in paths]


def test_vectors_are_those_of_an_extraction_in_the_order_given(pictures, paths, store, tmp_path):
    X = PenultFeatures(**TINY, store=store).transform(paths)
    assert X.shape == (36, 96)
    assert X.dtype == np.float32
    other = tmp_path / "other.h5"
    assert (
        penult("extract", pictures, "-o", other, "--backbone", "timm/test_resnet", "--weights", "random").stderr == ""
    )
    samples = FeatureStore(other).load()
    expected = {str(pictures / path): row for path, row in zip(samples.paths, samples.X, strict=True)}
    for path, row in zip(paths, X, strict=True):
        np.testing.assert_allclose(row, expected[str(path)], rtol=1e-4, atol=1e-5)
    order = [5, 0, 5, 35]  # in another order, with a duplicate
    np.testing.assert_array_equal(PenultFeatures(**TINY, store=store).transform([paths[i] for i in order]), X[order])


def test_without_a_store_the_vectors_are_the_same_and_kept_in_memory(paths, store, monkeypatch, tmp_path):
    in_store = PenultFeatures(**TINY, store=store).transform(paths)
    in_memory = PenultFeatures(**TINY)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_allclose(in_memory.transform(paths), in_store, rtol=1e-4, atol=1e-5)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(cache, "embed_all", None)  # nothing may be computed again, by clones neither
    np.testing.assert_allclose(clone(in_memory).transform(paths[::-1]), in_store[::-1], rtol=1e-4, atol=1e-5)
    cache.forget()
    with pytest.raises(TypeError, match="not callable"):
        in_memory.transform(paths)


@pytest.mark.parametrize("stored", [True, False])
def test_paths_may_be_given_in_every_form(paths, store, stored):
    features = PenultFeatures(**TINY, store=store if stored else None)
    X = features.transform(paths[:3])
    texts = [str(path) for path in paths[:3]]
    column = pd.Series(texts, index=[7, 8, 9])
    for given in (texts, tuple(texts), np.array(texts), np.array(texts)[:, None], column, column.to_frame()):
        np.testing.assert_array_equal(features.fit(given).transform(given), X)
    here = os.path.relpath(paths[0])
    np.testing.assert_array_equal(features.transform([here, f"file://{paths[1]}"]), X[:2])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a.png", r"got one path: write \['a.png'\]"),
        ([], "got none: give at least one"),
        ([1, 2], "got int 1: give str or Path"),
        (np.zeros((3, 2)), r"got an array of shape \(3, 2\): give one column of paths"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(X, message):
    for method in (PenultFeatures().fit, PenultFeatures().transform):
        with pytest.raises(ImageSetError, match=message):
            method(X)


def test_only_what_is_new_is_computed_and_earlier_files_stay_known(paths, store, counted):
    features = PenultFeatures(**TINY, store=store)
    features.transform(paths[:10])
    features.transform(paths[5:20])
    features.transform(paths[:20])
    features.transform(paths[:10])
    assert counted == [10, 10]
    assert FeatureStore(store).splits("transformed") == {"": 20}


def test_pictures_that_an_extraction_has_are_not_opened(pictures, paths, store, counted):
    penult("extract", pictures, "-o", store, "--backbone", "timm/test_resnet", "--weights", "random")
    stamp = store.stat().st_mtime_ns
    X = PenultFeatures(**TINY, store=store).transform(paths)
    assert np.isfinite(X).all()
    assert counted == []
    assert store.stat().st_mtime_ns == stamp
    assert set(FeatureStore(store).views()) == {"pictures"}


def test_a_moved_or_touched_picture_is_read_but_not_computed(paths, store, monkeypatch):
    X = PenultFeatures(**TINY, store=store).transform(paths[:4])
    moved = paths[0].rename(paths[0].with_name("moved.png"))
    os.utime(paths[1], (1e9, 1e9))
    monkeypatch.setattr("extract.wanted.open_backbone", None)
    np.testing.assert_array_equal(PenultFeatures(**TINY, store=store).transform([moved, *paths[1:4]]), X)


def test_a_changed_picture_gets_new_features(paths, store):
    features = PenultFeatures(**TINY, store=store)
    X = features.transform(paths[:2])
    draw(paths[0], 999, 1)
    again = features.transform(paths[:2])
    assert np.abs(again[0] - X[0]).max() > 1e-3
    np.testing.assert_array_equal(again[1], X[1])


@pytest.mark.parametrize("folder", [False, True])
def test_the_store_stays_valid(paths, tmp_path, folder):
    store = str(tmp_path / "deep" / ("parts/" if folder else "f.h5"))
    for some in (paths[:5], paths[3:9], paths[:1]):
        PenultFeatures(**TINY, store=store).transform(some)
    verdict = verify_store(Path(store))
    assert (verdict.problems, verdict.missing, verdict.rows, verdict.staged) == ([], {}, 9, 0)
    done = penult("verify", store, "--sample", "3")
    assert done.returncode == 0, done.stderr
    assert "3 pictures extracted again" in done.stdout
    assert not list(tmp_path.rglob("*.lock"))


def test_a_warm_transform_imports_no_torch(paths, store):
    X = PenultFeatures(**TINY, store=store).transform(paths)
    code = (
        "import sys; from extract.transformer import PenultFeatures;"
        f"X = PenultFeatures('timm/test_resnet', weights='random', store={str(store)!r}).transform(sys.argv[1:]);"
        "assert X.shape == (36, 96); print(X.sum()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(X.sum()))


def test_a_broken_picture_raises_with_its_path_and_costs_nothing_else(paths, store, counted):
    paths[2].write_bytes(b"no picture")
    age(paths[2].parent)
    features = PenultFeatures(**TINY, store=store)
    with pytest.raises(ImageSetError, match=rf"{paths[2]}: .*: mend them or leave them out, or give rows of NaN"):
        features.transform(paths[:4])
    assert counted == [4]
    good = features.transform([*paths[:2], paths[3]])  # the others were stored
    X = clone(features).set_params(on_error="nan").transform(paths[:4])
    assert counted == [4]
    assert np.isnan(X[2]).all()
    np.testing.assert_array_equal(np.delete(X, 2, axis=0), good)
    assert verify_store(store).problems == []


@pytest.mark.parametrize("stored", [True, False])
def test_one_broken_picture_alone(paths, store, stored):
    paths[2].write_bytes(b"no picture")
    features = PenultFeatures(**TINY, store=store if stored else None, on_error="nan")
    with pytest.raises(ImageSetError, match=f"{paths[2]}: "):  # nobody can say how long its row is
        features.transform(paths[2:3])
    if stored:
        assert verify_store(store).problems == []
        assert penult("info", store).returncode == 0
    features.transform(paths[:2])
    assert np.isnan(features.transform(paths[2:3])).all()
    assert np.isnan(features.transform(paths[1:4])).all(axis=1).tolist() == [False, True, False]
    with pytest.raises(ImageSetError, match=f"{paths[2]}: "):
        features.set_params(on_error="raise").transform(paths[2:3])


def test_a_missing_file_is_said_before_anything_is_computed(paths, store, counted):
    gone = paths[0].with_name("gone.png")
    with pytest.raises(MissingFile, match="gone.png does not exist"):
        PenultFeatures(**TINY, store=store).transform([*paths, gone])
    assert counted == []
    X = PenultFeatures(**TINY, store=store, on_error="nan").transform([paths[0], gone])
    assert np.isnan(X).all(axis=1).tolist() == [False, True]


def test_several_layers_and_views_stand_side_by_side(paths, store, tmp_path):
    both = {"layer": ["layer2", "penultimate"], "view": ["center", "flip"]}
    features = PenultFeatures(**TINY, **both, store=store)
    X = features.transform(paths[:3])
    names = features.get_feature_names_out()
    assert X.shape == (3, len(names))
    assert len(set(names)) == len(names)
    alone = PenultFeatures(**TINY, layer="layer2", view="flip", store=store)
    rows = [i for i, name in enumerate(names) if name.startswith("test_resnet/layer2/flip_")]
    np.testing.assert_array_equal(alone.transform(paths[:3]), X[:, rows])
    in_memory = PenultFeatures(**TINY, **both).transform(paths[:3])
    np.testing.assert_allclose(in_memory, X, rtol=1e-4, atol=1e-5)
    stages = PenultFeatures(**TINY, layer="all-stages", store=store)
    assert stages.transform(paths[:3]).shape[1] == len(stages.get_feature_names_out())
    mean = PenultFeatures(**TINY, view=["center", "flip"], average=True, normalize=True, projection="random:16")
    np.testing.assert_allclose(np.linalg.norm(mean.transform(paths[:3]), axis=1), 1, rtol=1e-5)


def test_names_and_data_frames(paths, store):
    features = PenultFeatures(**TINY, store=store)
    with pytest.raises(NotFittedError, match="call transform first"):
        features.get_feature_names_out()
    frame = features.set_output(transform="pandas").fit_transform(
        pd.Series([str(p) for p in paths[:3]], index=[7, 8, 9])
    )
    assert frame.index.tolist() == [7, 8, 9]
    assert frame.columns[0] == "test_resnet/penultimate_0"
    assert frame.shape == (3, 96)


@pytest.mark.parametrize("stored", [True, False])
def test_pipeline_and_grid_search(paths, store, stored, counted):
    pipe = make_pipeline(PenultFeatures(**TINY, store=store if stored else None), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": [0.1, 1.0], "penultfeatures__normalize": [False, True]}
    search = GridSearchCV(pipe, grid, cv=5, error_score="raise").fit(np.array(paths), labels(paths))
    assert search.best_score_ > 0.9
    assert search.predict(paths[:2]).tolist() == labels(paths[:2])
    # five folds see each picture once for each of the two features, whatever C
    assert sum(counted) == (2 * len(paths) if stored else 0)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_jobs_share_one_store(paths, store, backend, monkeypatch):
    import joblib

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pipe = make_pipeline(PenultFeatures(**TINY, store=store), LogisticRegression(max_iter=1000))
    with joblib.parallel_config(backend):
        scores = cross_val_score(pipe, paths, labels(paths), cv=3, n_jobs=2, error_score="raise")
    assert scores.min() > 0.8
    verdict = verify_store(store)
    assert (verdict.problems, verdict.rows, verdict.missing) == ([], len(paths), {})
    assert FeatureStore(store).splits("transformed") == {"": len(paths)}  # no job lost another's files


def test_threads_take_turns(paths, store, counted):
    threads = [threading.Thread(target=PenultFeatures(**TINY, store=store).transform, args=(paths,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == [36]


def test_clones_pickles_and_parameters():
    features = PenultFeatures("resnet50", store=Path("f.h5"), layer=["layer3"], mean=(0.5,))
    assert clone(features).get_params() == features.get_params()
    assert pickle.loads(pickle.dumps(features)).get_params() == features.get_params()
    assert features.set_params(layer="penultimate", store=None).layer == "penultimate"
    assert "resnet50" in repr(features)


def test_what_applies_of_scikit_learns_checks():
    """Those of `check_estimator` that give no matrix of numbers to what takes paths."""
    features = PenultFeatures()
    with pytest.warns(match="Can't test estimator PenultFeatures"):
        estimator_checks.check_estimator(features)
    for name in (
        *("check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_get_params_invariance"),
        *("check_set_params", "check_estimator_cloneable", "check_estimator_repr", "check_estimator_tags_renamed"),
        *("check_valid_tag_types", "check_mixin_order"),
    ):
        getattr(estimator_checks, name)("PenultFeatures", features)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"on_error": "skip"}, ImageSetError, "on_error is 'raise' or 'nan', got 'skip'"),
        ({"projection": "pca:8"}, ProjectionError, "whatever their fold"),
        ({"view": "upside-down"}, SpecError, "no view 'upside-down'"),
    ],
)
def test_fit_checks_the_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        PenultFeatures(**parameters).fit(["a.png"])


def test_an_image_set_from_elsewhere_is_not_added_to(pictures, paths, store):
    penult("extract", pictures, "-o", store, "--backbone", "timm/test_resnet", "--weights", "random")
    draw(pictures.parent / "new.png", 5)
    with pytest.raises(StoreError, match=r"already holds an image set 'pictures'.*give these another name"):
        PenultFeatures(**TINY, store=store, name="pictures").transform([pictures.parent / "new.png"])
    assert FeatureStore(store).splits("pictures") == {"test": 12, "train": 24}


def test_pictures_in_an_archive(paths, store, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.write(paths[0], "cats/0.png")
    X = PenultFeatures(**TINY, store=store).transform([tmp_path / "pets.zip" / "cats" / "0.png", paths[0]])
    np.testing.assert_array_equal(X[0], X[1])


def test_what_was_transformed_does_not_stand_in_the_way_of_the_labelled_set(pictures, store):
    penult("extract", pictures, "-o", store, "--backbone", "timm/test_resnet", "--weights", "random")
    PenultFeatures(**TINY, store=store).transform([draw(pictures.parent / "new.png", 900)])
    assert set(FeatureStore(store).views()) == {"pictures", "transformed"}
    assert len(FeatureStore(store).load("train")) == 24
    assert len(FeatureStore(store).load(dataset="transformed")) == 1
