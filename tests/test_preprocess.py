import io
import resource
import struct
import warnings
import zlib

import numpy as np
import pytest
from conftest import SPEC
from PIL import Image, ImageOps

from extract.preprocess import MAX_PIXELS, UndecodableError, decode, pillow_settings, to_input

ORIENTATION = 0x0112


def noise(width, height, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(height, width, channels)[: 3 if channels > 1 else 2], dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content):
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def spec(resize, crop, interpolation="bilinear", fit="shorter"):
    changes = {"resize": resize, "crop": (crop, crop), "interpolation": interpolation, "fit": fit}
    return type(SPEC)(SPEC.backbone, SPEC.weights, **changes)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + data + chunk(b"IEND", b"")


def test_an_rgb_png_comes_back_bit_for_bit():
    want = noise(17, 11)
    assert (pixels(encoded(Image.fromarray(want))) == want).all()


def test_an_rgb_jpeg_is_what_pillow_decodes():
    content = encoded(Image.fromarray(noise(40, 30)), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        assert (pixels(content) == np.asarray(image)).all()


def test_a_cmyk_jpeg_is_converted_by_pillow_and_not_inverted():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    content = encoded(cyan, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        assert (pixels(content) == np.asarray(image.convert("RGB"))).all()
    assert np.abs(pixels(content)[8, 8].astype(int) - (0, 255, 255)).max() <= 3


def test_16_bit_grey_is_scaled_by_a_257th():
    values = np.array([[0, 128, 129, 257, 30000, 65535]], dtype=np.uint16)
    got = pixels(encoded(Image.fromarray(values)))
    assert got[0, :, 0].tolist() == [0, 0, 1, 1, 117, 255]
    assert (got == got[..., :1]).all()


def test_big_endian_16_bit_tiff_reads_the_same_as_png():
    values = np.random.default_rng(0).integers(0, 65536, size=(5, 7)).astype(np.uint16)
    swapped = Image.frombytes("I;16B", (7, 5), values.astype(">u2").tobytes())
    assert (pixels(encoded(swapped, "TIFF")) == pixels(encoded(Image.fromarray(values)))).all()


def test_one_bit_pictures_are_black_and_white():
    bits = noise(9, 9, 1) > 127
    got = pixels(encoded(Image.fromarray(bits)))
    assert (got == np.where(bits, 255, 0)[..., None]).all()


def test_grey_is_repeated_to_three_channels():
    grey = noise(8, 6, 1)
    assert (pixels(encoded(Image.fromarray(grey))) == grey[..., None]).all()


def test_a_palette_is_expanded():
    palette = Image.fromarray(noise(20, 20)).quantize(16)
    assert (pixels(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_palette_entries_become_white(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert pixels(encoded(image, transparency=transparency)).tolist() == [[[10, 20, 30], [255] * 3, [70, 80, 90]]]


def test_alpha_is_laid_over_white():
    rgba = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 128]]], dtype=np.uint8)
    got = pixels(encoded(Image.fromarray(rgba))).astype(int)
    assert got[0, 0].tolist() == [100, 0, 200]
    assert got[0, 1].tolist() == [255, 255, 255]
    assert np.abs(got[0, 2] - (rgba[0, 2, :3] * (128 / 255) + 255 * (127 / 255))).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    got = pixels(encoded(Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8), "LA")))
    assert got.tolist() == [[[90, 90, 90], [255, 255, 255]]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white():
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(rgb), transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_the_first_frame_stands_for_an_animation():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert (pixels(content) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"tiffinfo": {ORIENTATION: orientation}} if kind == "TIFF" else {"exif": exif}
    content = encoded(Image.fromarray(noise(24, 16)), kind, **options)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert upright.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    assert (pixels(content) == upright).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9])
def test_corrupt_exif_says_nothing_about_the_pixels(exif):
    content = encoded(Image.fromarray(noise(16, 12)), "JPEG", exif=exif)
    plain = encoded(Image.fromarray(noise(16, 12)), "JPEG")
    with pillow_settings():
        assert (pixels(content) == pixels(plain)).all()


def test_an_impossible_orientation_is_no_orientation():
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    want = noise(6, 4)
    assert (pixels(encoded(Image.fromarray(want), exif=exif)) == want).all()


BAD = {
    "empty": (b"", r"^the file is empty$"),
    "text": (b"hello world, no picture", r"^no picture that Pillow can read \(it begins with b'hello wo'\)$"),
    "truncated png": (encoded(Image.fromarray(noise(64, 64)))[:2000], r"^damaged: .*truncated"),
    "truncated jpeg": (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:1500], r"^damaged: .*truncated"),
    "half a header": (png_header(8, 8)[:20], r"^(damaged: |no picture that Pillow can read)"),
    "too few pixels": (png_header(64, 64), r"^damaged: "),
    "float": (
        encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"),
        r"^32-bit float pixels have no agreed range: convert the file to 8 or 16 bits$",
    ),
    "bomb": (
        png_header(50_000, 50_000),
        r"^too large to decode safely: 50000 x 50000 pixels, the limit is 178,956,970$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_says_why_in_one_line(name):
    content, message = BAD[name]
    with pillow_settings(), pytest.raises(UndecodableError, match=message) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


def test_a_bomb_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pillow_settings(), pytest.raises(UndecodableError):
        decode(png_header(50_000, 50_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB; the pixels are 7.5 GB


def test_a_picture_between_pillows_limit_and_ours_raises_no_warning_of_pillows():
    side = 10_000
    assert Image.MAX_IMAGE_PIXELS < side * side < MAX_PIXELS
    with pillow_settings(), pytest.raises(UndecodableError, match="^damaged: "):  # since its bytes are missing
        decode(png_header(side, side))


def test_pillow_settings_are_put_back():
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pillow_settings():
        assert Image.MAX_IMAGE_PIXELS is None
        assert list(warnings.filters) != filters
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


def test_pillow_settings_are_put_back_after_an_exception():
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(KeyboardInterrupt), pillow_settings():
        raise KeyboardInterrupt
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shorter_equals_torchvision_bit_for_bit(interpolation):
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
        got = to_input(image, spec(resize, crop, interpolation))
        assert got.dtype == np.uint8
        assert (got == want).all(), (width, height, resize, crop)


def test_224_of_256_equals_torchvision_bit_for_bit():
    transforms = pytest.importorskip("torchvision.transforms")
    usual = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for size in [(500, 375), (375, 500), (256, 256), (257, 255), (640, 427), (100, 60)]:
        image = Image.fromarray(noise(*size))
        assert (to_input(image, spec(256, 224)) == np.asarray(usual(image))).all(), size


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
    got = to_input(image, spec(32, 28, interpolation))
    assert got.shape == (28, 28, 3)
    assert np.abs(got - want).max() <= 2


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1), (1, 2)])
def test_pictures_one_pixel_wide_work_in_bounded_memory(size):
    image = Image.fromarray(noise(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert to_input(image, spec(256, 224)).shape == (224, 224, 3)
    # KB; the full resize would be 256 x 15 million pixels
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_squash_ignores_the_aspect_ratio_and_crops_as_timm_does():
    from timm.data import create_transform

    for size in ((50, 20), (300, 5), (20, 50)):
        image = Image.fromarray(noise(*size))
        want = create_transform(32, interpolation="bicubic", crop_pct=0.9, crop_mode="squash", normalize=False)(image)
        got = to_input(image, spec(35, 32, "bicubic", "squash"))  # 32 / 0.9 = 35
        assert (got == want.permute(1, 2, 0).numpy()).all()


def test_timms_usual_transform_is_ours():
    from timm.data import create_transform

    for size in ((500, 375), (33, 300), (64, 64)):
        image = Image.fromarray(noise(*size))
        want = create_transform(224, interpolation="bicubic", crop_pct=0.875, normalize=False)(image)
        assert (to_input(image, spec(256, 224, "bicubic")) == want.permute(1, 2, 0).numpy()).all()


def test_to_input_leaves_the_picture_alone():
    image = Image.fromarray(noise(32, 32))
    before = image.tobytes()
    to_input(image, spec(32, 28))
    assert image.tobytes() == before
    assert image.size == (32, 32)


def test_a_format_that_runs_other_programs_is_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UndecodableError, match="no picture that Pillow can read"):
        decode(postscript)
