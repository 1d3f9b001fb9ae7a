"""Words on a contact sheet: a font that has their letters, lines that fit. Pillow's own font where it can be."""

import functools
import unicodedata
from collections.abc import Iterable

from PIL import ImageFont

from data.terminal import printable

# Tried in this order where Pillow's own font, which has Latin letters without accents, lacks one: found by name in
# the system's folders of fonts. Latin, Greek, Cyrillic and Arabic first, then Chinese, Japanese and Korean.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
)
# A code point that no font has a picture for: what is drawn is what a font draws for a letter that it lacks.
_NO_LETTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Lettering:
    """Chooses one font for a sheet, so that its rows look alike, and another only for a text that needs it.

    Parameters
    ----------
    texts : iterable of str
        Everything that the sheet will say.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        letters = set("".join(map(_composed, texts)))
        self._name = next((name for name in ("", *_SYSTEM_FONTS) if not _lacking(name, letters)), "")

    def font(self, text: str, size: int) -> tuple[Font, str]:
        """Return a font of `size` pixels for a text, and the text as it can be drawn: with escapes at the worst."""
        text = _composed(text)
        letters = set(text)
        for name in (self._name, "", *_SYSTEM_FONTS):
            if not _lacking(name, letters):
                font = _font(name, size)
                assert font is not None
                return font, text
        escaped = "".join(c if c.isascii() else c.encode("unicode_escape").decode() for c in text)
        font = _font("", size)
        assert font is not None
        return font, escaped

    def lines(self, text: str, size: int, width: float, at_most: int) -> tuple[Font, list[str]]:
        """Break a text into lines of at most `width` pixels, after a separator where there is one.

        What does not fit into `at_most` lines is cut out of the middle of the last one, since names often differ
        in their ends.
        """
        font, rest = self.font(text, size)
        lines: list[str] = []
        while font.getlength(rest) > width and len(lines) < at_most - 1:
            end = max(1, _fitting(font, rest, width))
            cut = max((rest.rfind(c, 0, end) + 1 for c in " _-./"), default=0)
            cut = cut if cut > end // 3 else end
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        return font, [*lines, _shortened(font, rest, width)]


def _composed(text: str) -> str:
    """Return a name as it can be drawn; file systems may give an accent after its letter, which fonts draw apart."""
    return unicodedata.normalize("NFC", printable(text))


def _fitting(font: Font, text: str, width: float) -> int:
    """Return how many letters of a text fit into `width` pixels."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _shortened(font: Font, text: str, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        short = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
        if font.getlength(short) <= width:
            return short
    return "..."


@functools.cache
def _font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def _has(name: str, letter: str) -> bool:
    font = _font(name, 16)
    if font is None:
        return False
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))


def _lacking(name: str, letters: set[str]) -> bool:
    return _font(name, 16) is None or not all(_has(name, letter) for letter in letters)
