import concurrent.futures
import io
import json
import os
import pickle
import tarfile
import zipfile

import pytest
from conftest import TINY, draw, penult

from data.errors import ImageSetError, MissingFile
from data.images import PictureList, open_images


@pytest.fixture
def tree(tmp_path):
    """Return files by their paths: an image folder with splits, and what archivers leave beside it."""
    files = {}
    for i, path in enumerate(("train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/cat/4.png")):
        files[path] = draw(tmp_path / "drawn" / f"{i}.png", i, i).read_bytes()
    return files | {"train/cat/.hidden.png": b"x", "__MACOSX/train/cat/._1.png": b"x", "README.txt": b"pets"}


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = {"zip": write_zip, "tar": write_tar}


def listed(images):
    labels = [images.classes[t] if t >= 0 else None for t in images.targets]
    return list(zip(images.paths, labels, images.splits.tolist(), strict=True))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("wrapped", ["", "./", "pets/", "pets/v2/"])
def test_an_archive_of_an_image_folder_is_what_the_folder_is(tmp_path, tree, kind, wrapped):
    archive = WRITERS[kind](tmp_path / f"pets.{kind}", {wrapped + name: data for name, data in tree.items()})
    images = open_images(archive)
    prefix = wrapped.removeprefix("./")
    assert listed(images) == [
        (f"{prefix}test/cat/4.png", "cat", "test"),
        (f"{prefix}train/cat/1.png", "cat", "train"),
        (f"{prefix}train/dog/2.png", "dog", "train"),
        (f"{prefix}val/dog/3.png", "dog", "val"),
    ]
    assert (images.name, images.root) == ("pets", str(archive))
    for i, path in enumerate(images.paths):
        content = images.read(i)
        assert content.data == tree[path.removeprefix(prefix)]
        assert (content.size, content.mtime) == (images.sizes[i], images.mtimes[i])
        # a stored root and path alone lead back to it
        assert PictureList([(images.root, path)]).read(0) == content
    assert images.title(0) == f"{archive}/{prefix}test/cat/4.png"


@pytest.mark.parametrize("kind", WRITERS)
def test_many_threads_and_another_process_read_the_same(tmp_path, kind):
    files = {f"c{i % 7}/{i}.png": os.urandom(5000 + i) for i in range(300)}
    images = open_images(WRITERS[kind](tmp_path / f"p.{kind}", files))
    expected = [files[path] for path in images.paths]
    for picked in (images, pickle.loads(pickle.dumps(images))):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert [c.data for c in pool.map(picked.read, range(300))] == expected
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        assert pool.submit(images.read, 7).result().data == expected[7]


def test_stored_members_and_odd_ones_of_a_zip(tmp_path):
    path = write_zip(tmp_path / "p.zip", {"a/1.png": b"one" * 100}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"b/{'long' * 150}.png", b"four" * 50)
        archive.writestr("a\\2.png", b"two")  # as some writers on Windows do
        archive.writestr("a/3.png", b"three" * 50, zipfile.ZIP_LZMA)
    images = open_images(path)
    assert images.paths[:3] == ["a/1.png", "a/2.png", "a/3.png"]
    assert images.classes == ["a", "b"]
    assert [images.read(i).data for i in (0, 1, 3)] == [b"one" * 100, b"two", b"four" * 50]
    with pytest.raises(OSError, match="compressed by zip's method 14: pack it again"):
        images.read(2)


def test_an_encrypted_member_says_so(tmp_path):
    path = write_zip(tmp_path / "p.zip", {"a/1.png": b"one", "a/2.png": b"two"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    images = open_images(path)
    with pytest.raises(OSError, match="it is encrypted in its archive"):
        images.read(0)
    assert images.read(1).data == b"two"


def test_links_in_a_tar_lead_to_their_files(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a/1.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
        for name, kind, target in (
            ("b/hard.png", tarfile.LNKTYPE, "a/1.png"),
            ("b/soft.png", tarfile.SYMTYPE, "../a/1.png"),
            ("b/gone.png", tarfile.SYMTYPE, "no.png"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    images = open_images(path)
    assert images.paths == ["a/1.png", "b/gone.png", "b/hard.png", "b/soft.png"]
    assert [images.read(i).data for i in (0, 2, 3)] == [b"one"] * 3
    with pytest.raises(OSError, match="a link to b/no.png, which its archive lacks"):
        images.read(1)


def test_long_names_and_the_last_of_two_members(tmp_path):
    name = "a/" + "x" * 150 + ".png"
    path = write_tar(tmp_path / "p.tar", {name: b"old", "b/1.png": b"b"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"new"))
    images = open_images(path)
    assert images.paths == [name, "b/1.png"]
    assert images.read(0).data == b"new"


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0, 100, 700, 5000])
def test_a_cut_off_archive_is_refused(tmp_path, kind, keep):
    path = WRITERS[kind](tmp_path / f"p.{kind}", {f"a/{i}.png": os.urandom(2000) for i in range(9)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageSetError, match=r"p\.(zip|tar) .*(damaged or cut off|holds no pictures)"):
        open_images(path)


def test_a_damaged_header_in_the_middle_of_a_tar_hides_no_pictures(tmp_path):
    path = write_tar(tmp_path / "p.tar", {f"a/{i}.png": b"x" * 100 for i in range(9)})
    data = bytearray(path.read_bytes())
    data[3 * 1024 + 148] ^= 0x40  # the fourth header's checksum
    path.write_bytes(data)
    with pytest.raises(ImageSetError, match="no header at byte 3,072"):
        open_images(path)


def test_a_flipped_bit_in_a_zip_is_a_reason(tmp_path):
    path = write_zip(tmp_path / "p.zip", {"a/1.png": os.urandom(3000), "a/2.png": b"fine"})
    images = open_images(path)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OSError, match="its archive is damaged"):
        images.read(0)
    assert images.read(1).data == b"fine"


def test_an_archive_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = write_tar(tmp_path / "p.tar", {"a/1.png": b"x" * 100, "a/2.png": b"y" * 100})
    images = open_images(path)
    write_tar(path, {"a/0.png": b"z" * 3000, "a/1.png": b"x" * 100})
    with pytest.raises(OSError, match="has changed since it was listed"):
        images.read(0)


def test_what_is_compressed_as_a_whole_gets_one_clear_sentence(tmp_path):
    path = write_tar(tmp_path / "p.tar.gz", {"a/1.png": b"x"}, "w:gz")
    with pytest.raises(ImageSetError, match="p.tar.gz is compressed, .* decompress it to a .tar"):
        open_images(path)
    path.rename(tmp_path / "q.tar")
    with pytest.raises(ImageSetError, match="q.tar is compressed, .* decompress it first"):
        open_images(tmp_path / "q.tar")


def shard(path, first, n, kind):
    """Write a WebDataset shard of numbered samples whose label is their remainder by 3."""
    text = {"cls": str, "txt": "kind {}".format, "json": lambda c: json.dumps({"label": c, "by": "me"})}[kind]
    files = {}
    for i in range(first, first + n):
        files[f"{i:05d}.jpg"] = b"picture %d" % i
        files[f"{i:05d}.{kind}"] = text(i % 3).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tar(path, files)


@pytest.mark.parametrize(("kind", "word"), [("cls", ""), ("json", ""), ("txt", "kind ")])
def test_a_webdataset_shard(tmp_path, kind, word):
    images = open_images(shard(tmp_path / "s.tar", 0, 6, kind))
    assert images.classes == [f"{word}{i}" for i in range(3)]
    assert images.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert images.read(4).data == b"picture 4"


def test_a_text_beside_a_picture_in_class_folders_is_no_label(tmp_path):
    images = open_images(write_tar(tmp_path / "p.tar", {"a/1.jpg": b"x", "a/1.txt": b"sunset", "b/2.jpg": b"y"}))
    assert images.classes == ["a", "b"]


@pytest.mark.parametrize("source", ["", "/*.tar", "/{train,val}-{0000..0001}.tar", "/{train-*,val-*}.tar"])
def test_shards_by_folder_and_by_pattern(tmp_path, source):
    folder = tmp_path / "shards"
    for k, name in enumerate(("train-0000", "train-0001", "val-0000", "val-0001")):
        shard(folder / f"{name}.tar", 10 * k, 4, "cls")
    images = open_images(f"{folder}{source}")
    assert (images.name, images.root, len(images)) == ("shards", str(folder), 16)
    assert images.paths[4] == "train-0001.tar/00010.jpg"
    assert images.splits.tolist() == ["train"] * 8 + ["val"] * 8
    assert PictureList([(images.root, images.paths[4])]).read(0).data == images.read(4).data == b"picture 10"


def test_a_shard_that_a_pattern_names_must_be_there(tmp_path):
    shard(tmp_path / "s-0.tar", 0, 2, "cls")
    with pytest.raises(MissingFile, match=r"s-1.tar names no file: check the pattern"):
        open_images(tmp_path / "s-{0..2}.tar")
    with pytest.raises(MissingFile, match=r"t-\*.tar names no file"):
        open_images(tmp_path / "t-*.tar")


def test_a_folder_that_is_called_like_an_archive_stays_a_folder(tmp_path):
    draw(tmp_path / "old.zip" / "a" / "1.png", 1)
    draw(tmp_path / "old.zip" / "b" / "2.png", 2)
    images = open_images(tmp_path / "old.zip")
    assert images.classes == ["a", "b"]
    assert images.read(0).data == PictureList([(images.root, "a/1.png")]).read(0).data


@pytest.mark.parametrize("kind", WRITERS)
def test_an_archive_through_the_command_line(tmp_path, pictures, kind):
    files = {str(p.relative_to(pictures)): p.read_bytes() for p in sorted(pictures.rglob("*.png"))}
    archive = WRITERS[kind](tmp_path / f"p.{kind}", files)
    os.utime(archive, (1e9, 1e9))
    folder = penult("extract", "pictures", "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path)
    assert json.loads(folder.stdout)["extracted"] == 36
    first = json.loads(penult("extract", archive.name, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert (first["images"], first["extracted"], first["splits"]) == (36, 0, {"test": 12, "train": 24})
    again = json.loads(penult("extract", archive.name, "-o", "f.h5", *TINY, "--json", "-", cwd=tmp_path).stdout)
    assert again["stage_seconds"]["read"] == 0  # the archive is as it was: nothing is read
    assert penult("verify", "f.h5", "--sample", "5", cwd=tmp_path).returncode == 0
    assert penult("fit", "f.h5", "--dataset", "p", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    done = penult("predict", "lr.head", archive.name, "--json", "-", cwd=tmp_path)
    paths = [p["path"] for p in json.loads(done.stdout)["predictions"]]
    assert paths[0] == f"p.{kind}/test/blue/0.png"
    assert len(paths) == 36
