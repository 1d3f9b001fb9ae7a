"""Pictures that exist as pixels alone get a file's bytes: the same pixels give the same bytes, on every machine.

The rule (docs/format.md, "Pictures without a file"): the EXIF orientation is applied; 8-bit grey becomes a binary PGM,
RGB a binary PPM, 16-bit grey a PGM of 65,535 levels; what has transparency becomes a PNG of RGBA without compression;
black-and-white becomes grey, and palettes, CMYK, YCbCr, LAB and HSV become RGB by Pillow.
"""

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

# Of an uncompressed block of a deflate stream, RFC 1951, section 3.2.4.
_STORED = 65_535


def encode(picture: Any) -> bytes:
    r"""Return a file's bytes for a PIL image or an array.

    Parameters
    ----------
    picture : PIL.Image.Image, or ndarray of shape (height, width) or (height, width, channels)
        An array is uint8 with 1, 3 or 4 channels, bool, or uint16 with one channel.

    Raises
    ------
    ValueError
        If it is neither, or of another kind.

    Examples
    --------
    >>> encode(np.zeros((1, 2), dtype=np.uint8))
    b'P5 2 1 255\n\x00\x00'
    """
    pixels = _from_image(picture) if isinstance(picture, Image.Image) else picture
    if not isinstance(pixels, np.ndarray):
        raise ValueError(
            f"a picture is {type(pixels).__name__}: give PIL images or uint8 arrays, of a data set without a transform"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if not pixels.size:
        raise ValueError("a picture has no pixels")
    grey, channels = pixels.ndim == 2, pixels.shape[2] if pixels.ndim == 3 else 0
    if pixels.dtype == np.uint16 and grey:
        return _netpbm(b"P5", 65_535, pixels.astype(">u2"))
    if pixels.dtype == np.uint8 and (grey or channels == 3):
        return _netpbm(b"P5" if grey else b"P6", 255, pixels)
    if pixels.dtype == np.uint8 and channels == 4:
        return _png(pixels)
    raise ValueError(
        f"an array of shape {pixels.shape} and {pixels.dtype} is no picture: give (height, width[, channels]) of uint8"
    )


def _from_image(image: Image.Image) -> npt.NDArray[Any]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.asarray(upright).astype(np.uint16)
    if upright.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {upright.mode} (32 bits) have no agreed range: convert them to 8 or 16 bits")
    if upright.has_transparency_data:
        return np.asarray(upright.convert("RGBA"))
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))


def _netpbm(kind: bytes, top: int, pixels: npt.NDArray[Any]) -> bytes:
    height, width = pixels.shape[:2]
    return b"%s %d %d %d\n" % (kind, width, height, top) + pixels.tobytes()


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write RGBA as a PNG of stored blocks: zlib's own output differs between its versions."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 4 * width), dtype=np.uint8)  # each row begins with its filter, 0
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()
    stream = [b"\x78\x01"]
    for start in range(0, len(raw), _STORED):
        block = raw[start : start + _STORED]
        last = start + _STORED >= len(raw)
        stream.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    stream.append(struct.pack(">I", zlib.adler32(raw)))
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(stream)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
