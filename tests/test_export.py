"""Exports: npz, Parquet and CSV files, and data frames, hold what the store holds."""

import builtins
import json
import os

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from conftest import SPEC, make_view, penult, vectors_of

import data.table
from data.errors import DamagedStore, MissingDependency, MissingFile, StoreError
from data.export import WRITERS, export_table, to_npz, to_pandas
from data.publish import publish
from data.relabel import Corrections
from data.spec import FeatureSpec
from data.store import FeatureStore
from data.table import choose_table

ROWS = list(range(40))
KINDS = [ending.removeprefix(".") for ending in WRITERS]


@pytest.fixture
def store(tmp_path, stage):
    path = tmp_path / "f.h5"
    stage(path, ROWS)
    targets = np.array([-1 if i == 7 else i % 2 for i in ROWS], dtype=np.int32)
    publish(path, make_view(ROWS, targets=targets), commands={SPEC.fingerprint: {}})
    return path


@pytest.fixture
def pieces(monkeypatch):
    """Let a piece be seven rows of eight float32."""
    monkeypatch.setattr(data.table, "PIECE", 7 * 8 * 4)


def read_back(path):
    """Return path, label, split, digest and X of an export, as lists and an array."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            classes = held["classes"].tolist()
            labels = [classes[y] if y >= 0 else None for y in held["y"].tolist()]
            digests = held["digest"].astype(str).tolist()
            return held["path"].tolist(), labels, held["split"].tolist(), digests, held["X"]
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        texts = [table.column(name).to_pylist() for name in ("path", "label", "split", "digest")]
        return *texts, np.array(table.column("features").to_pylist(), dtype=np.float32)
    frame = pd.read_csv(path, keep_default_na=False)
    labels = [label or None for label in frame["label"]]
    X = frame.filter(regex=r"^f\d+$").to_numpy().astype(np.float32)
    return frame["path"].tolist(), labels, frame["split"].tolist(), frame["digest"].tolist(), X


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", None])
def test_what_is_read_is_what_the_store_holds(store, tmp_path, kind, split, pieces):
    samples = FeatureStore(store).load(split)
    path = tmp_path / f"out.{kind}"
    done = []
    export_table(choose_table(store, split), path, lambda n, total: done.append((n, total)))
    paths, labels, splits, digests, X = read_back(path)
    assert paths == list(samples.paths)
    assert labels == [samples.classes[y] if y >= 0 else None for y in samples.y]
    assert splits == FeatureStore(store).views()["toys"].splits[[int(p[:5]) for p in paths]].tolist()
    assert digests == samples.digests.astype(str).tolist()
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, samples.X)
    assert done[0] == (7, len(samples))
    assert done[-1] == (len(samples), len(samples))
    if kind == "parquet":
        assert pyarrow.parquet.ParquetFile(path).num_row_groups == len(done)


def test_a_data_frame_is_what_the_store_holds(store, pieces):
    samples = FeatureStore(store).load("train")
    frame = to_pandas(FeatureStore(store), "train")
    assert frame.columns.tolist() == ["path", "label", "split", "digest", *(f"f{i}" for i in range(8))]
    assert frame["path"].tolist() == list(samples.paths)
    assert frame["label"].cat.categories.tolist() == samples.classes
    assert frame["label"].cat.codes.tolist() == samples.y.tolist()
    assert frame["label"].isna().sum() == 1
    X = frame.filter(regex=r"^f\d+$")
    assert set(X.dtypes) == {np.dtype("float32")}
    np.testing.assert_array_equal(X.to_numpy(), samples.X)
    assert FeatureSpec.from_json(json.dumps(frame.attrs["spec"])) == SPEC


def test_pictures_that_corrections_drop_are_left_out_with_their_splits(store, tmp_path):
    view = FeatureStore(store).view()
    gone = view.digests[0]
    corrected = FeatureStore(store, Corrections("c.csv", "", {gone.decode(): "(drop)"}))
    to_npz(corrected, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        kept = view.digests != gone
        assert arrays["digest"].tolist() == view.digests[kept].tolist()
        assert arrays["split"].tolist() == view.splits[kept].tolist()


def test_spec_and_classes_go_along(store, tmp_path):
    for kind in ("npz", "parquet"):
        export_table(choose_table(store), tmp_path / f"out.{kind}")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as held:
        assert sorted(held) == ["X", "classes", "digest", "path", "spec", "split", "widths", "y"]
        assert FeatureSpec.from_json(str(held["spec"])) == SPEC
        assert held["classes"].tolist() == ["cat", "dog"]
    metadata = pyarrow.parquet.read_schema(tmp_path / "out.parquet").metadata
    assert FeatureSpec.from_json(metadata[b"penult_spec"].decode()) == SPEC
    assert json.loads(metadata[b"penult_classes"]) == ["cat", "dog"]


def test_half_precision_keeps_its_size_in_npz_alone(tmp_path, stage):
    store = tmp_path / "f.h5"
    stage(store, ROWS, dtype="<f2")
    publish(store, make_view(ROWS), commands={SPEC.fingerprint: {}})
    half = vectors_of(ROWS).astype("<f2")
    for kind in KINDS:
        export_table(choose_table(store), tmp_path / f"out.{kind}")
        X = read_back(tmp_path / f"out.{kind}")[-1]
        assert X.dtype == (np.float16 if kind == "npz" else np.float32)
        np.testing.assert_array_equal(X, half)


def test_several_features_stand_side_by_side(tmp_path, stage):
    import dataclasses

    store = tmp_path / "f.h5"
    other = dataclasses.replace(SPEC, layer="layer3")
    stage(store, ROWS)
    stage(store, ROWS, spec=other, dim=3)
    publish(store, make_view(ROWS), commands={SPEC.fingerprint: {}, other.fingerprint: {}})
    export_table(choose_table(store, features=["layer3", "penultimate"]), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as held:
        np.testing.assert_array_equal(held["X"], np.hstack([vectors_of(ROWS, 3), vectors_of(ROWS)]))
        assert held["widths"].tolist() == [3, 8]
        assert [spec["layer"] for spec in json.loads(str(held["spec"]))] == ["layer3", "penultimate"]
    assert choose_table(store).samples.specs == (SPEC,)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_no_utf8_or_need_quotes(tmp_path, stage, kind):
    store = tmp_path / "f.h5"
    stage(store, [1, 2, 3])
    names = [os.fsdecode(b"caf\xe9.png"), 'a "b", c.png', "é\n.png"]
    view = make_view([1, 2, 3], paths=names, classes=["cät", os.fsdecode(b"d\xe9g")])
    publish(store, view, commands={SPEC.fingerprint: {}})
    path = tmp_path / f"out.{kind}"
    export_table(choose_table(store), path)
    paths, labels, *_ = read_back(path)
    assert paths[1:] == names[1:]
    assert labels[1] == "cät"
    if kind == "npz":
        assert (paths[0], labels[0]) == (names[0], os.fsdecode(b"d\xe9g"))
    else:
        assert (paths[0], labels[0]) == (r"caf\xe9.png", r"d\xe9g")
    assert to_pandas(store)["path"][0] == r"caf\xe9.png"


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_ours_is_replaced_and_nothing_else(store, tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    export_table(choose_table(store), path)
    export_table(choose_table(store, "test"), path)
    assert len(read_back(path)[0]) == len(FeatureStore(store).load("test"))
    foreign = tmp_path / f"mine.{kind}"
    if kind == "npz":
        np.savez(foreign, X=np.zeros(3))
    elif kind == "parquet":
        pd.DataFrame({"path": ["a"]}).to_parquet(foreign)
    else:
        foreign.write_text("path,label\n")
    before = foreign.read_bytes()
    with pytest.raises(StoreError, match="is no export of Penult: name another file"):
        export_table(choose_table(store), foreign)
    assert foreign.read_bytes() == before
    for other in (b"", b"anything"):
        foreign.write_bytes(other)
        with pytest.raises(StoreError, match="is no export of Penult"):
            export_table(choose_table(store), foreign)
    (tmp_path / f"folder.{kind}").mkdir()
    with pytest.raises(StoreError, match="is no export of Penult"):
        export_table(choose_table(store), tmp_path / f"folder.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_the_older_file(store, tmp_path, kind, pieces):
    path = tmp_path / f"out.{kind}"
    export_table(choose_table(store), path)
    before = path.read_bytes()
    content = bytearray(store.read_bytes())
    content[bytes(content).find(vectors_of([10]).tobytes())] ^= 1
    store.write_bytes(content)
    with pytest.raises(DamagedStore):
        export_table(choose_table(store), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", path.name]


def test_the_same_rows_give_the_same_npz(store, tmp_path):
    export_table(choose_table(store), tmp_path / "a.npz")
    to_npz(FeatureStore(store), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_ending_that_says_nothing(store, tmp_path):
    with pytest.raises(StoreError, match=r"name a file that ends in \.npz, \.parquet, \.csv"):
        export_table(choose_table(store), tmp_path / "out.mat")


@pytest.mark.parametrize("missing", ["pandas", "pyarrow"])
def test_a_package_that_is_not_installed(store, tmp_path, monkeypatch, missing):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=rf"needs {missing}: install it with `pip install '\.\[tables\]'`"):
        to_pandas(store) if missing == "pandas" else export_table(choose_table(store), tmp_path / "out.parquet")


def test_the_verb(store, tmp_path):
    done = penult("export", store, "-o", tmp_path / "deep" / "out.npz", "--split", "train", "--json", "-")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    samples = FeatureStore(store).load("train")
    assert (told["rows"], told["dim"], told["split"]) == (len(samples), 8, "train")
    assert told["features"] == [SPEC.title]
    assert told["bytes"] == (tmp_path / "deep" / "out.npz").stat().st_size
    assert "x 8 of timm/test_resnet/penultimate (toys, train)" in done.stderr


def test_the_verb_tells_a_head_from_a_store(store, tmp_path):
    head = tmp_path / "lr.head"
    assert penult("fit", store, "--head", "centroid", "-o", head).returncode == 0
    done = penult("export", head, "-o", tmp_path / "out.npz")
    assert done.returncode == 1
    assert "lr.head is a head, which is exported as a model: end -o in .onnx or .pt2" in done.stderr
    assert penult("export", tmp_path / "no.h5", "-o", tmp_path / "out.npz").returncode == 1
    with pytest.raises(MissingFile, match="does not exist"):
        choose_table(tmp_path / "no.h5")
