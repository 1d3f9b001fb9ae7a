"""A contact sheet: some pictures of each class, drawn by seed, on PNG pages to look at before anything is trained.

A picture is shown whole, upright and in its own shape, since a person judges labels and quality by all of it; what
the network's crop leaves out would be hidden exactly where a label may hang on it.
"""

import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from data.cores import available_cores
from data.errors import ImageSetError
from data.images import ImageSet
from data.staging import write_atomically
from extract.decode import decode, pillow_settings
from extract.lettering import Lettering
from extract.survey import Survey

PER_CLASS = 8
# A set without labels has one grid, which may be larger.
UNLABELLED = 40
_SOFTWARE = "Penult contact sheet"

# All in pixels.
_MARGIN, _GAP, _ROW_GAP, _COLUMN_GAP = 56, 10, 22, 64
_CELLS = (168, 116)  # widths of a thumbnail's cell: the second where the first would take several pages
_ABREAST = 10  # thumbnails beside each other
_PAGE = (2700, 2400)  # what a page's rows may take
_HEAD = 92
_LABEL = (96, 280)  # the least and largest width of the column of names
_TITLE, _NAME, _DETAIL = 34, 21, 17
_LEADING = 1.25
# Smaller pictures are enlarged by whole numbers, pixel by pixel, so that their pixels are seen.
_PIXEL_ART = 4
_PAPER, _CELL, _INK, _GREY, _LINE = "#ffffff", "#f2f2f0", "#1c1c1a", "#6e6e69", "#dededa"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """One page as it was written: its file, and the paths of the pictures in each row, by the row's name."""

    path: Path
    rows: dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class _Row:
    name: str
    detail: str
    candidates: list[int]  # in the order drawn; one that cannot be decoded gives way to the next


@dataclasses.dataclass(frozen=True)
class _Layout:
    cell: tuple[int, int]
    label: int  # width of the column of names; 0 without one
    abreast: int  # thumbnails beside each other
    lines: int  # of thumbnails in a row of the sheet
    columns: int  # rows beside each other
    rows: int  # below each other

    @property
    def block(self) -> tuple[int, int]:
        """Width and height of one row with its label."""
        width, height = self.cell
        return (
            self.label + self.abreast * (width + _GAP) - _GAP,
            self.lines * (height + _GAP) - _GAP,
        )


def refuse_other_file(path: Path, images: ImageSet, source: Path) -> None:
    """Raise if a sheet would replace something else, or would be a picture of the set from then on.

    Raises
    ------
    ImageSetError
        With the next step.
    """
    inside = Path(os.path.abspath(path)).is_relative_to(images.root) if source.is_dir() else False
    if inside:
        raise ImageSetError(f"{path} would be one of the pictures of {source}: name a file outside that folder")
    if path.exists() and not _is_sheet(path):
        raise ImageSetError(f"{path} exists and is no contact sheet: name another file with --sheet")


def write_sheets(
    path: Path,
    survey: Survey,
    per_class: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Sheet]:
    """Draw some pictures of each class and write them as PNG pages.

    Parameters
    ----------
    path : Path
        The first page; the others get ``-2``, ``-3``, ... before the extension.
    survey : Survey
        Which pictures there are and which can be used.
    per_class : int
        How many of each; 0 is 8, or 40 of a set without labels.
    seed : int
        Decides which. A class's draw does not depend on the other classes.
    on_progress : callable, optional
        Called with pages done and in all.

    Returns
    -------
    list of Sheet
        One for each page, in order.

    Raises
    ------
    ImageSetError
        If no picture can be read, or a page would replace something that is no sheet.
    """
    images = survey.images
    if not survey.usable.any():
        raise ImageSetError(f"no picture of {images.name} can be read, so there is nothing to draw: check the files")
    per_class = per_class or (PER_CLASS if images.classes else UNLABELLED)
    rows = _draw(survey, per_class, seed)
    lettering = Lettering([images.name, *(row.name for row in rows)])
    layout = _lay_out(survey, rows, per_class, lettering)
    pages = [rows[i : i + layout.columns * layout.rows] for i in range(0, len(rows), layout.columns * layout.rows)]
    what = f"up to {per_class} of each" if images.classes else f"{min(per_class, len(images)):,} of them"
    n_classes = f" in {len(images.classes):,} classes" if images.classes else ""
    subtitle = f"{len(images):,} pictures{n_classes}; {what}, drawn by seed {seed}"
    sheets = []
    with pillow_settings(), ThreadPoolExecutor(min(available_cores(), 8)) as pool:
        for number, page in enumerate(pages, 1):
            if on_progress:
                on_progress(number - 1, len(pages))
            drawn = list(pool.map(lambda row: list(_thumbnails(images, row, per_class, layout.cell)), page))
            paper = f"page {number} of {len(pages)}" if len(pages) > 1 else ""
            picture = _compose(layout, page, drawn, (images.name, subtitle, paper), lettering)
            file = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            _write(file, picture)
            shown = [[images.paths[i] for i, _ in row] for row in drawn]
            sheets.append(Sheet(file, dict(zip([row.name for row in page], shown, strict=True))))
    return sheets


def _draw(survey: Survey, per_class: int, seed: int) -> list[_Row]:
    images = survey.images
    rows = []
    for target in [*range(len(images.classes)), -1]:
        of_class = images.targets == target
        if not of_class.any():
            continue
        usable = np.flatnonzero(of_class & survey.usable)
        name = images.classes[target] if target >= 0 else "(no label)" if images.classes else ""
        rng = np.random.default_rng([seed, *name.encode("utf-8", "surrogateescape")])
        n = int(of_class.sum())
        bad = n - len(usable)
        detail = f"{n:,} picture{'s' if n > 1 else ''}" + (f", {bad:,} unreadable" if bad else "")
        rows.append(_Row(name, detail, rng.permutation(usable)[: 2 * per_class + 8].tolist()))
    return rows


def _lay_out(survey: Survey, rows: list[_Row], per_class: int, lettering: Lettering) -> _Layout:
    """Choose the cell's shape by the median picture, its size by the number of classes."""
    known = survey.usable & (survey.heights > 0)
    aspect = float(np.median(survey.widths[known] / survey.heights[known])) if known.any() else 1.0
    aspect = min(max(aspect, 3 / 4), 3 / 2)
    label = 0
    if survey.images.classes:
        widths = [lettering.font(row.name, _NAME)[0].getlength(lettering.font(row.name, _NAME)[1]) for row in rows]
        widths += [lettering.font(row.detail, _DETAIL)[0].getlength(row.detail) for row in rows]
        label = math.ceil(min(max(*widths, _LABEL[0]), _LABEL[1])) + 28
    most = min(per_class, max(len(row.candidates) for row in rows) or 1)
    lines = -(-most // _ABREAST) if survey.images.classes else -(-most // PER_CLASS)
    abreast = -(-most // lines)
    layout = _Layout((0, 0), label, abreast, lines, 1, len(rows))
    for width in _CELLS:
        layout = dataclasses.replace(layout, cell=(width, round(width / aspect)))
        block_width, block_height = layout.block
        fit = max(1, (_PAGE[1] + _ROW_GAP) // (block_height + _ROW_GAP))
        if len(rows) <= fit:
            return layout
    beside = max(1, (_PAGE[0] + _COLUMN_GAP) // (block_width + _COLUMN_GAP))
    pages = -(-len(rows) // (fit * beside))
    a_page = -(-len(rows) // pages)
    columns = min(beside, -(-a_page // fit))
    return dataclasses.replace(layout, columns=columns, rows=-(-a_page // columns))


def _thumbnails(
    images: ImageSet, row: _Row, per_class: int, cell: tuple[int, int]
) -> Iterator[tuple[int, Image.Image]]:
    left = per_class
    for index in row.candidates:
        if not left:
            return
        try:
            picture = Image.fromarray(decode(images.read(index).data))
        except (OSError, ValueError, MemoryError):  # changed since it was surveyed, or only its header was read
            continue
        left -= 1
        yield index, _thumbnail(picture, cell)


def _thumbnail(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    method = Image.Resampling.LANCZOS
    if scale >= _PIXEL_ART:
        scale, method = int(scale), Image.Resampling.NEAREST
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, method, reducing_gap=3.0)


def _compose(
    layout: _Layout,
    rows: list[_Row],
    drawn: list[list[tuple[int, Image.Image]]],
    head: tuple[str, str, str],
    lettering: Lettering,
) -> Image.Image:
    block_width, block_height = layout.block
    below = min(layout.rows, len(rows))
    beside = -(-len(rows) // layout.rows)
    width = 2 * _MARGIN + max(beside * (block_width + _COLUMN_GAP) - _COLUMN_GAP, 520)
    height = 2 * _MARGIN + _HEAD + below * (block_height + _ROW_GAP) - _ROW_GAP
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    _write_head(draw, width, head, lettering)
    for i, (row, pictures) in enumerate(zip(rows, drawn, strict=True)):
        column, line = divmod(i, layout.rows)
        x = _MARGIN + column * (block_width + _COLUMN_GAP)
        y = _MARGIN + _HEAD + line * (block_height + _ROW_GAP)
        if line and layout.label:
            draw.line([(x, y - _ROW_GAP // 2), (x + block_width - 1, y - _ROW_GAP // 2)], _LINE)
        if layout.label:
            _write_label(draw, (x, y, layout.label - 28, block_height), row, lettering)
        for k, (_, thumbnail) in enumerate(pictures):
            down, right = divmod(k, layout.abreast)
            left = x + layout.label + right * (layout.cell[0] + _GAP)
            top = y + down * (layout.cell[1] + _GAP)
            draw.rectangle([left, top, left + layout.cell[0] - 1, top + layout.cell[1] - 1], _CELL)
            page.paste(
                thumbnail,
                (left + (layout.cell[0] - thumbnail.width) // 2, top + (layout.cell[1] - thumbnail.height) // 2),
            )
    return page


def _write_head(draw: ImageDraw.ImageDraw, width: int, head: tuple[str, str, str], lettering: Lettering) -> None:
    title, subtitle, paper = head
    font, lines = lettering.lines(title, _TITLE, width - 2 * _MARGIN, 1)
    draw.text((_MARGIN, _MARGIN), lines[0], _INK, font, anchor="lt")
    font, subtitle = lettering.font(subtitle, _NAME - 2)
    draw.text((_MARGIN, _MARGIN + 64), subtitle, _GREY, font, anchor="ls")
    font, paper = lettering.font(paper, _NAME - 2)
    draw.text((width - _MARGIN, _MARGIN + 64), paper, _GREY, font, anchor="rs")


def _write_label(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], row: _Row, lettering: Lettering) -> None:
    """Write a row's name and count in the middle of the height of `box` (x, y, width, height)."""
    x, y, width, height = box
    step, small = round(_NAME * _LEADING), round(_DETAIL * _LEADING) + 4
    font, lines = lettering.lines(row.name, _NAME, width, max(1, (height - small) // step))
    at = y + (height - len(lines) * step - small) / 2
    for line in lines:
        draw.text((x, at + step / 2), line, _INK, font, anchor="lm")
        at += step
    font, detail = lettering.lines(row.detail, _DETAIL, width, 1)
    draw.text((x, at + small / 2), detail[0], _GREY, font, anchor="lm")


def _write(path: Path, page: Image.Image) -> None:
    if path.exists() and not _is_sheet(path):
        raise ImageSetError(f"{path} exists and is no contact sheet: name another file with --sheet")
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", _SOFTWARE)
    file = io.BytesIO()
    page.save(file, "PNG", pnginfo=about)
    write_atomically(path, file.getvalue())


def _is_sheet(path: Path) -> bool:
    """Whether a file is a page that an earlier run wrote, which a new one may replace."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return bool(image.info.get("Software") == _SOFTWARE)
    except (OSError, ValueError, SyntaxError):
        return False
