"""The contact sheet: whose pixels are where, the same draw by the same seed, and what it may replace."""

import numpy as np
import pytest
from conftest import draw
from PIL import Image, ImageDraw

from data.errors import ImageSetError
from data.images import open_images
from extract.gallery import refuse_other_file, write_sheets
from extract.lettering import Lettering
from extract.survey import survey

COLOURS = {"apple": (200, 30, 40), "lime": (60, 190, 50), "plum": (90, 40, 160)}


@pytest.fixture
def fruit(tmp_path):
    """Three classes of plain colours, of 12, 3 and 5 pictures."""
    for (name, colour), n in zip(COLOURS.items(), (12, 3, 5), strict=True):
        for i in range(n):
            path = tmp_path / "fruit" / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60 + i, 40), colour).save(path)
    return tmp_path / "fruit"


def sheets_of(folder, path, *arguments):
    return write_sheets(path, survey(open_images(folder)), *arguments)


def pixels_of(path):
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def runs(flags):
    """Return where runs of True begin."""
    return np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int)])) == 1)


def test_one_row_a_class_in_order_with_as_many_thumbnails_as_there_are(fruit, tmp_path):
    (sheet,) = sheets_of(fruit, tmp_path / "s.png")
    assert {name: len(paths) for name, paths in sheet.rows.items()} == {"apple": 8, "lime": 3, "plum": 5}
    assert all(path.startswith(f"{name}/") and (fruit / path).exists() for name in COLOURS for path in sheet.rows[name])
    page = pixels_of(sheet.path)
    tops = []
    for name, colour in COLOURS.items():
        mine = (page == colour).all(axis=2)
        (top,) = runs(mine.any(axis=1))  # one row of thumbnails, unbroken
        tops.append(top)
        assert len(runs(mine.any(axis=0))) == len(sheet.rows[name])
    assert tops == sorted(tops)
    assert len(set(np.diff(tops))) == 1


def test_the_same_seed_gives_the_same_bytes_and_another_another_draw(fruit, tmp_path):
    (first,), (again,), (other,) = (
        sheets_of(fruit, tmp_path / f"{i}.png", 4, seed) for i, seed in enumerate((7, 7, 8))
    )
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.rows == again.rows
    assert first.rows["apple"] != other.rows["apple"]


def test_the_draw_of_a_class_does_not_depend_on_the_others(fruit, tmp_path):
    (before,) = sheets_of(fruit, tmp_path / "a.png", 4)
    draw(fruit / "aardvark/1.png", 1)
    (after,) = sheets_of(fruit, tmp_path / "b.png", 4)
    assert {name: after.rows[name] for name in COLOURS} == before.rows


def test_a_picture_is_shown_whole_upright_and_in_its_shape(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (300, 100), (250, 10, 10))
    lying.paste((10, 10, 250), (200, 0, 300, 100))  # its right third; turned right, the lowest
    (tmp_path / "set/a").mkdir(parents=True)
    lying.save(tmp_path / "set/a/1.png", exif=exif)
    (sheet,) = sheets_of(tmp_path / "set", tmp_path / "s.png")
    page = pixels_of(sheet.path).astype(int)
    red, blue = page[..., 0] - page[..., 2] > 150, page[..., 2] - page[..., 0] > 150
    both = red | blue
    height, width = both.any(axis=1).sum(), both.any(axis=0).sum()
    assert height / width == pytest.approx(3, abs=0.1)
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()


def test_small_pictures_are_enlarged_pixel_by_pixel(tmp_path):
    path = draw(tmp_path / "set/a/1.png", 1, size=(8, 8))
    page = pixels_of(sheets_of(tmp_path / "set", tmp_path / "s.png")[0].path)
    with Image.open(path) as image:
        shown = {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}
    large = {tuple(pixel) for pixel in page.reshape(-1, 3).tolist()}
    assert shown <= large
    thumbnail = (page.astype(int).max(axis=2) - page.astype(int).min(axis=2)) > 8
    assert thumbnail.any(axis=0).sum() >= 160


def test_unreadable_pictures_give_way_to_others(fruit, tmp_path):
    for i in range(9):
        (fruit / "apple" / f"{i:02d}.png").write_bytes(b"no picture")
    (sheet,) = sheets_of(fruit, tmp_path / "s.png")
    assert sorted(sheet.rows["apple"]) == [f"apple/{i:02d}.png" for i in (9, 10, 11)]
    quick = survey(open_images(fruit), quick=True)
    whole = (fruit / "lime/00.png").read_bytes()
    (fruit / "lime/00.png").write_bytes(whole[:-40])  # only decoding shows it
    (sheet,) = write_sheets(tmp_path / "q.png", quick)
    assert sorted(sheet.rows["lime"]) == ["lime/01.png", "lime/02.png"]


def test_how_many_pictures_a_class_has_is_never_cut(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, *rest, **more: said.append(text))
    folders = {"\N{LATIN SMALL LETTER A WITH DIAERESIS}": 24, "bb": 112}
    for name, n in folders.items():
        for i in range(n):
            draw(tmp_path / "set" / name / f"{i:03d}.png", i)
        (tmp_path / "set" / name / "broken.png").write_bytes(b"")
    sheets_of(tmp_path / "set", tmp_path / "s.png")
    assert {f"{n + 1} pictures, 1 unreadable" for n in folders.values()} <= set(said)


def test_a_set_without_labels_has_one_grid(tmp_path):
    for i in range(50):
        draw(tmp_path / "loose" / f"{i}.png", i)
    (sheet,) = sheets_of(tmp_path / "loose", tmp_path / "s.png")
    assert [len(paths) for paths in sheet.rows.values()] == [40]
    assert len(set(sheet.rows[""])) == 40


def test_many_classes_take_several_pages_and_none_is_lost(tmp_path):
    for i in range(120):
        for k in range(6):
            draw(tmp_path / "many" / f"class {i:03d}" / f"{k}.png", i)
    pages = sheets_of(tmp_path / "many", tmp_path / "s.png")
    assert [page.path.name for page in pages] == ["s.png", *(f"s-{i}.png" for i in range(2, len(pages) + 1))]
    assert len(pages) > 1
    assert [name for page in pages for name in page.rows] == [f"class {i:03d}" for i in range(120)]
    for page in pages:
        assert max(pixels_of(page.path).shape) < 3000


def test_extreme_shapes_and_names_are_drawn(tmp_path):
    names = ["x" * 200, "猫", "Müller", "عربى", "a_b " * 30, "\N{GRINNING FACE}", "\u0939"]
    for i, name in enumerate(names):
        draw(tmp_path / "set" / name / "1.png", i, size=[(1, 900), (900, 1), (1, 1)][i % 3])
    (sheet,) = sheets_of(tmp_path / "set", tmp_path / "s.png")
    assert set(sheet.rows) == set(names)
    pixels_of(sheet.path)


def test_nothing_to_draw_is_one_clear_error(tmp_path):
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/1.png").write_bytes(b"")
    with pytest.raises(ImageSetError, match="no picture of set can be read, so there is nothing to draw"):
        sheets_of(tmp_path / "set", tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()


def test_a_sheet_replaces_a_sheet_and_nothing_else(fruit, tmp_path):
    images = open_images(fruit)
    (sheet,) = sheets_of(fruit, tmp_path / "s.png")
    refuse_other_file(sheet.path, images, fruit)
    sheets_of(fruit, tmp_path / "s.png", 2)
    mine = draw(tmp_path / "photo.png", 1)
    before = mine.read_bytes()
    for call in (lambda: refuse_other_file(mine, images, fruit), lambda: sheets_of(fruit, mine)):
        with pytest.raises(ImageSetError, match=r"photo.png exists and is no contact sheet: name another file"):
            call()
    assert mine.read_bytes() == before
    with pytest.raises(ImageSetError, match="would be one of the pictures of"):
        refuse_other_file(fruit / "new.png", images, fruit)


def test_progress_counts_pages(fruit, tmp_path):
    seen = []
    write_sheets(tmp_path / "s.png", survey(open_images(fruit)), on_progress=lambda *n: seen.append(n))
    assert seen == [(0, 1)]


def test_a_name_no_font_has_the_letters_of_is_written_as_escapes(monkeypatch):
    monkeypatch.setattr("extract.lettering._SYSTEM_FONTS", ("no-such-font.ttf",))
    font, text = Lettering(["cat", "猫 1"]).font("猫 1", 20)
    assert text == "\\u732b 1"
    assert font.getlength(text) > 0
    assert Lettering(["cat"]).font("cat", 20)[1] == "cat"


def test_lines_fit_and_a_shortened_name_keeps_both_ends():
    lettering = Lettering(["cat"])
    font, lines = lettering.lines("great_white_shark_of_the_southern_seas_n01484850", 20, 150, 3)
    assert len(lines) == 3
    assert all(font.getlength(line) <= 150 for line in lines)
    assert lines[0].startswith("great_white_")
    assert lines[-1].endswith("850")
    assert "..." in lines[-1]
    assert lettering.lines("cat", 20, 150, 3)[1] == ["cat"]


def test_a_name_with_an_accent_after_its_letter_is_the_composed_one(tmp_path):
    assert Lettering(["x"]).font("e\u0301t\u00e9", 20)[1] in ("\u00e9t\u00e9", "\\xe9t\\xe9")
