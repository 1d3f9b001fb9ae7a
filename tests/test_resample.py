"""Resizing in our own arithmetic equals Pillow's, bit for bit, whatever is asked for."""

import numpy as np
import pytest
from PIL import Image

from extract.resample import resize_crop


def kinds(rng, h, w):
    """Return pictures of noise, of one level, of black and white, and with slopes, whose sums often end in a half."""
    yield rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    yield np.full((h, w, 3), rng.integers(0, 256), np.uint8)
    yield (rng.integers(0, 2, (h, w, 3)) * 255).astype(np.uint8)
    yield (np.indices((h, w)).sum(0)[:, :, None] % 256).repeat(3, 2).astype(np.uint8)


def by_pillow(pixels, size, corner, crop, interpolation):
    method = getattr(Image.Resampling, interpolation.upper())
    whole = np.asarray(Image.fromarray(pixels).resize(size[::-1], method))
    return whole[corner[0] : corner[0] + crop[0], corner[1] : corner[1] + crop[1]]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_a_crop_of_a_resize_equals_pillows(interpolation):
    rng = np.random.default_rng(0)
    for round_ in range(60):
        short, long, new = int(rng.integers(1, 300)), rng.uniform(1, 3), int(rng.integers(1, 200))
        h, w = (int(short * long), short) if round_ % 2 else (short, int(short * long))
        size = (max(1, int(new * h / min(h, w))), max(1, int(new * w / min(h, w))))
        if round_ % 3 == 0:
            size = (size[0], max(1, int(size[1] * rng.uniform(0.3, 3))))
        crop = tuple(int(rng.integers(1, n + 1)) for n in size)
        corner = tuple(int(rng.integers(0, n - c + 1)) for n, c in zip(size, crop, strict=True))
        for pixels in kinds(rng, h, w):
            got = resize_crop(pixels, size, corner, crop, interpolation)
            assert (got == by_pillow(pixels, size, corner, crop, interpolation)).all(), ((h, w), size, corner, crop)


def test_usual_photographs_are_not_left_to_pillow(monkeypatch):
    monkeypatch.setattr("extract.resample.resize_by_pillow", None)
    for h, w in ((375, 500), (500, 375), (333, 500), (512, 512), (768, 1024), (200, 300)):
        size = (256, int(256 * w / h)) if h <= w else (int(256 * h / w), 256)
        corner = ((size[0] - 224) // 2, (size[1] - 224) // 2)
        pixels = np.random.default_rng(h).integers(0, 256, (h, w, 3), dtype=np.uint8)
        assert (
            resize_crop(pixels, size, corner, (224, 224), "bicubic")
            == by_pillow(pixels, size, corner, (224, 224), "bicubic")
        ).all()


def test_opacity_is_a_channel_like_the_others():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 4), dtype=np.uint8)
    got = resize_crop(pixels, (64, 85), (4, 14), (56, 56), "bilinear")
    assert got.shape == (56, 56, 4)
    assert (got[..., :3] == by_pillow(pixels[..., :3], (64, 85), (4, 14), (56, 56), "bilinear")).all()
    grey = pixels[..., 3:].repeat(3, 2)
    assert (got[..., 3] == by_pillow(grey, (64, 85), (4, 14), (56, 56), "bilinear")[..., 0]).all()
