"""From a file's bytes to decoded pixels: one written policy for extraction and prediction.

The policy (docs/format.md, "Pixels"): the first frame of an animation; EXIF orientation applied; transparency laid
over white; palettes expanded; 16-bit grey scaled by 1/257; grey repeated to three channels; CMYK, YCbCr, LAB and HSV
converted by Pillow without colour profiles.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from data.errors import first_line

Pixels = npt.NDArray[np.uint8]

# Twice Pillow's own threshold for a warning (a quarter of a gigabyte of RGB), where Pillow itself refuses.
MAX_PIXELS = 178_956_970
# Pillow goes by content, whatever the name: none of its formats that run another program (EPS), or stubs of others.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "ICO", "AVIF", "HEIF")
_ORIENTATION_TAG = 0x0112
# In fewer pixels, roundings of different scales to the same size could not be told apart.
_LEAST_DRAFT = 8


class UndecodableError(ValueError):
    """A picture that cannot be decoded; the message is the reason that the user reads."""


@contextlib.contextmanager
def pillow_settings() -> Iterator[None]:
    """Silence Pillow's warnings and its own size limit (ours replaces it) while pictures are read in threads.

    Both are global in Pillow, so they are set once around a run and put back after it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    _formats()  # plugins are loaded once, before there are threads
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def decode(content: bytes, *, alpha: bool = False, shorter: int = 0) -> Pixels:
    """Decode a picture to 8-bit pixels by the policy above.

    Parameters
    ----------
    content : bytes
        The file.
    alpha : bool
        Add the opacity as a fourth channel; the colours are laid over white all the same.
    shorter : int
        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side keeps this many pixels;
        less than 8 decodes at full size.

    Returns
    -------
    ndarray of shape (height, width, 3 or 4), uint8

    Raises
    ------
    UndecodableError
        With the reason in words.
    """
    if not content:
        raise UndecodableError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UndecodableError(
                    f"too large to decode safely: {width} x {height} pixels, the limit is {MAX_PIXELS:,}"
                )
            pixels = _jpeg(image, content, shorter)
            if pixels is None:
                image.load()
                pixels = _colours(image, alpha)
            elif alpha:
                pixels = _opaque(pixels)
            orientation = orientation_of(image)  # after loading, since Pillow's TIFF reader applies it by itself
    except (UndecodableError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UndecodableError(f"no picture that Pillow can read (it begins with {content[:8]!r})") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on broken bytes; the reason is kept
        raise UndecodableError(f"damaged: {first_line(error)}") from None
    return _upright(pixels, orientation)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow is let read, HEIC among them where its plugin is installed."""
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def simplejpeg() -> Any:
    """Return the module simplejpeg, or None where it is not installed."""
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


def _jpeg(image: Image.Image, content: bytes, shorter: int) -> Pixels | None:
    """Decode an ordinary JPEG by simplejpeg, bit for bit as Pillow does it; None where Pillow is to do it."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    (width, height), scale = image.size, _scale(image.size, shorter)
    decoder = simplejpeg()
    if decoder is not None:
        # it would take 3/8, say, which Pillow does not offer, unless exactly 1/2, 1/4 or 1/8 is asked for
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)} if scale > 1 else {}
        with contextlib.suppress(ValueError):  # Pillow knows a better reason, or a way
            pixels: Pixels = decoder.decode_jpeg(content, "RGB", **least)
            return pixels
    if scale > 1:
        image.draft("RGB", (width // scale, height // scale))
    return None


def _scale(size: tuple[int, int], shorter: int) -> int:
    """Return what both sides may be divided by so that at least `shorter` pixels are left."""
    if shorter < _LEAST_DRAFT:
        return 1
    return next((s for s in (8, 4, 2) if min(size) // s >= shorter), 1)


def orientation_of(image: Image.Image) -> int:
    """Return a picture's EXIF orientation as it stands there; 1 where there is none."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return 1  # unreadable EXIF says nothing about the pixels


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation."""
    if not 2 <= orientation <= 8:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _colours(image: Image.Image, alpha: bool) -> Pixels:
    """Return a loaded picture as RGB over white, with its opacity as a fourth channel if asked for."""
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = np.asarray(image)
    elif image.mode.startswith("I"):  # 16-bit grey, as I;16 or widened to I
        values = np.asarray(image).astype(np.int64)
        grey = ((values.clip(0, 65535) + 128) // 257).astype(np.uint8)
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
    elif image.mode == "F":
        raise UndecodableError("32-bit float pixels have no agreed range: convert the file to 8 or 16 bits")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        rgb = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
        if alpha:
            return np.concatenate([rgb, np.asarray(rgba.getchannel("A"))[:, :, None]], axis=2)
    else:
        rgb = np.asarray(image.convert("RGB"))
    return _opaque(rgb) if alpha else rgb


def _opaque(rgb: Pixels) -> Pixels:
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], axis=2)
