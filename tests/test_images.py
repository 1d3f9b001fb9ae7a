import os

import numpy as np
import pytest
from conftest import draw

from data.errors import ImageSetError, MissingFile
from data.images import Selection, open_images


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(images):
    labels = [images.classes[t] if t >= 0 else None for t in images.targets]
    return list(zip(images.paths, labels, images.splits.tolist(), strict=True))


def test_a_folder_of_class_folders(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/1.png", "a/deep/er/3.jpeg", "a/notes.txt", "labels.csv")
    images = open_images(tmp_path)
    assert listed(images) == [("a/deep/er/3.jpeg", "a", ""), ("b/1.png", "b", ""), ("b/2.JPG", "b", "")]
    assert images.classes == ["a", "b"]
    assert images.targets.dtype == np.int32
    assert images.name == tmp_path.name
    assert images.sizes.tolist() == [1, 1, 1]


def test_split_folders_share_one_list_of_classes(tmp_path):
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "valid/dog/2.png", "testing/cat/3.png")
    images = open_images(tmp_path)
    assert listed(images) == [
        ("testing/cat/3.png", "cat", "test"),
        ("train/cat/1.png", "cat", "train"),
        ("train/dog/1.png", "dog", "train"),
        ("valid/dog/2.png", "dog", "val"),  # index of dog is the same as in train (ultralytics#26192)
    ]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Val"])
def test_names_of_the_val_split(tmp_path, name):
    touch(tmp_path, "train/a/1.png", f"{name}/a/2.png")
    assert sorted(set(open_images(tmp_path).splits.tolist())) == ["train", "val"]


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/1.png", "bus/2.png", "plane/3.png")
    assert open_images(tmp_path).classes == ["bus", "plane", "train"]


def test_hidden_and_archivers_folders_are_no_classes(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/1.png", "a/.hidden.png", "a/._1.png")
    images = open_images(tmp_path)
    assert images.classes == ["a", "b"]
    assert len(images) == 2


def test_what_lies_beside_the_split_folders_is_passed_over_aloud(tmp_path):
    touch(tmp_path, "train/a/1.png", "val/a/2.png", "extra/3.png")
    images = open_images(tmp_path)
    assert len(images) == 2
    assert images.notes == ("passed over, beside the split folders: extra",)


def test_pictures_outside_class_folders_have_no_label(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/7.png", "test/8.png")
    images = open_images(tmp_path)
    assert listed(images)[:2] == [("test/7.png", None, "test"), ("test/8.png", None, "test")]
    assert "2 pictures have no label" in images.notes[0]
    touch(tmp_path / "loose", "1.png", "2.png")
    assert open_images(tmp_path / "loose").classes == []


def test_one_picture_and_its_folder(tmp_path):
    touch(tmp_path, "x.png")
    images = open_images(tmp_path / "x.png")
    assert [images.file(i) for i in range(len(images))] == [tmp_path / "x.png"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    os.symlink(tmp_path / "a", tmp_path / "b" / "again")
    os.symlink(tmp_path / "b", tmp_path / "b" / "circle")
    os.symlink(tmp_path / "gone.png", tmp_path / "b" / "dangling.png")
    images = open_images(tmp_path)
    assert images.paths == ["a/1.png", "b/2.png", "b/again/1.png", "b/dangling.png"]
    assert images.sizes.tolist() == [1, 1, 1, -1]


def test_a_manifest(tmp_path):
    touch(tmp_path, "p/1.png", "2.png")
    far = draw(tmp_path / "elsewhere" / "3.png", 1)
    (tmp_path / "m.csv").write_text(
        f"\ufeffPath,label,Split\np/1.png,dog,training\n2.png,cat,fold1\n{far},,\nno.png,cat,\n"
    )
    images = open_images(tmp_path / "m.csv")
    expected = [("p/1.png", "dog", "train"), ("2.png", "cat", "fold1"), (str(far), None, ""), ("no.png", "cat", "")]
    assert listed(images) == expected
    assert images.name == "m"
    assert images.file(2) == far
    assert images.sizes[3] == -1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file,label\nx.png,a\n", "its first line must name path,label"),
        ("", "its first line must name path,label"),
        ("path,label\n", "holds no pictures"),
        ("path,label\n,a\n", "line 2: the path is empty"),
    ],
)
def test_a_malformed_manifest_says_what_is_wrong(tmp_path, content, words):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(ImageSetError, match=words):
        open_images(tmp_path / "m.csv")


def test_a_manifest_that_is_no_text(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(ImageSetError, match=r"no CSV file in UTF-8"):
        open_images(tmp_path / "m.csv")


def test_no_pictures_and_no_folder(tmp_path):
    with pytest.raises(ImageSetError, match="holds no pictures"):
        open_images(tmp_path)
    with pytest.raises(MissingFile, match="does not exist"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ImageSetError, match="neither a folder, a .csv manifest nor a picture"):
        open_images(tmp_path / "a.txt")


def test_two_folders_for_one_split_are_refused(tmp_path):
    touch(tmp_path, "train/a/1.png", "val/a/1.png", "valid/a/2.png")
    with pytest.raises(ImageSetError, match="several folders for one split"):
        open_images(tmp_path)


def test_a_name_that_is_no_utf8_survives(tmp_path):
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path) + b"/a/caf\xe9.png", "wb") as file:
        file.write(b"x")
    images = open_images(tmp_path)
    assert images.file(0).exists()


@pytest.mark.parametrize("name", ["a/b", ".", "x\ny", "caf\udce9"])
def test_a_name_that_a_store_cannot_hold_is_refused_before_any_work(tmp_path, name):
    touch(tmp_path, "a/1.png")
    with pytest.raises(ImageSetError, match="an image set cannot be called"):
        open_images(tmp_path, name)


def test_a_folder_whose_name_is_no_utf8_gets_one_that_is(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.makedirs(folder + b"/a")
    with open(folder + b"/a/1.png", "wb") as file:
        file.write(b"x")
    assert open_images(os.fsdecode(folder)).name == "caf_"


def test_names_of_newer_kinds_of_pictures_are_listed(tmp_path):
    touch(tmp_path, "a/1.HEIC", "a/2.heif", "b/3.avif", "b/4.svg")
    assert open_images(tmp_path).paths == ["a/1.HEIC", "a/2.heif", "b/3.avif"]


def test_several_sources_are_titled_as_they_were_named(tmp_path, monkeypatch):
    touch(tmp_path, "p/a/1.png", "p/b/2.png", "lists/m.csv", "x.png")
    (tmp_path / "lists" / "m.csv").write_text(f"path\n../p/a/1.png\n{tmp_path}/x.png\n")
    monkeypatch.chdir(tmp_path)
    sources = ["p", "p/", "./p", "p/b/2.png", "x.png", "lists/m.csv", str(tmp_path / "p")]
    chosen = Selection([(source, open_images(source)) for source in sources])
    titles = [chosen.title(i) for i in range(len(chosen))]
    assert titles[:6] == ["p/a/1.png", "p/b/2.png"] * 3
    assert titles[6:10] == ["p/b/2.png", "x.png", "lists/../p/a/1.png", f"{tmp_path}/x.png"]
    assert titles[10:] == [f"{tmp_path}/p/a/1.png", f"{tmp_path}/p/b/2.png"]
    assert all(chosen.read(i).data == b"x" for i in range(len(chosen)))
