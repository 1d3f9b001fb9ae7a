"""From a file's bytes to the pixels that a network sees: one written policy for extraction and prediction.

The policy of decoder ``pillow`` (docs/format.md, "Pixels"): the first frame of an animation; EXIF orientation
applied; transparency laid over white; palettes expanded; 16-bit grey scaled by 1/257; grey repeated to three
channels; CMYK, YCbCr, LAB and HSV converted by Pillow without colour profiles.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from data.errors import first_line
from data.spec import FeatureSpec

Pixels = npt.NDArray[np.uint8]

# Twice Pillow's own threshold for a warning (a quarter of a gigabyte of RGB), where Pillow itself refuses.
MAX_PIXELS = 178_956_970
# A picture 12 times as long as wide would be resized to twelve crops' area to use one: cut it first.
_MAX_ASPECT = 12
# Pillow goes by content, whatever the name: none of its formats that run another program (EPS), or stubs of others.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "ICO")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UndecodableError(ValueError):
    """A picture that cannot be decoded; the message is the reason that the user reads."""


@contextlib.contextmanager
def pillow_settings() -> Iterator[None]:
    """Silence Pillow's warnings and its own size limit (ours replaces it) while pictures are read in threads.

    Both are global in Pillow, so they are set once around a run and put back after it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def decode(content: bytes) -> Image.Image:
    """Decode a picture to 8-bit RGB by the policy above.

    Raises
    ------
    UndecodableError
        With the reason in words.
    """
    if not content:
        raise UndecodableError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UndecodableError(
                    f"too large to decode safely: {width} x {height} pixels, the limit is {MAX_PIXELS:,}"
                )
            image.load()
            orientation = _orientation(image)  # after loading, since Pillow's TIFF reader applies it by itself
            rgb = _to_rgb(image)
    except (UndecodableError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UndecodableError(f"no picture that Pillow can read (it begins with {content[:8]!r})") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on broken bytes; the reason is kept
        raise UndecodableError(f"damaged: {first_line(error)}") from None
    return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb


def to_input(image: Image.Image, spec: FeatureSpec) -> Pixels:
    """Resize and crop an RGB picture as the spec says.

    Equal to torchvision's and timm's evaluation transforms on PIL images, bit for bit, for pictures up to 12 times
    as long as wide; of longer ones only the part that the crop needs is computed.

    Parameters
    ----------
    image : PIL.Image
        RGB.
    spec : FeatureSpec
        Its `fit`, `resize`, `interpolation` and `crop` are used.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    method = _RESAMPLING[spec.interpolation]
    height, width = spec.crop
    w, h = image.size
    short, long = min(w, h), max(w, h)
    scaled = spec.resize if spec.fit == "squash" else int(spec.resize * long / short)
    size = (spec.resize, scaled) if w <= h else (scaled, spec.resize)
    # round-half-even, as in torchvision's center_crop
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    if long > _MAX_ASPECT * short and spec.fit == "shorter":
        box = (
            left * w / size[0],
            top * h / size[1],
            (left + width) * w / size[0],
            (top + height) * h / size[1],
        )
        return np.asarray(image.resize((width, height), method, box=box))
    resized = image if size == image.size else image.resize(size, method)
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return 1  # unreadable EXIF says nothing about the pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I"):  # 16-bit grey, as I;16 or widened to I
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UndecodableError("32-bit float pixels have no agreed range: convert the file to 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
