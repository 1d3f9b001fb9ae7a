"""The file format of docs/format.md, pinned by files that were written once and are never written again."""

import base64
import hashlib
import json
import zlib

import h5py
import numpy as np
import pytest
from conftest import ROOT, TINY
from golden import make
from safetensors import safe_open
from safetensors.numpy import save

from classify.artifact import load_head
from data.errors import HeadError, WeightsError
from data.images import open_images
from data.layout import FORMAT_VERSION
from data.store import FeatureStore
from data.verify import verify_store
from extract.checkpoints import read_checkpoint
from extract.options import Options
from finetune.strategies import make_strategy
from finetune.tuning import Tuner

STORE = ROOT / "tests/golden/store-v1.h5"
HEAD = ROOT / "tests/golden/head-v1.head"
CHECKPOINT = ROOT / "tests/golden/checkpoint-v1.ckpt"


def test_bare_h5py_finds_in_the_golden_store_what_the_format_says():
    with h5py.File(STORE) as file:
        assert file.attrs["penult_format"] == 1
        (fingerprint,) = file["features"]
        group = file["features"][fingerprint]
        assert hashlib.sha256(group.attrs["spec"].encode()).hexdigest() == fingerprint
        assert json.loads(group.attrs["spec"])["backbone"] == "torchvision/golden"
        assert group["vectors"][:].tolist() == make.VECTORS.tolist()
        assert group["digest"][:].tolist() == make.DIGESTS.tolist()
        rows = int(group.attrs["block_rows"])
        assert group["vectors"].chunks == (rows, 3)
        assert group["vectors"].compression is None
        crc = zlib.crc32(group["vectors"][:].tobytes(), zlib.crc32(group["digest"][:].tobytes()))
        assert group["checksum"][:].tolist() == [crc]
        view = file["datasets"]["golden"]
        assert [p.decode() for p in view["path"][:]] == make.VIEW.paths
        assert view["digest"][:].tolist() == make.VIEW.digests.tolist()
        assert view["target"][:].tolist() == [0, 0, 1, 1, -1]
        assert view["split"][:].tolist() == [b"test", b"train", b"train", b"train", b"train"]
        assert json.loads(view.attrs["classes"]) == ["ant", "bee"]
        assert view["skipped/reason"][:].tolist() == [b"the file is empty"]


def test_the_views_checksum_can_be_computed_from_the_formats_words():
    with h5py.File(STORE) as file:
        view = file["datasets"]["golden"]
        texts = [view.attrs[name] for name in ("root", "split_rule", "classes")]
        crc = zlib.crc32(b"".join((t.encode() if isinstance(t, str) else t) + b"\0" for t in texts))
        skipped = [f"skipped/{name}" for name in ("path", "reason", "size", "mtime_ns")]
        for name in ("path", "digest", "target", "split", "size", "mtime_ns", *skipped):
            crc = zlib.crc32(view[name][:].tobytes(), crc)
        assert crc == view.attrs["checksum"]


def test_this_version_reads_the_golden_store():
    samples = FeatureStore(STORE).load("train")
    assert samples.X.tolist() == make.VECTORS[[0, 1, 1, 2]].tolist()
    assert samples.y.tolist() == [0, 1, 1, -1]
    assert samples.spec == make.SPEC
    assert FeatureStore(STORE).views()["golden"].same_as(make.VIEW)
    assert verify_store(STORE).problems == []


def outline(path):
    """Return names, shapes, dtypes, chunks, attributes and contents of all that is in a file."""
    found = {}

    def visit(name, item):
        content = (
            (item.shape, str(item.dtype), item.chunks, item[()].tolist()) if isinstance(item, h5py.Dataset) else ()
        )
        found[name] = (*content, {key: str(value) for key, value in item.attrs.items()})

    with h5py.File(path) as file:
        file.visititems(visit)
        found["/"] = {key: str(value) for key, value in file.attrs.items()}
    return found


def test_this_version_writes_the_same_file_again(tmp_path):
    make.make_store(tmp_path / "again.h5")
    assert outline(tmp_path / "again.h5") == outline(STORE)


def test_a_change_of_the_format_needs_a_new_version_and_a_new_golden_file():
    assert FORMAT_VERSION == 1
    assert (ROOT / f"tests/golden/store-v{FORMAT_VERSION}.h5").exists()
    text = (ROOT / "docs/format.md").read_text()
    assert f"version {FORMAT_VERSION}" in text


def test_this_version_reads_the_golden_head():
    head = load_head(HEAD)
    assert (head.kind, head.classes) == ("centroid", ["ant", "bee"])
    assert head.spec == make.SPEC
    X = np.array([[2, 4, 3]], dtype=np.float32)  # standardised: (1, 1, 0); scores: (1.5, 0.5)
    odds = np.exp(0.25 * (1.5 - 0.5))
    assert head.predict_proba(X)[0].tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert head.trained_on(make.DIGESTS).tolist() == [True, True, False, False, False]


def checkpoint_info(path):
    with safe_open(path, framework="numpy") as file:
        (key,) = file.metadata()
        assert key == "penult_checkpoint"
        return json.loads(file.metadata()[key]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_golden_checkpoint_says_what_the_format_says():
    info, tensors = checkpoint_info(CHECKPOINT)
    words = (ROOT / "docs/format.md").read_text().partition("## Checkpoints")[2]
    assert all(f"`{key}`" in words for key in info), info.keys()
    assert info["format"] == 1
    assert sorted(tensors) == ["conv.bias", "conv.weight", "fc.bias", "fc.weight"]
    spec = json.dumps(info["spec"], sort_keys=True, separators=(",", ":"))
    assert info["fingerprint"] == hashlib.sha256(spec.encode()).hexdigest()
    digest = hashlib.sha256()
    for name in ("bias", "weight"):
        tensor = tensors[f"{info['last']}.{name}"]
        digest.update(f"{name}{tensor.shape}".encode() + tensor.astype("<f4").tobytes())
    assert info["last_weights"] == f"sha256:{digest.hexdigest()}"
    keys = np.frombuffer(base64.b64decode(info["train_keys"]), dtype="<u8").tolist()
    assert keys == sorted(int(d[:16], 16) for d in make.DIGESTS[:2].tolist())


def test_this_version_reads_the_golden_checkpoint_as_a_head():
    head = load_head(CHECKPOINT)
    assert (head.kind, head.classes) == ("finetuned", ["ant", "bee"])
    X = np.array([[1, 2, 3]], dtype=np.float32)  # scores: 2 * 6 + 3 and 2 - 3 + 3
    assert head.predict_proba(X)[0].tolist() == pytest.approx([1 / (1 + np.exp(-13)), 1 / (1 + np.exp(13))], rel=1e-4)
    assert head.trained_on(make.DIGESTS).tolist() == [True, True, False, False, False]
    assert read_checkpoint(CHECKPOINT).spec == head.spec


def test_this_version_writes_the_golden_checkpoint_again(tmp_path):
    make.make_checkpoint(tmp_path / "again.ckpt")
    (ours, tensors), (theirs, held) = checkpoint_info(tmp_path / "again.ckpt"), checkpoint_info(CHECKPOINT)
    assert {**ours, "versions": None} == {**theirs, "versions": None}
    assert ours["versions"].keys() == theirs["versions"].keys()
    assert all(np.array_equal(tensors[name], held[name]) for name in held)


def test_a_training_writes_the_keys_of_the_golden_checkpoint(pictures, tmp_path):
    strategy = make_strategy("head", changes={"epochs": 1, "augment": "none"})
    job = Tuner(open_images(pictures), tmp_path / "n.ckpt", strategy, TINY[1], "random", Options(input_size=32))
    info, _ = checkpoint_info(job.run().checkpoint)
    golden, _ = checkpoint_info(CHECKPOINT)
    assert info.keys() == golden.keys()
    for key in ("spec", "request", "strategy", "trained_on"):
        assert info[key].keys() == golden[key].keys(), key
    assert info["epochs"][0].keys() == golden["epochs"][0].keys()


def test_a_checkpoint_that_is_damaged_or_newer_is_refused(tmp_path):
    info, tensors = checkpoint_info(CHECKPOINT)

    def written(tensors, **changes):
        text = json.dumps({**info, **changes})
        (tmp_path / "c.ckpt").write_bytes(save(tensors, metadata={"penult_checkpoint": text}))
        return tmp_path / "c.ckpt"

    damaged = {**tensors, "fc.bias": tensors["fc.bias"] + 1}
    with pytest.raises(HeadError, match="is damaged .*train it anew with `finetune`"):
        load_head(written(damaged))
    with pytest.raises(HeadError, match="has format 2, this Penult reads format 1"):
        load_head(written(tensors, format=2))
    with pytest.raises(WeightsError, match="has format 2, this Penult reads format 1"):
        read_checkpoint(written(tensors, format=2))
