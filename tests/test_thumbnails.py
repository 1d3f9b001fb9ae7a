"""Thumbnails of a bundle: what they show, how many there is room for, and what is done where they are damaged."""

import io
import shutil
import zipfile

import numpy as np
import pytest
from bundles import PLAIN, load
from conftest import TINY, digest_of, draw, penult
from PIL import Image

from data.errors import DamagedStore
from data.store import FeatureStore
from data.thumbnails import Thumbnails, thumbnails_of, write_thumbnails
from extract.thumbnails import thumbnail


def test_thumbnails_are_looked_up_by_content(kit):
    view = FeatureStore(kit / "plain").view()
    with thumbnails_of(kit / "plain") as thumbnails:
        assert len(thumbnails) == 39
        assert thumbnails.digests() == {digest.decode() for digest in view.digests.tolist()}
        for digest, path in zip(view.digests.tolist(), view.paths, strict=True):
            jpeg = thumbnails.get(digest)
            assert jpeg == thumbnails.get(digest.decode())
            with Image.open(io.BytesIO(jpeg)) as small, Image.open(kit / "pictures" / path) as picture:
                assert (small.format, small.size) == ("JPEG", (168, 67))
                off = np.asarray(small).mean(axis=(0, 1)) - np.asarray(picture).mean(axis=(0, 1))
            assert np.abs(off).max() < 4
        assert thumbnails.get(digest_of(1)) is None
        assert thumbnails.get("../x") is None
    assert thumbnails_of(kit / "f.h5") is None


def test_a_thumbnail_is_upright_and_no_larger_than_its_picture():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (0, 0, 60, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    with Image.open(io.BytesIO(thumbnail(file.getvalue()))) as small:
        assert small.size == (56, 168)
        assert small.getpixel((28, 5))[0] < 40  # what was left is on top
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    with Image.open(io.BytesIO(thumbnail(file.getvalue()))) as small:
        assert small.size == (28, 28)
    with pytest.raises(ValueError, match="no picture"):
        thumbnail(b"nonsense")


def test_where_room_is_scarce_what_is_measured_has_thumbnails(kit, tmp_path):
    whole = (kit / "plain" / "thumbnails.zip").stat().st_size
    room = whole * 20 // 39
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--thumbnails", f"{room / 1000}kB", *PLAIN, cwd=kit)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "thumbnails.zip").stat().st_size <= room
    with thumbnails_of(tmp_path / "b") as thumbnails:
        assert {d.decode() for d in load(tmp_path / "b").digests.tolist()} <= thumbnails.digests()
        assert 15 <= len(thumbnails) < 39
        assert f"{len(thumbnails)} of 39 pictures have thumbnails" in done.stdout


def test_thumbnails_outlive_their_pictures_and_none_is_made_of_another_picture(kit, tmp_path):
    shutil.copytree(kit / "pictures", tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    draw(tmp_path / "pictures" / "test" / "red" / "0.png", 999, 1)
    (tmp_path / "pictures" / "test" / "red" / "1.png").unlink()
    done = penult("pack", "f.h5", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 39 pictures have no thumbnail" in done.stdout
    shutil.rmtree(tmp_path / "pictures")
    (tmp_path / "f.h5").unlink()
    assert penult("pack", "b", "-o", "c", "--dtype", "float16", cwd=tmp_path).returncode == 0
    with thumbnails_of(tmp_path / "b") as before, thumbnails_of(tmp_path / "c") as after:
        assert len(after) == 37
        assert all(before.get(digest) == after.get(digest) for digest in before.digests())


def test_a_damaged_file_of_thumbnails_is_an_error_and_no_absence(tmp_path):
    path = tmp_path / "t.zip"
    assert write_thumbnails(path, [(b"a" * 64, b"jpeg" * 10), (b"b" * 64, b"jpeg")], 10_000) == (2, False)
    content = path.read_bytes()
    assert zipfile.ZipFile(path).namelist() == ["a" * 64 + ".jpg", "b" * 64 + ".jpg"]
    path.write_bytes(content.replace(b"jpegjpeg", b"jpegJPEG", 1))
    with Thumbnails(path) as thumbnails, pytest.raises(DamagedStore, match="copy the bundle again"):
        thumbnails.get("a" * 64)
    path.write_bytes(content[:40])
    with pytest.raises(DamagedStore, match="is no file of thumbnails"):
        Thumbnails(path).get("a" * 64)
    path.unlink()
    with pytest.raises(DamagedStore, match=r"t\.zip is not there: copy the bundle again"):
        Thumbnails(path).get("a" * 64)
