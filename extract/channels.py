"""Networks for pictures of one or four channels: their first convolution, made from the one for RGB.

One channel: the weights are summed over the input channels, so that a picture in luma gives what the same picture
gives in three equal channels, up to the normalisation. Four channels: the three are repeated to four, so that alpha
has the weights of red, and scaled by 3/4 to keep the size of the sums. Both are timm's rule
(`timm.models.adapt_input_conv`, https://timm.fast.ai/models#how-is-timm-able-to-load-pretrained-weights).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from data.errors import BackboneError

_RGB = 3
# What torchvision's GoogLeNet and Inception do to each channel before their first layer, from mean and std of
# ImageNet to those of their TensorFlow originals: x * scale + shift; here the mean of the three.
_SCALE = sum((0.229, 0.224, 0.225)) / 3 / 0.5
_SHIFT = (sum((0.485, 0.456, 0.406)) / 3 - 0.5) / 0.5


def adapt_channels(network: nn.Module, channels: int, backbone: str) -> None:
    """Make an RGB network take pictures of `channels` channels, any number of them, in place; 3 changes nothing.

    Parameters
    ----------
    network : Module
        Of torchvision or timm. What of it is trained and what is frozen stays so.
    channels : int
        One gets the sum of the weights for red, green and blue; more get these in turn, scaled by 3 / `channels`.
    backbone : str
        How messages call it.

    Raises
    ------
    BackboneError
        If its first layer is no convolution that can be converted.
    """
    if channels == _RGB:
        return
    from timm.models import adapt_input_conv

    for name in _first_convolutions(network, backbone):
        convolution = network.get_submodule(name)
        if not isinstance(convolution, nn.Conv2d) or convolution.groups != 1:
            raise _cannot(backbone, f"its first layer {name} is no plain convolution")
        if "StdConv" in type(convolution).__name__:
            raise _cannot(backbone, f"its first layer {name} standardises its weights whenever it runs")
        try:
            adapted = adapt_input_conv(channels, convolution.weight.detach())
        except (NotImplementedError, AssertionError):
            raise _cannot(backbone, f"its first layer {name} takes {convolution.in_channels} channels") from None
        convolution.weight = nn.Parameter(adapted.clone(), requires_grad=convolution.weight.requires_grad)
        convolution.in_channels = adapted.shape[1]
    if getattr(network, "transform_input", False):
        _replace_transform(network, channels)


def fits_channels(network: nn.Module, state: Mapping[str, torch.Tensor], channels: int, backbone: str) -> bool:
    """Whether a state dict was saved from a network that takes `channels` channels already, not the RGB one."""
    if channels == _RGB:
        return False
    first = _first_convolutions(network, backbone)[0] + ".weight"
    return any(
        (key == first or key.endswith("." + first)) and value.ndim == 4 and value.shape[1] == channels
        for key, value in state.items()
    )


def _first_convolutions(network: nn.Module, backbone: str) -> list[str]:
    """Return the names of the layers that see the pixels: timm says which, of torchvision's it is the first one."""
    named = getattr(network, "pretrained_cfg", {}).get("first_conv")
    if named:
        return [named] if isinstance(named, str) else list(named)
    found = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == _RGB]
    if not found:
        raise _cannot(backbone, "no convolution of it takes 3 channels")
    return found[:1]


def _replace_transform(network: Any, channels: int) -> None:
    of_rgb = network._transform_input
    if channels == 1:
        network._transform_input = lambda x: x * _SCALE + _SHIFT
    else:
        network._transform_input = lambda x: torch.cat([of_rgb(x[:, :3]), x[:, 3:] * _SCALE + _SHIFT], 1)


def _cannot(backbone: str, why: str) -> BackboneError:
    return BackboneError(f"{backbone} cannot be given other than 3 channels: {why}: use --color rgb or gray")
