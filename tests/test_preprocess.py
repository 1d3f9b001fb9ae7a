"""From pixels to what a network sees: resizing, crops, views and colour modes, against torchvision, timm and Pillow."""

import contextlib
import dataclasses
import hashlib
import resource
import threading

import numpy as np
import pytest
import torch
from conftest import SPEC
from PIL import Image
from threadpoolctl import threadpool_info

import extract.preprocess
from data.errors import SpecError
from extract.flow import decoding
from extract.preprocess import expand_views, recipes, single_views, to_inputs


def noise(width, height, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(height, width, channels), dtype=np.uint8)


def spec(resize, crop, interpolation="bilinear", fit="shorter", **changes):
    size = (crop, crop)
    return dataclasses.replace(SPEC, resize=resize, crop=size, interpolation=interpolation, fit=fit, **changes)


def seen(image, spec, digest=b"0"):
    """Return what a network of this spec sees of a picture."""
    (pixels,) = to_inputs(np.asarray(image), recipes(spec), digest)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_equals_torchvision_on_pil_images_bit_for_bit(interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(1, 300, size=(60, 2)).tolist(), [256, 256], [32, 32], [32, 384], [384, 32], [33, 32], [1, 1]]
    for width, height in sizes:
        if max(width, height) > 12 * min(width, height):
            continue
        resize = int(rng.integers(20, 60))
        crop = int(rng.integers(8, resize + 1))
        image = Image.fromarray(noise(width, height, seed=width))
        resized = transforms.Resize(resize, transforms.InterpolationMode(interpolation))(image)
        want = np.asarray(transforms.CenterCrop(crop)(resized))
        got = seen(image, spec(resize, crop, interpolation))
        assert (got == want).all(), (width, height, resize, crop)


def test_224_of_256_equals_torchvision_bit_for_bit():
    transforms = pytest.importorskip("torchvision.transforms")
    usual = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for size in [(500, 375), (375, 500), (256, 256), (257, 255), (640, 427), (100, 60)]:
        image = Image.fromarray(noise(*size))
        assert (seen(image, spec(256, 224)) == np.asarray(usual(image))).all(), size


@pytest.mark.parametrize("size", [(3, 4000), (4000, 3), (1, 50), (50, 1), (10, 200)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_very_long_pictures_come_out_close_to_the_full_resize(size, interpolation):
    # half the contrast: where bicubic overshoots, clipping between its two passes depends on their order
    image = Image.fromarray(noise(*size) // 2 + 64)
    short, long = min(size), max(size)
    scaled = int(32 * long / short)
    full = image.resize((32, scaled) if size[0] < size[1] else (scaled, 32), Image.Resampling[interpolation.upper()])
    left, top = round((full.width - 28) / 2), round((full.height - 28) / 2)
    want = np.asarray(full.crop((left, top, left + 28, top + 28))).astype(int)
    got = seen(image, spec(32, 28, interpolation))
    assert got.shape == (28, 28, 3)
    assert np.abs(got - want).max() <= 2


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1), (1, 2)])
def test_pictures_one_pixel_wide_work_in_bounded_memory(size):
    image = Image.fromarray(noise(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert seen(image, spec(256, 224)).shape == (224, 224, 3)
    # KB; the full resize would be 256 x 15 million pixels
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 61), (33, 33), (1000, 3), (7, 500), (1, 1)])
@pytest.mark.parametrize("color", ["rgb", "luma", "rgba"])
def test_pad_shows_the_whole_picture_on_the_mean(width, height, color):
    mean = {"rgb": (0.5, 0.1, 1.2), "luma": (0.3,), "rgba": (0.5, 0.1, 0.9, 0.0)}[color]
    image = Image.fromarray(noise(width, height, channels=4 if color == "rgba" else 3, seed=width))
    got = seen(image, spec(32, 32, "bicubic", "pad", mean=mean, color=color))
    short = max(round(32 * min(width, height) / max(width, height)), 1)
    w, h = (32, short) if width >= height else (short, 32)
    left, top = -round((w - 32) / 2), -round((h - 32) / 2)
    inside = seen(image, spec(32, 32, "bicubic", "squash", color=color))[:0]  # its channels
    whole = image.convert("RGBA" if color == "rgba" else "RGB")
    bands = [band.resize((w, h), Image.Resampling.BICUBIC) for band in whole.split()]
    resized = np.stack([np.asarray(band) for band in bands], axis=2)
    if color == "luma":
        resized = np.asarray(Image.fromarray(resized).convert("L"))[:, :, None]
    want = np.empty((32, 32, inside.shape[2]), dtype=np.uint8)
    want[:] = [round(255 * min(m, 1.0)) for m in mean]
    want[top : top + h, left : left + w] = resized
    assert (got == want).all()


def test_views_of_a_padded_picture_are_mirrored_and_moved_as_wholes():
    image = Image.fromarray(noise(20, 41))  # an odd rest: the two margins differ by a pixel
    padded = spec(32, 32, fit="pad")
    center, flip = (seen(image, dataclasses.replace(padded, view=view)) for view in ("center", "flip"))
    assert (flip == center[:, ::-1]).all()
    fill = np.array([round(255 * m) for m in SPEC.mean])
    left, right = (seen(image, dataclasses.replace(padded, view=f"top-{side}")) for side in ("left", "right"))
    assert (left[:, 16:] == fill).all()
    assert (right[:, :16] == fill).all()
    assert (left[:, :16] == right[:, 16:]).all()
    assert (seen(image, dataclasses.replace(padded, crop=(24, 24))) == center[4:28, 4:28]).all()


def test_squash_ignores_the_aspect_ratio_and_crops_as_timm_does():
    from timm.data import create_transform

    for size in ((50, 20), (300, 5), (20, 50)):
        image = Image.fromarray(noise(*size))
        want = create_transform(32, interpolation="bicubic", crop_pct=0.9, crop_mode="squash", normalize=False)(image)
        got = seen(image, spec(35, 32, "bicubic", "squash"))  # 32 / 0.9 = 35
        assert (got == want.permute(1, 2, 0).numpy()).all()


def test_timms_usual_transform_is_ours():
    from timm.data import create_transform

    for size in ((500, 375), (33, 300), (64, 64)):
        image = Image.fromarray(noise(*size))
        want = create_transform(224, interpolation="bicubic", crop_pct=0.875, normalize=False)(image)
        assert (seen(image, spec(256, 224, "bicubic")) == want.permute(1, 2, 0).numpy()).all()


def test_the_picture_is_left_alone():
    picture = noise(40, 40)
    to_inputs(picture, recipes(spec(32, 28, view="mean(center,flip,random:0:1)")), b"0")
    assert (picture == noise(40, 40)).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_picture_of_the_right_size_is_not_touched(interpolation):
    picture = noise(40, 32)
    assert (seen(picture, spec(32, 32, interpolation)) == picture[:, 4:36]).all()


def test_pixels_that_may_not_be_written_to_are_read():
    picture = noise(50, 40)
    want = seen(picture, spec(32, 28))
    picture.flags.writeable = False
    assert (seen(picture, spec(32, 28)) == want).all()


def test_flip_is_the_mirror_image_of_the_centre():
    for size in ((50, 40), (900, 20)):
        centre = seen(noise(*size), spec(32, 27))
        assert (seen(noise(*size), spec(32, 27, view="flip")) == centre[:, ::-1]).all()


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (33, 32), (120, 11), (32, 32)])
def test_corners_are_those_of_torchvisions_five_crop(size):
    from torchvision.transforms import functional as F

    image = Image.fromarray(noise(*size))
    want = F.five_crop(F.resize(image, 36), (28, 30))
    for name, crop in zip(("top-left", "top-right", "bottom-left", "bottom-right", "center"), want, strict=True):
        ours = dataclasses.replace(spec(36, 28, view=name), crop=(28, 30))
        assert (seen(image, ours) == np.asarray(crop)).all(), name


def test_corners_of_a_very_long_picture_are_its_ends():
    picture = np.zeros((20, 1000, 3), np.uint8)
    picture[:, :20], picture[:, -20:], picture[10:] = 50, 200, 100
    left, right = (seen(picture, spec(32, 12, view=name)) for name in ("top-left", "top-right"))
    assert (left == 50).all()
    assert (right == 200).all()
    assert (seen(picture, spec(32, 12, view="bottom-right")) == 100).all()


DIGEST = hashlib.sha256(b"a picture").hexdigest().encode()


def test_a_random_crop_is_decided_by_seed_number_and_content_alone():
    picture = noise(300, 200)
    view = "random:3:1"
    first = seen(picture, spec(64, 56, view=view), DIGEST)
    with_others = to_inputs(picture, recipes(spec(64, 56, view=f"mean(center,random:3:0,{view},flip)")), DIGEST)
    assert (with_others[2] == first).all()
    for other in (
        seen(picture, spec(64, 56, view="random:3:2"), DIGEST),
        seen(picture, spec(64, 56, view="random:4:1"), DIGEST),
        seen(picture, spec(64, 56, view=view), hashlib.sha256(b"another").hexdigest().encode()),
    ):
        assert (other != first).any()


def test_a_random_crop_never_changes():
    # Pinned: features of random views that a store holds must be found again by every later version.
    y, x = np.mgrid[:120, :160].astype(np.uint8)
    picture = np.stack([x, y, x ^ y], axis=2)
    made = b"".join(seen(picture, spec(64, 48, view=f"random:0:{k}"), DIGEST).tobytes() for k in range(4))
    assert hashlib.sha256(made).hexdigest() == "51126f66d2dd67aede1d331925ca5431df511f63e2bc4e47bd41b6e8df10393c"


@pytest.mark.parametrize("size", [(300, 200), (17, 400), (400, 17), (1, 1), (3, 2)])
def test_random_crops_are_inside_the_picture_and_differ(size):
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    mirrored, extents = 0, []
    for k in range(40):
        made = seen(picture, spec(32, 32, "nearest", view=f"random:0:{k}"), DIGEST).astype(int)
        x, y = made[0, :, 0], made[:, 0, 1]  # which columns and rows of the picture it shows
        assert (made[..., 0] == x).all()
        assert (made[..., 1] == y[:, None]).all()
        mirrored += x[0] > x[-1]
        steps = np.diff(x[::-1] if x[0] > x[-1] else x)
        assert (steps >= 0).all()
        assert (np.diff(y) >= 0).all()
        extents.append((x.min(), x.max(), y.min(), y.max()))
    if min(size) > 10:
        assert len(set(extents)) > 30
        assert 8 <= mirrored <= 32  # half the time
        sides = np.array(
            [((right - left) / 255 * width, (low - top) / 255 * height) for left, right, top, low in extents]
        )
        assert (sides[:, 0] * sides[:, 1] > 0.2 * width * height).mean() > 0.9 or max(size) > 4 * min(size)


def test_opacity_is_resized_apart_from_colour():
    rgba = noise(50, 40, 4) // 2 + 64
    got = seen(rgba, spec(32, 28, color="rgba"))
    assert got.shape == (28, 28, 4)
    assert (got[..., :3] == seen(rgba[..., :3], spec(32, 28))).all()
    alpha = seen(np.repeat(rgba[..., 3:], 3, axis=2), spec(32, 28))
    assert (got[..., 3] == alpha[..., 0]).all()


def test_an_opacity_that_nobody_asked_for_is_left_out():
    rgba = noise(50, 40, 4)
    for color in ("rgb", "gray", "luma"):
        ours = spec(32, 28, color=color)
        assert (seen(rgba, ours) == seen(rgba[..., :3], ours)).all()


def test_gray_is_pillows_luma_of_the_crop():
    picture = noise(50, 40)
    luma = np.asarray(Image.fromarray(seen(picture, spec(32, 28))).convert("L"))
    gray = seen(picture, spec(32, 28, color="gray"))
    assert gray.shape == (28, 28, 3)
    assert (gray == luma[..., None]).all()
    one = seen(picture, spec(32, 28, color="luma"))
    assert one.shape == (28, 28, 1)
    assert (one[..., 0] == luma).all()


def test_all_levels_of_grey_stay_what_they_are():
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert (seen(levels, spec(16, 16, color="luma"))[..., 0] == levels[..., 0]).all()


def test_a_mean_is_made_of_its_views_and_a_resize_is_shared(monkeypatch):
    mean = spec(64, 56, view="mean(center,flip,top-left)")
    assert [recipe.view for recipe in recipes(mean)] == ["center", "flip", "top-left"]
    alone = [seen(noise(90, 80), dataclasses.replace(mean, view=recipe.view)) for recipe in recipes(mean)]
    calls = []
    honest = extract.preprocess.resize_crop
    monkeypatch.setattr("extract.preprocess.resize_crop", lambda *args: calls.append(1) or honest(*args))
    together = to_inputs(noise(90, 80), recipes(mean), b"0")
    assert len(calls) == 2  # the flip is the centre's
    for a, b in zip(together, alone, strict=True):
        assert (a == b).all()


def test_the_recipe_of_a_spec_knows_how_to_decode():
    assert recipes(spec(64, 56))[0].decoding == (False, 0)
    assert recipes(spec(64, 56, color="rgba"))[0].decoding == (True, 0)
    assert recipes(spec(64, 56, decoder="draft"))[0].decoding == (False, 128)
    assert recipes(spec(64, 56, decoder="draft", view="random:0:1"))[0].decoding == (False, 256)  # it may enlarge


def test_views_by_their_short_names():
    assert expand_views(["center", "flip", "center"]) == ["center", "flip"]
    assert expand_views(["five-crop", "top-left"]) == ["center", "top-left", "top-right", "bottom-left", "bottom-right"]
    assert expand_views(["random:2"]) == ["random:0:0", "random:0:1"]
    assert expand_views(["random:2:7", "random:1:07"]) == ["random:7:0", "random:7:1"]  # one name for one crop
    for view in expand_views(["five-crop", "flip", "random:3:1"]):
        assert single_views(view) == [view]


@pytest.mark.parametrize(
    "name",
    ["", "centre", "random", "random:", "random:0", "random:x", "random:-1", "random:1:2:3", "mean(center,flip)"],
)
def test_a_view_that_is_none_is_refused_with_those_there_are(name):
    with pytest.raises(SpecError, match=r"no view .*: use one or more of center, flip, five-crop, random:N"):
        expand_views(["center", name])


@pytest.mark.parametrize(
    "view", ["", "five-crop", "random:1", "random:a:1", "random:1:2:3", "flip:1", "mean(center,up)"]
)
def test_a_spec_with_an_impossible_view_is_refused(view):
    with pytest.raises(SpecError, match=r"no view .*: use center, flip, .*random:SEED:NUMBER"):
        recipes(spec(64, 56, view=view))


def test_settings_of_torch_are_put_back():
    def thread_counts():
        """Return the count in this thread and in one that is new."""
        found = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found

    before, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(ZeroDivisionError), decoding():
            torch.set_num_threads(1)  # as an engine does
            assert all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas")
            torch.backends.cudnn.allow_tf32 = not tf32
            raise ZeroDivisionError
        assert thread_counts() == [2, 2]
        assert torch.backends.cudnn.allow_tf32 == tf32
    finally:
        torch.set_num_threads(before)
