"""Data sets that other libraries keep on the disk, by their names."""

import hashlib
import json
import pickle
import shutil
import struct

import numpy as np
import pytest
from conftest import TINY, draw, penult

from data.errors import ImageSetError, MissingFile
from data.pixels import encode
from extract.datasets import open_source

torchvision = pytest.importorskip("torchvision")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 255, size=shape, dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path):
    """Write MNIST's four files with 12 train and 6 test digits; return the folder and the pixels."""
    raw = tmp_path / "tv" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = {"train": noise(1, 12, 28, 28), "t10k": noise(2, 6, 28, 28)}
    for name, values in pixels.items():
        n = len(values)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + values.tobytes())
        labels = bytes(i % 3 for i in range(n))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels)
    return tmp_path / "tv", pixels


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Write CIFAR-10's files with 4 pictures each; return the folder and the pixels of the test pictures."""
    folder = tmp_path / "tv" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    cifar = torchvision.datasets.CIFAR10

    def write(name, value):
        data = pickle.dumps(value)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    rows = {name: noise(i, 4, 3072) for i, (name, _) in enumerate(cifar.train_list + cifar.test_list)}
    sums = {name: write(name, {"data": data, "labels": [0, 9, 0, 9]}) for name, data in rows.items()}
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(cifar, "train_list", [sums[name] for name, _ in cifar.train_list])
    monkeypatch.setattr(cifar, "test_list", [sums[name] for name, _ in cifar.test_list])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": meta[1]})
    return tmp_path / "tv", rows["test_batch"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_mnist_by_name(mnist):
    folder, pixels = mnist
    images = open_source(f"torchvision:MNIST:{folder}")
    assert (images.name, images.root) == ("MNIST", f"torchvision:MNIST:{folder}")
    assert images.classes == ["0 - zero", "1 - one", "2 - two"]
    assert images.splits.tolist() == ["train"] * 12 + ["test"] * 6
    assert images.read(14).data == encode(pixels["t10k"][2])


def test_cifar_by_name(cifar):
    folder, pixels = cifar
    images = open_source(f"torchvision:CIFAR10:{folder}", "small")
    assert (images.name, images.classes, len(images)) == ("small", ["a", "j"], 24)
    assert images.read(21).data == encode(np.ascontiguousarray(pixels[1]))


def test_a_data_set_by_name_through_the_command_line(mnist, tmp_path):
    source = "torchvision:MNIST:tv"
    first = json.loads(penult("extract", source, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (first["extracted"], first["splits"]) == (18, {"test": 6, "train": 12})
    checked = penult("verify", "f.h5", "--sample", "4", cwd=tmp_path)
    assert "4 pictures extracted again" in checked.stdout
    assert "gone or changed" not in checked.stdout
    penult("fit", "f.h5", "--head", "centroid", "-o", "c.head", cwd=tmp_path)
    done = json.loads(penult("predict", "c.head", source, "--json", "-", cwd=tmp_path).stdout)
    assert len(done["predictions"]) == 18


def test_what_torchvision_has_not_on_this_disk(tmp_path):
    with pytest.raises(MissingFile, match="CIFAR10:.* is not on this disk .*Penult downloads none"):
        open_source(f"torchvision:CIFAR10:{tmp_path}")
    with pytest.raises(MissingFile, match="nowhere does not exist"):
        open_source("torchvision:CIFAR10:nowhere")
    with pytest.raises(ImageSetError, match="has no data set 'CIFAR11'"):
        open_source(f"torchvision:CIFAR11:{tmp_path}")
    with pytest.raises(ImageSetError, match="LSUN runs what its cache file says"):
        open_source(f"torchvision:LSUN:{tmp_path}")
    with pytest.raises(ImageSetError, match="names no folder: write torchvision:CLASS:FOLDER"):
        open_source("torchvision:CIFAR10")


@pytest.fixture
def hf(tmp_path, monkeypatch):
    """Return `datasets` with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_saved_data_set_by_its_folder(hf, pictures, tmp_path):
    files = sorted((pictures / "train").rglob("*.png"))
    rows = {
        "image": [{"bytes": f.read_bytes(), "path": None} for f in files],
        "label": [("blue", "green", "red").index(f.parent.name) for f in files],
    }
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["blue", "green", "red"])})
    data = hf.Dataset.from_dict(rows, features=features)
    hf.DatasetDict({"train": data, "test": data.select([0, 9, 20])}).save_to_disk(tmp_path / "saved")
    images = open_source(f"hf:{tmp_path / 'saved'}")
    assert (images.name, images.root, len(images)) == ("saved", f"hf:{tmp_path / 'saved'}", 27)
    assert images.read(25).data == files[9].read_bytes()
    first = json.loads(penult("extract", "hf:saved", "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (first["extracted"], first["splits"]) == (24, {"test": 3, "train": 24})
    checked = penult("verify", "f.h5", "--sample", "4", cwd=tmp_path)
    assert "4 pictures extracted again" in checked.stdout
    assert "gone or changed" not in checked.stdout


def test_a_data_set_in_the_cache_by_its_name(hf, tmp_path):
    for i in range(4):
        draw(tmp_path / "p" / "train" / "ab"[i % 2] / f"{i}.png", i)
    hf.load_dataset("imagefolder", data_dir=str(tmp_path / "p"), cache_dir=tmp_path / "made")
    (prepared,) = (tmp_path / "made" / "imagefolder").glob("*/*/*/")
    place = tmp_path / "cache" / "someone___animals" / "default" / "0.0.0" / prepared.name
    shutil.copytree(prepared, place)
    for arrow in place.glob("imagefolder-*"):
        arrow.rename(place / arrow.name.replace("imagefolder", "animals"))
    images = open_source("hf:someone/animals")
    assert (images.name, images.root, images.classes) == ("animals", "hf:someone/animals", ["a", "b"])
    assert images.splits.tolist() == ["train"] * 4
    assert hf.config.HF_HUB_OFFLINE is False


def test_what_is_neither_saved_nor_cached(hf, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("hf:someone/nothing", f"hf:{tmp_path / 'empty'}"):
        with pytest.raises(MissingFile, match="neither a folder that save_to_disk wrote nor in the cache"):
            open_source(source)
