"""What `info` finds in a drawn set of pictures, every kind of oddity planted once."""

import json

import numpy as np
import pytest
from conftest import draw
from PIL import Image
from rich.console import Console

from data.images import open_images
from extract.statistics import describe
from extract.survey import read_header, survey
from extract.survey_report import print_survey


def plain(path, mode="RGB", size=(30, 20), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, options.pop("color", 77)).save(path, **options)
    return path


def turned(path, orientation, size=(30, 20), **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return plain(path, size=size, exif=exif, **options)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """24 files: 14 cats and 9 dogs in train and test, one loose; nearly all that can be odd about one."""
    folder = tmp_path_factory.mktemp("set") / "zoo"
    for i in range(8):
        draw(folder / "train/cat" / f"{i}.png", i)
    for i in range(4):
        draw(folder / "train/dog" / f"{i}.png", 20 + i)
    draw(folder / "test/cat/same.png", 3)  # across splits
    draw(folder / "test/dog/same.png", 20)  # across splits
    draw(folder / "train/dog/cat.png", 5)  # under two labels
    draw(folder / "train/cat/again.png", 6)  # a plain copy
    whole = draw(folder / "test/dog/cut.png", 60).read_bytes()
    (folder / "test/dog/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "test/dog/text.jpg").write_text("this is no picture")
    (folder / "test/dog/empty.jpg").write_bytes(b"")
    plain(folder / "test/cat/ink.jpg", "CMYK", (200, 20))
    plain(folder / "test/cat/palette.gif", "P", (20, 100))
    Image.fromarray(np.full((20, 30), 40_000, dtype=np.uint16)).save(folder / "test/cat/deep.png")
    turned(folder / "test/loose.jpg", 6)
    draw(folder / "x.png", 61).rename(folder / "test/cat/really_a.jpg")
    return folder


def described(folder, **options):
    return describe(survey(open_images(folder), **options))


def report(result):
    console = Console(width=160, markup=False, highlight=False)
    with console.capture() as said:
        print_survey(console, result)
    return said.get()


def test_counts_per_class_and_split(zoo):
    result = described(zoo)
    assert result["pictures"] == 24
    assert result["bytes"] == sum(p.stat().st_size for p in zoo.rglob("*.*"))
    assert result["splits"] == {"train": 14, "test": 10}
    assert [(c["name"], c["splits"], c["pictures"], c["unreadable"]) for c in result["classes"]] == [
        ("cat", {"train": 9, "test": 5}, 14, 0),
        ("dog", {"train": 5, "test": 4}, 9, 3),
    ]
    assert result["unlabelled"] == {"pictures": 1, "unreadable": 0, "splits": {"train": 0, "test": 1}}
    assert result["imbalance"] == {"ratio": 1.56, "largest": "cat", "smallest": "dog"}


def test_what_the_files_are_by_content(zoo):
    result = described(zoo)
    assert result["formats"] == {"PNG": 19, "JPEG": 2, "GIF": 1}  # the cut one has its header still
    assert result["modes"] == {"RGB": 19, "CMYK": 1, "P": 1, "I;16": 1}
    assert result["mismatches"] == [{"path": "test/cat/really_a.jpg", "format": "PNG"}]
    assert result["orientations"] == {"6": 1}
    assert result["animated"] == []
    assert result["width"] == {"min": 20, "quarter": 40, "median": 40, "three_quarters": 40, "max": 200}
    assert result["height"] == {"min": 20, "quarter": 32, "median": 32, "three_quarters": 32, "max": 100}
    extremes = {name: (e["path"], e["width"], e["height"]) for name, e in result["extremes"].items()}
    assert extremes["widest"] == ("test/cat/ink.jpg", 200, 20)
    assert extremes["tallest"] == ("test/cat/palette.gif", 20, 100)
    assert extremes["largest"] == ("test/cat/ink.jpg", 200, 20)
    assert np.prod(extremes["smallest"][1:]) == 600


def test_copies_are_grouped_and_called_out_across_labels_and_splits(zoo):
    found = described(zoo)["duplicates"]
    assert (found["copies"], found["across_splits"], found["under_two_labels"]) == (4, 2, 1)
    assert [(g["paths"], g["splits"], g["labels"]) for g in found["groups"]] == [
        (["train/cat/5.png", "train/dog/cat.png"], ["train"], ["cat", "dog"]),
        (["test/cat/same.png", "train/cat/3.png"], ["test", "train"], ["cat"]),
        (["test/dog/same.png", "train/dog/0.png"], ["test", "train"], ["dog"]),
        (["train/cat/6.png", "train/cat/again.png"], ["train"], ["cat"]),
    ]


def test_unreadable_files_have_the_reasons_of_an_extraction(zoo):
    reasons = {item["path"]: item["reason"] for item in described(zoo)["unreadable"]}
    assert set(reasons) == {"test/dog/cut.png", "test/dog/empty.jpg", "test/dog/text.jpg"}
    assert reasons["test/dog/empty.jpg"] == "the file is empty"
    assert reasons["test/dog/text.jpg"] == "no picture that Pillow can read (it begins with b'this is ')"
    assert "damaged" in reasons["test/dog/cut.png"]


def test_quick_differs_in_what_is_damaged_behind_the_header_alone(zoo):
    quick, full = described(zoo, quick=True), described(zoo)
    assert [item["path"] for item in quick["unreadable"]] == ["test/dog/empty.jpg", "test/dog/text.jpg"]
    assert (quick["decoded"], full["decoded"]) == (False, True)
    assert quick["duplicates"] == full["duplicates"]
    assert quick["formats"] == full["formats"]


def test_the_number_of_threads_changes_nothing(zoo):
    one, many = described(zoo, workers=1), described(zoo, workers=7)
    del one["seconds"], many["seconds"]
    assert one == many


def test_the_report_says_what_is_odd(zoo):
    said = report(described(zoo))
    for line in (
        "zoo: 24 pictures, ",
        "cat           9     5        14   58.3%           0",
        "(no label)    0     1         1    4.2%           0",
        "imbalance 1.56: cat has that many times the pictures of dog",
        "widest    200 x 20  10.00 : 1  test/cat/ink.jpg",
        "EXIF     turned right 1, which the network sees upright",
        "note: 1 file named for another format than the content: test/cat/really_a.jpg is PNG",
        "4 pictures are exact copies of others; 2 contents in two splits; 1 content under two labels:",
        "  train/cat/5.png = train/dog/cat.png (labels cat, dog)",
        "3 unreadable files:",
        "  test/dog/empty.jpg: the file is empty",
    ):
        assert " ".join(line.split()) in " ".join(said.split())
    json.dumps(described(zoo), allow_nan=False)


def test_many_classes_are_shown_by_their_ends(tmp_path):
    for i in range(40):
        for k in range(3 if i == 17 else 1 if i == 23 else 2):
            plain(tmp_path / "many" / f"class{i:02d}" / f"{k}.png")
    result = described(tmp_path / "many")
    said = report(result)
    assert len(result["classes"]) == 40
    assert "... 24 more (all of them: --json -)" in said
    shown = [line.split()[0] for line in said.splitlines() if line.startswith("class") and line[5:7].isdigit()]
    assert (len(shown), shown[0], shown[-1]) == (16, "class17", "class23")
    assert result["imbalance"] == {"ratio": 3.0, "largest": "class17", "smallest": "class23"}


def test_a_class_that_a_split_lacks_is_named(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        plain(tmp_path / "set" / name / "1.png")
    assert "note: split 'test' has no picture of b" in report(described(tmp_path / "set"))


def test_pictures_without_labels_and_without_any_that_can_be_read(tmp_path):
    plain(tmp_path / "loose/1.png")
    result = described(tmp_path / "loose")
    assert (result["classes"], result["imbalance"], result["unlabelled"]["pictures"]) == ([], None, 1)
    assert "no picture has a label" in report(result)
    (tmp_path / "loose/1.png").write_bytes(b"")
    bad = described(tmp_path / "loose")
    assert (bad["width"], bad["formats"], bad["duplicates"]["groups"]) == (None, {}, [])
    assert "loose: 1 picture" in report(bad)


def test_a_file_that_is_gone_by_now_is_one_more_reason(tmp_path):
    plain(tmp_path / "set/a/1.png")
    gone = plain(tmp_path / "set/a/2.png")
    images = open_images(tmp_path / "set")
    gone.unlink()
    assert describe(survey(images))["unreadable"] == [
        {"path": "a/2.png", "reason": "cannot be read: no such file or directory"}
    ]


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
def test_a_turned_picture_has_the_size_that_is_shown(tmp_path, extension):
    content = turned(tmp_path / f"1.{extension}", 8, (30, 20)).read_bytes()
    header = read_header(content)
    assert (header.width, header.height, header.orientation) == (20, 30, 8)


def test_an_orientation_without_a_meaning_is_upright_and_said(tmp_path):
    turned(tmp_path / "set/a/1.jpg", 0)
    result = described(tmp_path / "set")
    assert (result["orientations"], result["width"]["max"]) == ({"0": 1}, 30)
    assert "1 of no meaning (0), taken as upright" in report(result)


def test_an_animation_counts_once_and_is_named(tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    (tmp_path / "set/a").mkdir(parents=True)
    frames[0].save(tmp_path / "set/a/moves.gif", save_all=True, append_images=frames[1:])
    result = described(tmp_path / "set")
    assert (result["pictures"], result["animated"]) == (1, ["a/moves.gif"])
    assert "1 file with several frames, of which the first is used: a/moves.gif" in report(result)


def test_ctrl_c_says_how_far_it_came(zoo):
    def interrupt(done, total, bad):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted after 5 of 24 pictures: nothing was written"):
        survey(open_images(zoo), on_progress=interrupt)


def test_signs_and_flowers(real_data):
    signs = described(real_data / "sign_digits", quick=True)
    assert (signs["orientations"], signs["width"]["median"], signs["width"]["max"]) == ({"6": 3}, 100, 3024)
    flowers = described(real_data / "flowers_tiny", quick=True)
    assert (flowers["duplicates"]["copies"], flowers["duplicates"]["under_two_labels"]) == (6, 4)
