"""From a layer's output to one vector a picture.

Maps are pooled over their positions, tokens over the patches: class, distillation and register tokens are left out
of ``avg``, ``max`` and ``gem``, as timm's own average pooling leaves them out.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from data.errors import BackboneError

Shape = tuple[int, ...]

# Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018: the generalised
# mean, here with the exponent from which they start and the bound that keeps its gradient finite.
_GEM_P = 3.0
_GEM_EPS = 1e-6


def _gem(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return x.float().clamp(min=_GEM_EPS).pow(_GEM_P).mean(dims).pow(1 / _GEM_P)


_OVER_POSITIONS: dict[str, Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]] = {
    "avg": lambda x, dims: x.mean(dims),
    "max": lambda x, dims: x.amax(dims),
    "gem": _gem,
}
POOLINGS = (*_OVER_POSITIONS, "cls", "flatten")


class Pool(nn.Module):
    """One pooling of one layer.

    Parameters
    ----------
    pooling : str
        One of `POOLINGS`; ``none`` and ``network`` leave the output as it is.
    dims : tuple of int
        Which dimensions of the output are positions.
    prefix : int
        How many tokens before the patches' are left out.
    """

    def __init__(self, pooling: str, dims: tuple[int, ...] = (), prefix: int = 0) -> None:
        super().__init__()
        self.pooling, self.dims, self.prefix = pooling, dims, prefix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, dim) of a layer's output."""
        # clones, not views: the layer's output may be changed in place afterwards
        if self.pooling == "flatten":
            return x.flatten(1).clone()
        if self.pooling == "cls":
            return x[:, 0].clone()
        if self.pooling not in _OVER_POSITIONS:
            return x.clone()
        return _OVER_POSITIONS[self.pooling](x[:, self.prefix :] if self.prefix else x, self.dims)

    def extra_repr(self) -> str:
        """Return what `print` shows."""
        return f"{self.pooling}, dims={self.dims}, prefix={self.prefix}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the dimensions of a layer's output are.

    Parameters
    ----------
    kind : str
        ``map``, ``tokens`` or ``vector``.
    positions : tuple of int
        Dimensions to pool over.
    prefix : int
        Tokens before the patches'.
    has_class : bool
        Whether the first of them is a class token.
    """

    kind: str
    positions: tuple[int, ...] = ()
    prefix: int = 0
    has_class: bool = False


def layout_of(network: nn.Module, shape: Shape, crop: tuple[int, int]) -> Layout | None:
    """Tell maps (B, C, H, W) or (B, H, W, C), tokens (B, N, C) and vectors (B, C) apart; None for anything else.

    Parameters
    ----------
    network : Module
        Asked for its tokens, and for the order of dimensions where C, H and W are the same number.
    shape : tuple of int
        Of the output for some pictures.
    crop : tuple of int
        Height and width of the pictures: a map has their proportions.
    """
    if len(shape) == 2:
        return Layout("vector")
    if len(shape) == 3:
        prefix, has_class = _prefix_tokens(network)
        if not _holds_prefix(network, shape[1], prefix, crop):
            prefix, has_class = 0, False
        return Layout("tokens", (1,), prefix, has_class)
    if len(shape) != 4 or 0 in shape:
        return None
    wanted = math.log(crop[0] / crop[1])
    off_first, off_last = (abs(math.log(shape[i] / shape[i + 1]) - wanted) for i in (2, 1))
    # maps of oblong pictures have rounded sides, so that their proportions are a little off
    if min(off_first, off_last) > (0.3 if wanted else 0.0):
        return None
    if off_first == off_last:
        last = getattr(network, "output_fmt", "") == "NHWC" or type(network).__name__ == "SwinTransformer"
    else:
        last = off_last < off_first
    return Layout("map", (1, 2) if last else (2, 3))


def choose_pooling(layout: Layout, asked: str, layer: str) -> tuple[str, Pool]:
    """Return the pooling's name for the spec and the pooling itself.

    Raises
    ------
    BackboneError
        If the layer cannot be pooled so.
    """
    if layout.kind == "vector":
        if asked not in ("", "none"):
            raise BackboneError(f"{layer} gives one vector a picture, which cannot be pooled: leave out {asked!r}")
        return "none", Pool("none")
    pooling = asked or "avg"
    if pooling not in POOLINGS:
        raise BackboneError(f"{layer} cannot be pooled by {asked!r}: use {', '.join(POOLINGS)}")
    if pooling == "cls" and not layout.has_class:
        what = "maps, not tokens" if layout.kind == "map" else "tokens without a class token among them"
        raise BackboneError(f"{layer} gives {what}: pool it by avg, max, gem or flatten instead of cls")
    return pooling, Pool(pooling, layout.positions, layout.prefix)


def _prefix_tokens(network: Any) -> tuple[int, bool]:
    """Return how many tokens a network puts before the patches', and whether the first is a class token."""
    has_class = any(getattr(network, name, None) is not None for name in ("cls_token", "class_token"))
    # torchvision's ViT has the class token alone, as have timm's networks that do not say
    return int(getattr(network, "num_prefix_tokens", has_class)), has_class


def _holds_prefix(network: Any, n: int, prefix: int, crop: tuple[int, int]) -> bool:
    """Whether `n` tokens are the prefix and the patches, not the patches alone or fewer."""
    patches = getattr(getattr(network, "patch_embed", None), "num_patches", None)
    if patches is None and hasattr(network, "class_token"):  # torchvision's
        patches = (network.image_size // network.patch_size) ** 2
    if n in (patches, (patches or 0) + prefix):
        return bool(n != patches)
    # A network that does not say how many patches it makes, or makes them of pictures of another size than its own:
    # patches fill a rectangle of the picture's proportions.
    fills = [k > 0 and math.sqrt(k * crop[1] / crop[0]).is_integer() for k in (n, n - prefix)]
    return fills == [False, True]
