"""From bytes to pixels: the policy, both ways of decoding a JPEG, orientation, and what cannot be decoded."""

import importlib.util
import io
import resource
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageOps, features

import extract.decode
from extract.decode import MAX_PIXELS, UndecodableError, decode, pillow_settings

ORIENTATION = 0x0112
SIMPLEJPEG = pytest.mark.skipif(not importlib.util.find_spec("simplejpeg"), reason="simplejpeg is not installed")


def noise(width, height, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(height, width, channels)[: 3 if channels > 1 else 2], dtype=np.uint8)


def smooth(width, height):
    """Return a picture with the shades of a photograph, whose JPEG is small."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (9 + 4 * c) + c) * np.cos(y / (13 - 3 * c)) for c in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + data + chunk(b"IEND", b"")


@pytest.fixture
def by_simplejpeg(monkeypatch):
    """Count what simplejpeg decodes, and what it refuses."""
    counts = {"decoded": 0, "refused": 0}
    honest = extract.decode.simplejpeg()

    class Counting:
        @staticmethod
        def decode_jpeg(*args, **kwargs):
            try:
                made = honest.decode_jpeg(*args, **kwargs)
            except ValueError:
                counts["refused"] += 1
                raise
            counts["decoded"] += 1
            return made

    if honest is None:
        pytest.skip("simplejpeg is not installed")
    monkeypatch.setattr(extract.decode, "simplejpeg", lambda: Counting)
    return counts


@pytest.fixture
def without_simplejpeg(monkeypatch):
    """Return a function that decodes as where simplejpeg is not installed."""

    def without(content, **options):
        with monkeypatch.context() as patch:
            patch.setattr(extract.decode, "simplejpeg", lambda: None)
            return decode(content, **options)

    return without


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive 4:2:0": {"progressive": True, "subsampling": 2},
    "stored as RGB": {"keep_rgb": True},
    "restart markers": {"restart_marker_rows": 1},
    "lowest quality": {"quality": 1},
    "highest quality": {"quality": 100, "subsampling": 0},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (17, 33), (1, 1), (2, 300), (8, 8), (9, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_simplejpeg_decodes_what_pillow_decodes_bit_for_bit(by_simplejpeg, mode, size, options):
    if mode == "L":
        options = {key: value for key, value in options.items() if key not in ("subsampling", "keep_rgb")}
    for image in (Image.fromarray(noise(*size)), smooth(*size)):
        content = encoded(image.convert(mode), "JPEG", **options)
        with Image.open(io.BytesIO(content)) as opened:
            want = np.asarray(opened.convert("RGB"))
        got = decode(content)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert (got == want).all()
    assert by_simplejpeg == {"decoded": 2, "refused": 0}


def corrupted(content, seed):
    """Spoil the second half of a file, but for its last marker."""
    rng = np.random.default_rng(seed)
    spoilt = bytearray(content)
    for place in rng.integers(len(content) // 2, len(content) - 2, size=12).tolist():
        spoilt[place] = int(rng.integers(0, 255))
    return bytes(spoilt)


def verdict(decoder, content):
    """Return the pixels, or the reason why there are none."""
    try:
        return decoder(content).tobytes()
    except UndecodableError as error:
        return str(error)


def test_a_jpeg_that_simplejpeg_refuses_gets_pillows_verdict(by_simplejpeg, without_simplejpeg):
    whole = encoded(Image.fromarray(noise(200, 150)), "JPEG", quality=90)
    photo = encoded(smooth(300, 200), "JPEG", progressive=True)
    broken = [whole[:2000], photo[:-700], whole[:-2], whole + b"trailing", whole[:-2] + b"\0\0"]
    broken += [corrupted(content, seed) for content in (whole, photo) for seed in range(12)]
    with pillow_settings():
        verdicts = {verdict(decode, content) for content in broken}
        for content in broken:
            assert verdict(decode, content) == verdict(without_simplejpeg, content)
    assert by_simplejpeg["refused"] > 10  # the test saw the fallback at work
    assert any(isinstance(v, str) and "truncated" in v for v in verdicts)
    assert any(isinstance(v, bytes) for v in verdicts)  # and Pillow saving what simplejpeg does not


@SIMPLEJPEG
@pytest.mark.parametrize("shorter", [1, 8, 32, 100, 150, 224, 299, 300, 301, 400, 512])
@pytest.mark.parametrize("size", [(400, 300), (301, 999), (1600, 1200), (1023, 771), (300, 300)])
def test_a_draft_keeps_the_pixels_that_are_needed_and_is_the_same_by_both_decoders(size, shorter, without_simplejpeg):
    content = encoded(smooth(*size), "JPEG")
    got = decode(content, shorter=shorter)
    height, width = got.shape[:2]
    assert min(height, width) >= min(shorter, *size)
    scale = next(s for s in (8, 4, 2, 1) if (shorter >= 8 and min(size) // s >= shorter) or s == 1)
    assert (width, height) == (-(-size[0] // scale), -(-size[1] // scale))  # 1/8, 1/4, 1/2 or all of it, rounded up
    assert (got == without_simplejpeg(content, shorter=shorter)).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_draft_of_a_large_picture_is_smaller_and_close_to_the_picture(mode):
    content = encoded(smooth(1600, 1200).convert(mode), "JPEG", quality=95)
    draft = decode(content, shorter=250)
    assert draft.shape == (300, 400, 3)
    whole = Image.fromarray(decode(content)).resize((400, 300), Image.Resampling.BOX)
    assert np.abs(draft.astype(int) - np.asarray(whole)).max() <= 8


def test_a_draft_of_a_turned_picture_is_turned():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(smooth(800, 600), "JPEG", exif=exif)
    assert decode(content, shorter=100).shape == (200, 150, 3)
    plain = decode(encoded(smooth(800, 600), "JPEG"), shorter=100)
    assert (decode(content, shorter=100) == np.rot90(plain, -1)).all()


def test_only_jpegs_are_drafted():
    want = noise(600, 400)
    assert (decode(encoded(Image.fromarray(want)), shorter=50) == want).all()


def test_a_cmyk_jpeg_is_drafted_by_nobody_or_by_pillow_alone(by_simplejpeg):
    content = encoded(Image.new("CMYK", (640, 480), (255, 0, 0, 0)), "JPEG", quality=95)
    got = decode(content, shorter=50)
    assert by_simplejpeg == {"decoded": 0, "refused": 0}
    assert (got == decode(content)[0, 0]).all()


def test_opacity_is_a_fourth_channel_and_the_colours_still_lie_over_white():
    rgba = noise(9, 7, 4)
    content = encoded(Image.fromarray(rgba))
    got = decode(content, alpha=True)
    assert (got[..., 3] == rgba[..., 3]).all()
    assert (got[..., :3] == decode(content)).all()


def test_what_has_no_opacity_is_opaque():
    contents = [
        encoded(Image.fromarray(noise(9, 7))),
        encoded(Image.fromarray(noise(9, 7)), "JPEG"),
        encoded(Image.fromarray(noise(9, 7, 1))),
        encoded(Image.fromarray(np.array([[0, 700, 65535]], dtype=np.uint16))),
        encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"),
    ]
    for content in contents:
        got = decode(content, alpha=True)
        assert (got[..., 3] == 255).all()
        assert (got[..., :3] == decode(content)).all()


def test_a_transparent_palette_entry_has_no_opacity():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert decode(encoded(image, transparency=1), alpha=True)[0, :, 3].tolist() == [255, 0, 255]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_with_its_orientation():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(smooth(64, 48), "AVIF", quality=95, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert want.shape == (64, 48, 3)
    assert (decode(content) == want).all()


@pytest.fixture
def heic():
    """Return a function that encodes a picture as HEIC."""
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    return lambda image, **options: encoded(image, "HEIF", quality=95, **options)


def test_heic_is_read(heic):
    picture = smooth(64, 48)
    got = decode(heic(picture))
    assert got.shape == (48, 64, 3)
    assert np.abs(got.astype(int) - np.asarray(picture)).mean() < 3


def test_exif_does_not_turn_heic_whose_own_rotation_the_decoder_has_applied(heic):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert (decode(heic(smooth(64, 48), exif=exif)) == decode(heic(smooth(64, 48)))).all()


def test_heic_keeps_its_opacity(heic):
    rgba = np.dstack([np.asarray(smooth(64, 48)), np.full((48, 64), 255, np.uint8)])
    rgba[:, :32, 3] = 0
    got = decode(heic(Image.fromarray(rgba)), alpha=True)
    assert got[:, :28, 3].max() <= 4
    assert got[:, 36:, 3].min() >= 251
    assert got[:, :28, :3].min() >= 251  # white shows through


def test_heic_is_read_by_a_process_that_did_nothing_before(heic, tmp_path):
    # whatever is decoded first, and whoever calls: the plugin is found
    (tmp_path / "a.heic").write_bytes(heic(smooth(64, 48)))
    code = (
        "import sys, pathlib; from extract.decode import decode; "
        "print(decode(pathlib.Path(sys.argv[1]).read_bytes()).shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.heic")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(48, 64, 3)\n", done.stderr


def test_an_rgb_png_comes_back_bit_for_bit():
    want = noise(17, 11)
    assert (decode(encoded(Image.fromarray(want))) == want).all()


def test_a_cmyk_jpeg_is_converted_by_pillow_and_not_inverted():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    content = encoded(cyan, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        assert (decode(content) == np.asarray(image.convert("RGB"))).all()
    assert np.abs(decode(content)[8, 8].astype(int) - (0, 255, 255)).max() <= 3


def test_16_bit_grey_is_scaled_by_a_257th():
    values = np.array([[0, 128, 129, 257, 30000, 65535]], dtype=np.uint16)
    got = decode(encoded(Image.fromarray(values)))
    assert got[0, :, 0].tolist() == [0, 0, 1, 1, 117, 255]
    assert (got == got[..., :1]).all()


def test_big_endian_16_bit_tiff_reads_the_same_as_png():
    values = np.random.default_rng(0).integers(0, 65536, size=(5, 7)).astype(np.uint16)
    swapped = Image.frombytes("I;16B", (7, 5), values.astype(">u2").tobytes())
    assert (decode(encoded(swapped, "TIFF")) == decode(encoded(Image.fromarray(values)))).all()


def test_one_bit_pictures_are_black_and_white():
    bits = noise(9, 9, 1) > 127
    got = decode(encoded(Image.fromarray(bits)))
    assert (got == np.where(bits, 255, 0)[..., None]).all()


def test_grey_is_repeated_to_three_channels():
    grey = noise(8, 6, 1)
    assert (decode(encoded(Image.fromarray(grey))) == grey[..., None]).all()


def test_a_palette_is_expanded():
    palette = Image.fromarray(noise(20, 20)).quantize(16)
    assert (decode(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_palette_entries_become_white(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert decode(encoded(image, transparency=transparency)).tolist() == [[[10, 20, 30], [255] * 3, [70, 80, 90]]]


def test_alpha_is_laid_over_white():
    rgba = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 128]]], dtype=np.uint8)
    got = decode(encoded(Image.fromarray(rgba))).astype(int)
    assert got[0, 0].tolist() == [100, 0, 200]
    assert got[0, 1].tolist() == [255, 255, 255]
    assert np.abs(got[0, 2] - (rgba[0, 2, :3] * (128 / 255) + 255 * (127 / 255))).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    got = decode(encoded(Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8), "LA")))
    assert got.tolist() == [[[90, 90, 90], [255, 255, 255]]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white():
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    assert decode(encoded(Image.fromarray(rgb), transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_the_first_frame_stands_for_an_animation():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert (decode(content) == (255, 0, 0)).all()


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
    assert (decode(content) == upright).all()
    assert decode(content).flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_opacity_turns_with_the_colours(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(Image.fromarray(noise(24, 16, 4)), exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert (decode(content, alpha=True)[..., 3] == upright[..., 3]).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9])
def test_corrupt_exif_says_nothing_about_the_pixels(exif):
    content = encoded(Image.fromarray(noise(16, 12)), "JPEG", exif=exif)
    plain = encoded(Image.fromarray(noise(16, 12)), "JPEG")
    with pillow_settings():
        assert (decode(content) == decode(plain)).all()


def test_an_impossible_orientation_is_no_orientation():
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    want = noise(6, 4)
    assert (decode(encoded(Image.fromarray(want), exif=exif)) == want).all()


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


def test_a_format_that_runs_other_programs_is_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UndecodableError, match="no picture that Pillow can read"):
        decode(postscript)
