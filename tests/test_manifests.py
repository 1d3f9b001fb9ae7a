import concurrent.futures
import json
import os
import pickle
import shlex

import h5py
import pytest
from conftest import TINY, draw, penult

from classify.artifact import load_head
from classify.page.origin import origin
from data.errors import ImageSetError
from data.images import PictureList, open_images
from data.store import FeatureStore
from extract.listed import extract_listed
from extract.networks import Setup
from extract.wanted import Wanted

pa = pytest.importorskip("pyarrow", reason="the extra [sources] is not installed")
import pyarrow.parquet as pq  # noqa: E402


def listed(images):
    labels = [images.classes[t] if t >= 0 else None for t in images.targets]
    return list(zip(images.paths, labels, images.splits.tolist(), strict=True))


ROWS = [
    {"path": "p/1.png", "label": "dog", "split": "training"},
    {"path": "2.png", "label": "cat", "split": "fold1"},
    {"path": "no.png", "label": None, "split": None},
]


def write(path, rows):
    """Write one manifest as what its name says."""
    if path.suffix == ".csv":
        lines = [f"{r['path']},{r['label'] or ''},{r['split'] or ''}" for r in rows]
        path.write_text("\n".join(["path,label,split", *lines]) + "\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.ndjson", "m.parquet"])
def test_every_kind_of_manifest_says_the_same(tmp_path, name):
    draw(tmp_path / "p" / "1.png", 1)
    draw(tmp_path / "2.png", 2)
    far = draw(tmp_path / "elsewhere" / "3.png", 3)
    rows = [*ROWS, {"path": str(far), "label": "cat", "split": "val"}]
    rows.append({"path": f"file://{far}", "label": "7", "split": "test"})
    images = open_images(write(tmp_path / name, rows))
    assert listed(images) == [
        ("p/1.png", "dog", "train"),
        ("2.png", "cat", "fold1"),
        ("no.png", None, ""),
        (str(far), "cat", "val"),
        (str(far), "7", "test"),
    ]
    assert (images.name, images.root) == ("m", str(tmp_path))
    assert images.sizes[2] == -1
    assert images.read(0).data == (tmp_path / "p" / "1.png").read_bytes()
    assert images.read(3).data == far.read_bytes()
    with pytest.raises(FileNotFoundError):
        images.read(2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"path": "1.png"}\n{"path": \n', "m.jsonl, line 2 is no JSON .*write one object"),
        ('{"file": "1.png"}\n', "line 1 names no picture: each line needs a path"),
        ('["1.png", "a"]\n', "line 1 names no picture"),
        ("", "holds no pictures"),
    ],
)
def test_a_malformed_list_of_json_says_which_line(tmp_path, text, words):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ImageSetError, match=words):
        open_images(tmp_path / "m.jsonl")


def test_a_malformed_parquet_file_says_what_is_wrong(tmp_path):
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ImageSetError, match="m.parquet is no Parquet file, or damaged"):
        open_images(path)
    pq.write_table(pa.table({"file": ["1.png"], "label": [1]}), path)
    with pytest.raises(ImageSetError, match="has the columns file, label: it needs path,label"):
        open_images(path)
    pq.write_table(pa.table({"path": ["1.png", None], "label": [1, 2]}), path)
    with pytest.raises(ImageSetError, match="row 1: the path is empty"):
        open_images(path)


def write_pictures(path, pictures, labels, names=None, layout="struct", group=10):
    """Write a Parquet file that holds pictures, as Hugging Face does where `names` are given."""
    column = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]
    if layout == "bytes":
        column = list(pictures)
    table = pa.table({"image": column, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("layout", ["struct", "bytes"])
def test_pictures_inside_a_parquet_file(tmp_path, layout):
    pictures = [os.urandom(500 + i) for i in range(35)]
    labels = [i % 2 if i else -1 for i in range(35)]
    images = open_images(write_pictures(tmp_path / "p.parquet", pictures, labels, ["wolf", "bear"], layout))
    assert listed(images)[:3] == [("0", None, ""), ("1", "bear", ""), ("2", "wolf", "")]
    assert images.root == str(tmp_path / "p.parquet")
    for picked in (images, pickle.loads(pickle.dumps(images))):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert [c.data for c in pool.map(picked.read, range(35))] == pictures
    content = PictureList([(images.root, "34")]).read(0)
    assert content == images.read(34)
    assert (content.size, content.mtime) == (images.sizes[34], images.mtimes[34])
    with pytest.raises(OSError, match="holds no such picture"):
        PictureList([(images.root, "35")]).read(0)


def test_labels_without_names_and_pictures_by_path_in_a_table(tmp_path):
    draw(tmp_path / "x" / "1.png", 1)
    column = [{"bytes": None, "path": "x/1.png"}, {"bytes": b"two", "path": None}, None]
    pq.write_table(pa.table({"img": column, "label": [3, 12, None]}), tmp_path / "p.parquet")
    images = open_images(tmp_path / "p.parquet")
    assert images.classes == ["12", "3"]
    assert images.targets.tolist() == [1, 0, -1]
    assert images.read(0).data == (tmp_path / "x" / "1.png").read_bytes()
    assert images.read(1).data == b"two"
    with pytest.raises(OSError, match="the row holds no picture"):
        images.read(2)


def test_one_picture_costs_one_row_group_of_one_column(tmp_path, monkeypatch):
    images = open_images(write_pictures(tmp_path / "p.parquet", [b"%d" % i for i in range(40)], [0] * 40))
    asked = []
    real = pq.ParquetFile.read_row_group

    def read_row_group(self, i, columns=None):
        asked.append((i, columns))
        return real(self, i, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    for i in (25, 21, 29, 30, 28, 5, 25):
        assert images.read(i).data == b"%d" % i
    # two groups are kept; the third drops the one that was used longest ago
    assert asked == [(2, ["image"]), (3, ["image"]), (0, ["image"])]


def test_shards_of_parquet_with_splits_in_their_names(tmp_path):
    (tmp_path / "data").mkdir()
    for k, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")):
        pictures = [b"%d %d" % (k, i) for i in range(5)]
        write_pictures(tmp_path / "data" / f"{name}.parquet", pictures, [0, 1, 0, 1, 0], ["a", "b"])
    images = open_images(tmp_path / "data")
    assert images.splits.tolist() == ["train"] * 10 + ["val"] * 5
    assert images.paths[7] == "train-00001-of-00002.parquet/2"
    assert images.read(7).data == b"1 2"


def test_a_parquet_file_of_pictures_through_the_command_line(tmp_path, pictures):
    files = sorted(pictures.rglob("*.png"))
    contents = [path.read_bytes() for path in files]
    labels = [("blue", "green", "red").index(path.parent.name) for path in files]
    path = write_pictures(tmp_path / "p.parquet", contents, labels, ["blue", "green", "red"])
    os.utime(path, (1e9, 1e9))
    result = json.loads(penult("extract", "p.parquet", "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (result["extracted"], result["skipped"]) == (36, [])
    again = json.loads(penult("extract", "p.parquet", "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert again["stage_seconds"]["read"] == 0
    assert penult("verify", "f.h5", "--sample", "3", cwd=tmp_path).returncode == 0
    penult("fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path)
    done = json.loads(penult("predict", "lr.head", "p.parquet", "--json", "-", cwd=tmp_path).stdout)
    assert done["predictions"][0]["path"] == "p.parquet/0"


def test_a_store_remembers_the_manifest_and_the_name_and_a_report_repeats_them(pictures, tmp_path):
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(pictures.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    made = ("extract", "list.csv", "-o", "f.h5", "--name", "my pets", *TINY)
    assert penult(*made, cwd=tmp_path).returncode == 0
    store, head = FeatureStore(tmp_path / "f.h5"), tmp_path / "c.head"
    wanted = Wanted(TINY[1], "random", layers=("layer3",))
    extract_listed(store.path, store.view(), wanted, Setup("torch", "cpu", batch_size=3))  # keeps it
    (added,) = (info for info in store.features().values() if info.spec.layer == "layer3")
    assert added.provenance[-1]["batch_size"] == 3
    view = store.view()
    assert (view.root, view.source, view.named) == (str(tmp_path), str(tmp_path / "list.csv"), True)
    with h5py.File(store.path) as file:
        provenance = json.loads(file["datasets/my pets"].attrs["provenance"])
    assert provenance == {"source": view.source, "named": True}
    assert penult("fit", store.path, "--head", "centroid", "-o", head).returncode == 0
    told = origin(store, view, [load_head(head)], lambda spec: "", "penult report")["commands"][0]
    program, *again = shlex.split(told)
    assert program == "penult"
    again[again.index("-o") + 1] = str(tmp_path / "again.h5")
    assert penult(*again).returncode == 0
    assert FeatureStore(tmp_path / "again.h5").view().same_as(view)
