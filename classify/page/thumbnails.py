"""Pictures made small enough that a page holds a thousand of them, the most useful first."""

import base64
import dataclasses
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from data.errors import PenultError

Pixels = npt.NDArray[np.uint8]
# Takes a picture's row in the image set, and how many pixels its shorter side must keep where it may be decoded
# smaller; returns (height, width, 3), or None where it is another picture by now.
Look = Callable[[int, int], Pixels | None]

LARGE, SMALL = 168, 84  # longer side, in pixels: on a card of the review, and on hover
# Pictures up to this size are kept to the pixel, and the page enlarges them so that their pixels are seen.
TINY = 40
_QUALITY = 72
# What a thumbnail takes on the page, in bytes and at most as a rule: photographs of insects, flowers and food.
_LARGE_BYTES, _SMALL_BYTES = 8000, 2800
_WORKERS = 4
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Thumbnails:
    """What was made of some pictures.

    Parameters
    ----------
    uris : dict of int to str
        Data URIs by row.
    gone : int
        Pictures that were asked for and could not be shown.
    left_out : int
        Pictures that did not fit.
    """

    uris: dict[int, str]
    gone: int
    left_out: int


def make_thumbnails(
    look: Look | None,
    rows: Sequence[int],
    large: int,
    budget: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Thumbnails:
    """Make thumbnails until their bytes are spent.

    Parameters
    ----------
    look : callable, optional
        Returns the pixels of a picture, or None; without it all pictures are gone.
    rows : sequence of int
        What `look` takes, the most useful first.
    large : int
        How many of the first are made large, whatever else fits; where all do, all are.
    budget : int
        Bytes that the data URIs may take together.
    on_progress : callable, optional
        Called with the number of pictures done and in all.
    """
    uris: dict[int, str] = {}
    spent = gone = 0
    large = max(large, (budget - _SMALL_BYTES * len(rows)) // (_LARGE_BYTES - _SMALL_BYTES))
    for done, (row, uri) in enumerate(_in_order(look, rows, large), 1):
        if on_progress:
            on_progress(done, len(rows))
        if not uri:
            gone += 1
        elif spent + len(uri) > budget:
            return Thumbnails(uris, gone, len(rows) - done + 1)
        else:
            uris[row] = uri
            spent += len(uri)
    return Thumbnails(uris, gone, 0)


def _in_order(look: Look | None, rows: Sequence[int], large: int) -> Iterator[tuple[int, str]]:
    """Yield each row with its data URI, empty where there is none; a few pictures are read ahead."""
    if look is None:
        yield from ((row, "") for row in rows)
        return
    queue: deque[tuple[int, Future[str]]] = deque()
    pool = ThreadPoolExecutor(_WORKERS)
    try:
        for place, row in enumerate(rows):
            queue.append((row, pool.submit(_made, look, row, LARGE if place < large else SMALL)))
            if len(queue) > _AHEAD * _WORKERS:
                first, uri = queue.popleft()
                yield first, uri.result()
        while queue:
            first, uri = queue.popleft()
            yield first, uri.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _made(look: Look, row: int, side: int) -> str:
    try:
        pixels = look(row, side)
    except (OSError, ValueError, MemoryError, PenultError):
        return ""
    return "" if pixels is None else encode(pixels, side)


def encode(pixels: Pixels, side: int) -> str:
    """Return a picture as a data URI whose longer side has at most `side` pixels.

    Examples
    --------
    >>> encode(np.zeros((8, 8, 3), np.uint8), 84)[:22]
    'data:image/png;base64,'
    """
    picture = Image.fromarray(pixels)
    file = io.BytesIO()
    kind: tuple[str, dict[str, Any]] = ("png", {"optimize": True})
    if max(picture.size) > TINY:
        scale = min(side / max(picture.size), 1.0)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        webp = features.check("webp")
        kind = ("webp", {"quality": _QUALITY, "method": 3}) if webp else ("jpeg", {"quality": _QUALITY + 6})
    elif (pixels == pixels[..., :1]).all():
        picture = picture.convert("L")
    picture.save(file, kind[0], **kind[1])
    return f"data:image/{kind[0]};base64,{base64.b64encode(file.getvalue()).decode()}"
