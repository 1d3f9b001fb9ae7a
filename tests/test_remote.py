import concurrent.futures
import json
import pickle
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import TINY, draw, penult

from data.errors import ImageSetError, MissingDependency, MissingFile
from data.images import PictureList, open_images
from extract.datasets import open_source

fsspec = pytest.importorskip("fsspec", reason="the extra [sources] is not installed")


@pytest.fixture
def server(s3):
    """Return a client of the S3 server, or skip."""
    if s3 is None:
        pytest.skip("moto[server] or s3fs is not installed")
    return s3


@pytest.fixture
def bucket(server, request):
    """Return a function that puts a file into a bucket of this test alone; `bucket.name` is its name."""
    name = f"b{abs(hash(request.node.name))}"
    server.create_bucket(Bucket=name)

    def put(key, data):
        server.put_object(Bucket=name, Key=key, Body=data)

    put.name = name
    return put


def picture(seed, tmp_path, hue=0):
    return draw(tmp_path / f"{seed}.png", seed, hue).read_bytes()


def test_a_folder_in_a_bucket_is_what_a_folder_is(bucket, tmp_path):
    files = {
        f"pets/{split}/{name}/{i}.png": picture(10 * i + len(name), tmp_path)
        for split in ("train", "val")
        for name in ("cat", "snake")
        for i in range(3)
    }
    for key, data in {**files, "pets/train/.cache/x.png": b"x", "pets/README.md": b"x", "other/1.png": b"x"}.items():
        bucket(key, data)
    images = open_images(f"s3://{bucket.name}/pets/")
    assert (images.name, images.root) == ("pets", f"s3://{bucket.name}/pets")
    assert [f"pets/{path}" for path in images.paths] == sorted(files)
    assert set(images.splits.tolist()) == {"train", "val"}
    assert images.classes == ["cat", "snake"]
    assert abs(images.mtimes[0] / 1e9 - time.time()) < 60
    contents = [files[f"pets/{path}"] for path in images.paths]
    assert images.sizes.tolist() == [len(c) for c in contents]
    for picked in (images, pickle.loads(pickle.dumps(images))):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            read = list(pool.map(picked.read, range(len(images))))
        assert [c.data for c in read] == contents
        assert [(c.size, c.mtime) for c in read] == list(zip(images.sizes, images.mtimes, strict=True))
    assert PictureList([(images.root, images.paths[5])]).read(0).data == contents[5]


def test_one_picture_a_manifest_and_an_archive_in_a_bucket(bucket, tmp_path):
    data = [picture(i, tmp_path) for i in range(12)]
    near = draw(tmp_path / "near.png", 99)
    for i in range(10):
        bucket(f"lists/many/{i}.png", data[i])
    bucket("lists/few/10.png", data[10])
    lines = [{"path": f"many/{i}.png", "label": "ab"[i % 2]} for i in range(10)]
    lines += [{"path": f"s3://{bucket.name}/lists/few/10.png", "label": "a"}, {"path": str(near), "label": "b"}]
    lines += [{"path": "many/gone.png", "label": "b"}, {"path": "few/gone.png", "label": "b"}]
    bucket("lists/m.jsonl", "\n".join(json.dumps(line) for line in lines).encode())
    images = open_images(f"s3://{bucket.name}/lists/m.jsonl")
    assert images.root == f"s3://{bucket.name}/lists"
    assert [images.read(i).data for i in range(12)] == [*data[:11], near.read_bytes()]
    assert (images.mtimes[:12] > 0).all()
    assert images.sizes[12:].tolist() == [-1, -1]
    with pytest.raises(FileNotFoundError):
        images.read(12)

    alone = open_images(f"s3://{bucket.name}/lists/few/10.png")
    assert (len(alone), alone.read(0).data, alone.title(0)) == (1, data[10], f"s3://{bucket.name}/lists/few/10.png")

    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for i in range(4):
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", data[i])
    bucket("p.zip", (tmp_path / "p.zip").read_bytes())
    packed = open_images(f"s3://{bucket.name}/p.zip")
    assert packed.paths == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"]
    assert packed.read(3).data == data[3]
    assert PictureList([(packed.root, "b/1.png")]).read(0).data == data[1]


def test_shards_and_parquet_in_a_bucket(bucket, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    from test_archives import shard

    for k in range(2):
        bucket(f"wds/train-{k}.tar", shard(tmp_path / f"{k}.tar", 10 * k, 4, "cls").read_bytes())
    for source in ("wds", "wds/train-{0..1}.tar", "wds/*.tar"):
        images = open_images(f"s3://{bucket.name}/{source}")
        assert (images.root, len(images)) == (f"s3://{bucket.name}/wds", 8)
        assert images.read(5).data == b"picture 11"
    pq.write_table(pa.table({"image": [b"one", b"two"], "label": ["a", "b"]}), tmp_path / "p.parquet")
    bucket("t/p.parquet", (tmp_path / "p.parquet").read_bytes())
    table = open_images(f"s3://{bucket.name}/t/p.parquet")
    assert [table.read(i).data for i in range(2)] == [b"one", b"two"]
    assert table.read(1).mtime == table.mtimes[1] > 0


def test_what_is_not_there_and_what_may_not_be_read(bucket, server, monkeypatch):
    with pytest.raises(MissingFile, match="does not exist"):
        open_images(f"s3://{bucket.name}/nothing")
    bucket("empty/readme.md", b"x")
    with pytest.raises(ImageSetError, match="holds no pictures"):
        open_images(f"s3://{bucket.name}/empty")
    with pytest.raises(ImageSetError, match="cannot be read .*: check address and credentials"):
        open_images("nosuchcloud://bucket/pets")


def test_a_bucket_through_the_command_line(bucket, pictures, tmp_path):
    for path in sorted(pictures.rglob("*.png")):
        bucket(f"p/{path.relative_to(pictures)}", path.read_bytes())
    source = f"s3://{bucket.name}/p"
    time.sleep(2.1)  # what is younger may still change within its clock's tick, and is read again by design
    first = json.loads(penult("extract", source, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (first["extracted"], first["skipped"]) == (36, [])
    again = json.loads(penult("extract", source, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (again["reused"], again["stage_seconds"]["read"]) == (36, 0)
    bucket("p/train/red/new.png", picture(500, tmp_path))
    bucket("p/train/red/bad.png", b"no picture")
    more = json.loads(penult("extract", source, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (more["extracted"], [s["path"] for s in more["skipped"]]) == (1, ["train/red/bad.png"])
    checked = penult("verify", "f.h5", "--sample", "4", cwd=tmp_path)
    assert "4 pictures extracted again" in checked.stdout
    penult("fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path)
    done = json.loads(penult("predict", "lr.head", f"{source}/test", "--json", "-", cwd=tmp_path).stdout)
    assert done["predictions"][0]["path"] == f"{source}/test/blue/0.png"


def test_addresses_of_other_kinds(tmp_path):
    system = fsspec.filesystem("memory")
    data = [picture(i, tmp_path) for i in range(2)]
    for i, name in enumerate("ab"):
        system.pipe(f"/pets/{name}/{i}.png", data[i])
    images = open_images("memory://pets")
    assert images.classes == ["a", "b"]
    assert [images.read(i).data for i in range(2)] == data
    assert (images.mtimes == -1).all()  # it gives no time of the last change, so each is looked at again
    folder = tmp_path / "local"
    draw(folder / "a" / "1.png", 1)
    local = open_images(f"file://{folder}")
    assert local.root == str(folder)
    assert np.array_equal(local.mtimes, open_images(folder).mtimes)


def test_a_web_server(tmp_path):
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    data = draw(tmp_path / "p" / "a" / "1.png", 1).read_bytes()
    draw(tmp_path / "p" / "b" / "2.png", 2)
    (tmp_path / "m.csv").write_text("path,label\np/a/1.png,a\np/b/2.png,b\n")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{running.server_port}"
        images = open_images(f"{base}/m.csv")
        assert images.root == base
        assert images.read(0).data == data
        assert images.read(0).mtime == -1
        assert open_images(f"{base}/p/a/1.png").read(0).data == data
        tree = open_images(f"{base}/p/")
        assert tree.root == f"{base}/p"
        assert (tree.paths, tree.classes) == (["a/1.png", "b/2.png"], ["a", "b"])
        assert tree.read(0).data == data
        with pytest.raises(MissingFile):
            open_images(f"{base}/none.png")
        running.shutdown()
    with pytest.raises(ImageSetError, match="m.csv cannot be read .*: check address and credentials"):
        open_images(f"{base}/m.csv")  # nobody is there any more: that is no missing file


@pytest.mark.parametrize(
    ("package", "source", "extra"),
    [
        ("fsspec", "s3://bucket/pets", r"\.\[sources\]"),
        ("s3fs", "s3://bucket/pets", r"\.\[sources,cloud\]"),
        ("pyarrow.parquet", "p.parquet", r"\.\[sources\]"),
        ("datasets", "hf:pets", r"\.\[hub\]"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, package, source, extra):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    if package == "s3fs":
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingDependency, match=extra):
        open_source(source)
