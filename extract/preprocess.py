"""From decoded pixels to what a network sees: resizing, cropping, colour modes and views."""

import dataclasses
import hashlib
import math

import numpy as np
import numpy.typing as npt

from data.errors import SpecError
from data.spec import FeatureSpec
from extract.decode import Pixels
from extract.resample import resize_by_pillow, resize_crop

# A picture 12 times as long as wide would be resized to twelve crops' area to use one: cut it first.
_MAX_ASPECT = 12
CORNERS = {"top-left": (0, 0), "top-right": (0, 1), "bottom-left": (1, 0), "bottom-right": (1, 1)}
# Of a random resized crop: share of the picture's area and width over height, drawn as torchvision does (Szegedy et
# al. 2015). Its least area is a quarter here: the network is not trained any more, so it cannot learn to see a 12th.
_AREA, _ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)
# A draft keeps this many times the pixels that the resized side has; a random crop may enlarge a quarter of the area.
_DRAFT, _DRAFT_RANDOM = 2, 4

_Key = tuple[tuple[int, int], tuple[int, int], tuple[int, int], str, int]  # resized, corner, crop, ..., channels


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Those fields of a spec that decide the pixels of one view, for one view."""

    resize: int
    fit: str
    crop: tuple[int, int]
    interpolation: str
    color: str
    view: str
    decoder: str
    fill: tuple[int, ...] = ()  # of each channel beside a padded picture

    @property
    def decoding(self) -> tuple[bool, int]:
        """The arguments `alpha` and `shorter` of `extract.decode.decode`."""
        times = _DRAFT_RANDOM if self.view.startswith("random") else _DRAFT
        return self.color == "rgba", times * self.resize if self.decoder == "draft" else 0


def recipes(spec: FeatureSpec) -> tuple[Recipe, ...]:
    """Return how to make the pixels of every view that a spec is the mean of, or of its only one."""
    names = [f.name for f in dataclasses.fields(Recipe) if f.name != "fill"]
    recipe = Recipe(**{name: getattr(spec, name) for name in names})
    if spec.fit == "pad":  # with zeros, once normalised; half to even
        recipe = dataclasses.replace(recipe, fill=tuple(round(255 * min(max(m, 0.0), 1.0)) for m in spec.mean))
    return tuple(dataclasses.replace(recipe, view=view) for view in single_views(spec.view))


def single_views(view: str) -> list[str]:
    """Return the views that a view is the mean of, or itself.

    Raises
    ------
    SpecError
        If there is no such view.
    """
    views = view.removeprefix("mean(").removesuffix(")").split(",") if view.startswith("mean(") else [view]
    for name in views:
        kind, *numbers = name.split(":")
        known = len(numbers) == 2 and all(n.isdecimal() for n in numbers) if kind == "random" else not numbers
        if not known or kind not in ("center", "flip", "random", *CORNERS):
            raise SpecError(f"no view {name!r}: use center, flip, {', '.join(CORNERS)} or random:SEED:NUMBER")
    return views


def expand_views(names: list[str]) -> list[str]:
    """Return single views by the names that the command line takes: `five-crop`, `random:N` and `random:N:SEED` too.

    Raises
    ------
    SpecError
        If there is no such view.
    """
    views: list[str] = []
    for name in names:
        kind, *numbers = name.split(":")
        if name == "five-crop":
            views += ["center", *CORNERS]
        elif kind == "random" and 1 <= len(numbers) <= 2 and all(n.isdecimal() for n in numbers) and int(numbers[0]):
            count, seed = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0
            views += [f"random:{seed}:{k}" for k in range(count)]
        elif name in ("center", "flip", *CORNERS):
            views.append(name)
        else:
            known = f"center, flip, five-crop, random:N, random:N:SEED, {', '.join(CORNERS)}"
            raise SpecError(f"no view {name!r}: use one or more of {known}")
    return list(dict.fromkeys(views))


def to_inputs(pixels: Pixels, wanted: tuple[Recipe, ...], digest: bytes, least_area: float = _AREA[0]) -> list[Pixels]:
    """Make the input of a network for each recipe; a resize that several share is done once.

    Equal to torchvision's and timm's evaluation transforms on PIL images, bit for bit, for pictures up to 12 times as
    long as wide; of longer ones only the part that the crop needs is computed.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3 or 4), uint8
        The decoded picture.
    wanted : tuple of Recipe
        What to make of it.
    digest : bytes
        The picture's, which decides its random crops.
    least_area : float
        Least share of the picture that a random crop takes.

    Returns
    -------
    list of ndarray of shape (height, width, channels), uint8
        One for each recipe, contiguous.
    """
    shared: dict[_Key, Pixels] = {}
    inputs = []
    for recipe in wanted:
        seen = pixels if recipe.color == "rgba" else pixels[:, :, :3]
        random = recipe.view.startswith("random")
        made = _random_crop(seen, recipe, digest, least_area) if random else _crop(seen, recipe, shared)
        if made.shape[:2] != recipe.crop:
            made = _padded(made, _corner(pixels, recipe), recipe)
        inputs.append(np.ascontiguousarray(_colour(made, recipe.color)))
    return inputs


def _resized_size(pixels: Pixels, recipe: Recipe) -> tuple[int, int]:
    """Return height and width of the whole picture after resizing."""
    h, w = pixels.shape[:2]
    short, long = min(w, h), max(w, h)
    if recipe.fit == "pad":
        scaled = max(round(recipe.resize * short / long), 1)
        return (recipe.resize, scaled) if w <= h else (scaled, recipe.resize)
    scaled = recipe.resize if recipe.fit == "squash" else int(recipe.resize * long / short)
    return (scaled, recipe.resize) if w <= h else (recipe.resize, scaled)


def _corner(pixels: Pixels, recipe: Recipe) -> tuple[int, int]:
    """Return where the crop begins within the resized picture, from its top and left; negative where it is padded."""
    size, (height, width) = _resized_size(pixels, recipe), recipe.crop
    if recipe.view in CORNERS:
        down, right = CORNERS[recipe.view]
        return down * (size[0] - height), right * (size[1] - width)
    return round((size[0] - height) / 2), round((size[1] - width) / 2)  # half to even, as torchvision crops


def _crop(pixels: Pixels, recipe: Recipe, shared: dict[_Key, Pixels]) -> Pixels:
    """Return the crop of a resized picture, which other crops may share; of a padded one what there is of it."""
    (h, w), size, (height, width) = pixels.shape[:2], _resized_size(pixels, recipe), recipe.crop
    top, left = _corner(pixels, recipe)
    if recipe.fit == "pad":
        top, left, height, width = max(top, 0), max(left, 0), min(height, size[0]), min(width, size[1])
    if max(h, w) > _MAX_ASPECT * min(h, w) and recipe.fit == "shorter":
        box = (left * w / size[1], top * h / size[0], (left + width) * w / size[1], (top + height) * h / size[0])
        crop = resize_by_pillow(pixels, recipe.crop, recipe.interpolation, box)
    else:
        key = (size, (top, left), (height, width), recipe.interpolation, pixels.shape[2])
        if key not in shared:
            shared[key] = resize_crop(pixels, size, (top, left), (height, width), recipe.interpolation)
        crop = shared[key]
    return crop[:, ::-1] if recipe.view == "flip" else crop


def _padded(made: Pixels, corner: tuple[int, int], recipe: Recipe) -> Pixels:
    """Lay what there is of a picture on a crop of the fill colour."""
    (h, w), top, left = made.shape[:2], max(-corner[0], 0), max(-corner[1], 0)
    if recipe.view == "flip":  # which is the mirror image of the whole crop
        left = recipe.crop[1] - w - left
    canvas = np.empty((*recipe.crop, made.shape[2]), dtype=np.uint8)
    canvas[:] = recipe.fill
    canvas[top : top + h, left : left + w] = made
    return canvas


def _random_crop(pixels: Pixels, recipe: Recipe, digest: bytes, least_area: float) -> Pixels:
    """Return a random resized crop, mirrored half the time: decided by seed, number and the picture's content."""
    u = _uniform(f"{recipe.view}:{digest.decode()}".encode(), 23)
    h, w = pixels.shape[:2]
    width, height = w, h
    for area, aspect in u[:20].reshape(10, 2).tolist():
        target = w * h * (least_area + area * (_AREA[1] - least_area))
        ratio = math.exp(math.log(_ASPECT[0]) + aspect * math.log(_ASPECT[1] / _ASPECT[0]))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= w and 0 < height <= h:
            break
    else:  # a very long picture: as much as fits
        width, height = min(w, round(h * _ASPECT[1])), min(h, round(w * _ASPECT[1]))
    left, top = int(u[20] * (w - width + 1)), int(u[21] * (h - height + 1))
    part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    made = resize_crop(part, recipe.crop, (0, 0), recipe.crop, recipe.interpolation)
    return made[:, ::-1] if u[22] < 0.5 else made


def _uniform(text: bytes, n: int) -> npt.NDArray[np.float64]:
    """Return n numbers in [0, 1) that a text decides, on every machine for ever."""
    words = np.frombuffer(hashlib.shake_256(text).digest(8 * n), dtype="<u8")
    return (words >> np.uint64(11)) / float(1 << 53)


def _colour(pixels: Pixels, color: str) -> Pixels:
    if color in ("rgb", "rgba"):
        return pixels
    r, g, b = (pixels[:, :, i].astype(np.uint32) for i in range(3))
    # ITU-R 601-2 in the 16-bit fixed point that Pillow's convert("L") uses
    luma = ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    return luma if color == "luma" else np.repeat(luma, 3, axis=2)
