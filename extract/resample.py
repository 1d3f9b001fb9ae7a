"""Resizing by Pillow's arithmetic, bit for bit, of only those pixels that a crop needs.

Pillow resizes 8-bit pictures in two passes, columns and then rows, each a weighted sum with 22-bit integer weights that
is rounded to 8 bits (Pillow's `Resample.c`). A pass is a product with a banded matrix, which the BLAS computes block by
block in float64: 8 bits times 22 bits, summed, is exact there.
"""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

_BITS = 22  # of a weight, behind the point
_METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Output pixels of one matrix product: their inputs overlap, so that fewer waste less, and more calls cost more.
_BLOCK = 8
# Of a picture that shrinks more than this, the matrices hold mostly zeros, and Pillow is faster.
_MOST_SHRINKING = 4.0
# A picture may be so much taller than wide, and the scales may differ so much, before the order of passes is in doubt.
_TALL, _SAME_SCALE = 1.75, 1.02


def resize_by_pillow(
    pixels: Pixels, size: tuple[int, int], interpolation: str, box: tuple[float, float, float, float] | None = None
) -> Pixels:
    """Resize (H, W, C) by Pillow, colours and opacity apart; `box` is left, top, right, bottom of what to resize."""
    method = _METHODS[interpolation]
    shape = (size[1], size[0])
    rgb = pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[:, :, :3])
    made = np.asarray(Image.fromarray(rgb).resize(shape, method, box=box))
    if pixels.shape[2] == 3:
        return made
    alpha = np.asarray(Image.fromarray(np.ascontiguousarray(pixels[:, :, 3])).resize(shape, method, box=box))
    return np.concatenate([made, alpha[:, :, None]], axis=2)


def resize_crop(
    pixels: Pixels, size: tuple[int, int], corner: tuple[int, int], crop: tuple[int, int], interpolation: str
) -> Pixels:
    """Return a crop of a resized picture, equal to Pillow's `resize` and then `crop`, bit for bit.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, C), uint8
        The picture.
    size : tuple of int
        Height and width of the whole after resizing.
    corner, crop : tuple of int
        Top and left, and height and width, of the crop within it.
    interpolation : str
        ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``; the last two are left to Pillow.

    Returns
    -------
    ndarray of shape (*crop, C), uint8
    """
    (h, w), (top, left), (height, width) = pixels.shape[:2], corner, crop
    inside = top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]
    down, across = h / size[0], w / size[1]
    # Pillow 13 takes the rows first where that is less work, which is so for tall pictures alone
    rows_first = size[0] < h and (down > _SAME_SCALE * across or h > _TALL * w)
    if not inside or rows_first or interpolation not in _SUPPORT or max(down, across) > _MOST_SHRINKING:
        whole = pixels if size == (h, w) else resize_by_pillow(pixels, size, interpolation)
        return whole[top : top + height, left : left + width]
    rows, columns = (
        _Axis.make(n, m, first, count, interpolation)
        for n, m, first, count in ((h, size[0], top, height), (w, size[1], left, width))
    )
    part = pixels[rows.first : rows.last, columns.first : columns.last]
    planes = np.ascontiguousarray(part.transpose(2, 0, 1))  # (C, rows, columns)
    if size[1] != w:
        planes = columns.apply(planes)
    if size[0] != h:
        planes = rows.apply(planes.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


_KERNEL = {"bilinear": _bilinear, "bicubic": _bicubic}
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


@dataclasses.dataclass(frozen=True, eq=False)
class _Axis:
    """One pass: how output pixels of one axis, of a crop alone, come from input pixels.

    `first` to `last` are the input pixels that are needed, `count` the output pixels. `blocks` are the matrices: output
    from and to, input from and to (relative to `first`), and the weights, (inputs, outputs).
    """

    first: int
    last: int
    count: int
    blocks: list[tuple[int, int, int, int, Matrix]]

    @staticmethod
    @functools.lru_cache(maxsize=512)
    def make(n: int, m: int, begin: int, count: int, interpolation: str) -> "_Axis":
        """Return how `count` of `m` output pixels from `begin` on come from `n` input pixels."""
        if n == m:  # nothing to compute
            return _Axis(begin, begin + count, count, [])
        kernel, scale = _KERNEL[interpolation], n / m
        stretch = max(scale, 1.0)
        support = _SUPPORT[interpolation] * stretch
        inverse = 1.0 / stretch
        starts, rows = [], []
        for i in range(begin, begin + count):
            centre = (i + 0.5) * scale
            low, high = max(0, int(centre - support + 0.5)), min(n, int(centre + support + 0.5))
            values = [kernel((x - centre + 0.5) * inverse) for x in range(low, high)]
            total = sum(values)
            starts.append(low)
            rows.append([int(v / total * (1 << _BITS) + (0.5 if v >= 0 else -0.5)) for v in values])
        ends = [low + len(row) for low, row in zip(starts, rows, strict=True)]
        first, last = min(starts), max(ends)
        blocks = []
        for a in range(0, count, _BLOCK):
            b = min(a + _BLOCK, count)
            low, high = min(starts[a:b]), max(ends[a:b])
            matrix = np.zeros((high - low, b - a))
            for i in range(a, b):
                matrix[starts[i] - low : ends[i] - low, i - a] = rows[i]
            blocks.append((a, b, low - first, high - first, matrix / (1 << _BITS)))
        return _Axis(first, last, count, blocks)

    def apply(self, planes: Pixels) -> Pixels:
        """Resize the last axis of (C, rows, n), of which `first` to `last` are given: (C, rows, count)."""
        c, rows, n = planes.shape
        x = planes.astype(np.float64).reshape(c * rows, n)
        sums = np.empty((c * rows, self.count))
        for a, b, low, high, matrix in self.blocks:
            np.matmul(x[:, low:high], matrix, out=sums[:, a:b])
        sums += 0.5
        np.clip(sums, 0, 255.5, out=sums)
        return sums.astype(np.uint8).reshape(c, rows, self.count)
