"""Thumbnails of pictures: whole, upright, in their own shape; from their files, or from a bundle that has them."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from data.cores import available_cores
from data.errors import why_unread
from data.images import Pictures
from data.thumbnails import Thumbnails
from extract.decode import decode, pillow_settings

SIDE = 168
_QUALITY = 80
# Of pictures no larger than a thumbnail, such as digits of 28 pixels, every pixel counts.
_QUALITY_SMALL = 92
_AT_ONCE = 64


def thumbnail(content: bytes, side: int = SIDE) -> bytes:
    """Return a JPEG of a picture whose longer side is at most `side` pixels.

    Parameters
    ----------
    content : bytes
        The picture's file.
    side : int
        Pixels; a smaller picture keeps its size.

    Raises
    ------
    UndecodableError
        If it is no picture that can be read.
    """
    picture = Image.fromarray(decode(content, shorter=2 * side))
    small = max(picture.size) <= side
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if small:
        picture.save(file, "JPEG", quality=_QUALITY_SMALL, subsampling=0)
    else:
        picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def make_thumbnails(
    pictures: Pictures, digests: Sequence[bytes], known: Thumbnails | None = None
) -> Iterator[tuple[bytes, bytes | None, str]]:
    """Yield a thumbnail for each picture, in their order.

    Parameters
    ----------
    pictures : Pictures
        Where their files are.
    digests : sequence of bytes
        Their contents, in hex: of a file that has another one by now no thumbnail is made.
    known : Thumbnails, optional
        Where they are looked up first.

    Yields
    ------
    tuple of bytes, bytes or None, and str
        The digest, the JPEG, and why there is none.
    """

    def make(index: int) -> tuple[bytes, bytes | None, str]:
        digest = digests[index]
        try:
            content = pictures.read(index).data
            if hashlib.sha256(content).hexdigest().encode() != digest:
                return digest, None, "its file has changed since it was extracted"
            return digest, thumbnail(content), ""
        except (OSError, ValueError, MemoryError) as error:
            return digest, None, why_unread(error)

    with pillow_settings(), ThreadPoolExecutor(min(available_cores(), 8)) as pool:
        for start in range(0, len(digests), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(digests)))
            held = {i: known.get(digests[i]) if known else None for i in some}
            made = {i: pool.submit(make, i) for i in some if held[i] is None}
            for i in some:
                yield made[i].result() if i in made else (digests[i], held[i], "")
