"""What may be asked of a network: its outputs, and changes of its own preprocessing."""

import dataclasses
from typing import Any

from data.errors import SpecError
from data.spec import FeatureSpec

# Colour mode -> channels that the network sees.
COLORS = {"rgb": 3, "gray": 3, "luma": 1, "rgba": 4}
# How a picture comes to the shape that the network sees, as `--fit` calls it -> as a spec does.
FITS = {"crop": "shorter", "squash": "squash", "pad": "pad"}
PENULTIMATE = "penultimate"
ALL_STAGES = "all-stages"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may change of a network's own preprocessing; None keeps the network's own.

    Parameters
    ----------
    input_size : int, optional
        Side of the square that the network sees, in pixels; `resize` follows in proportion unless given.
    resize : int, optional
        Length of the shorter side before the crop, in pixels.
    interpolation : str, optional
        ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``.
    mean, std : tuple of float, optional
        One value for all channels or one for each of them, of which `color` says how many there are.
    color : str, optional
        ``rgb``; ``gray``: grey in three equal channels, for the network as it is; ``luma``: grey in one channel;
        ``rgba``: alpha as a fourth. The last two adapt the first convolution (`extract.channels`).
    decoder : str, optional
        ``pillow``: full size; ``draft``: a JPEG at reduced size, where it is much larger than needed.
    fit : str, optional
        ``shorter``: the shorter side becomes `resize`; ``squash``: both do; ``pad``: the longer one does. Where that is
        not the network's own way, the last two show the network the whole picture: `resize` is its side unless given.
    """

    input_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: str | None = None
    decoder: str | None = None
    fit: str | None = None

    def apply(self, spec: FeatureSpec) -> FeatureSpec:
        """Return `spec`, of an RGB network, with these options in place of the network's own.

        Raises
        ------
        SpecError
            If a value is out of range.
        """
        changed: dict[str, Any] = {}
        if self.input_size is not None:
            changed["crop"] = (self.input_size, self.input_size)
            changed["resize"] = round(spec.resize * self.input_size / spec.crop[0])
        if self.fit is not None and self.fit not in FITS.values():
            raise SpecError(f"no way to fit pictures {self.fit!r}: use --fit {', '.join(FITS)}")
        if self.fit is not None and self.fit != spec.fit:
            changed["fit"] = self.fit
            if self.fit != "shorter":
                changed["resize"] = max(changed.get("crop", spec.crop))
        if self.resize is not None:
            changed["resize"] = self.resize
        if self.interpolation is not None:
            changed["interpolation"] = self.interpolation
        if self.color is not None:
            changed["color"] = self.color
        if self.decoder is not None:
            changed["decoder"] = self.decoder
        channels = self.channels
        for name, own, values in (("mean", spec.mean, self.mean), ("std", spec.std, self.std)):
            if values is None:
                changed[name] = _for_channels(own, channels)
                continue
            if len(values) not in (1, channels) or (name == "std" and min(values) <= 0):
                count = {1: "one number", 3: "one or three numbers", 4: "one or four numbers"}[channels]
                raise SpecError(
                    f"--{name} takes {count}{', above 0' if name == 'std' else ''}, with --color "
                    f"{self.color or spec.color}: got {values}"
                )
            changed[name] = tuple(values) * (channels // len(values))
        new = dataclasses.replace(spec, **changed)
        if min(new.crop) < 1 or (new.fit != "pad" and new.resize < max(new.crop)):
            raise SpecError(
                f"pictures are resized to {new.resize} and cropped to {new.crop[0]}: choose --resize at least as large "
                "as --input-size"
            )
        return new

    @property
    def channels(self) -> int:
        """How many channels the network sees.

        Raises
        ------
        SpecError
            If there is no such colour mode.
        """
        if (self.color or "rgb") not in COLORS:
            raise SpecError(f"no colour mode {self.color!r}: use --color {', '.join(COLORS)}")
        return COLORS[self.color or "rgb"]


@dataclasses.dataclass(frozen=True)
class Output:
    """One vector that a network is to give.

    Parameters
    ----------
    layer : str
        ``penultimate``: the input of the last layer with one output a class; a node or module by name, such as
        ``layer3`` or ``blocks.5`` (`extract.layers.layer_names` lists them); or ``all-stages``, which stands for
        the last layer of each stage.
    pooling : str
        ``avg``, ``max``, ``gem``, ``cls`` or ``flatten``; empty: ``avg`` for maps and tokens, and nothing where the
        layer gives one vector already (`extract.pooling`). A spec's own words, ``network`` and ``none``, are the
        same as empty where that is what they stand for.
    """

    layer: str = PENULTIMATE
    pooling: str = ""


def _for_channels(own: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return mean or std of an RGB network for another number of channels: what is not R, G, B gets their mean."""
    if channels == len(own):
        return own
    middle = sum(own) / len(own)
    return (middle,) if channels == 1 else (*own, middle)
