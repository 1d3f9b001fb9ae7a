"""The last layer that a pretrained network came with: what it takes for which of its own classes.

On stored penultimate vectors it gives the network's own answers without running the network again.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import PenultError
from data.spec import Source
from extract.checkpoints import read_checkpoint
from extract.embed import reopen_all
from extract.options import PENULTIMATE
from extract.zoo import (
    build_network,
    find_state,
    is_file,
    last_layer_names,
    require_torch,
    resolve_name,
    take_off_head,
)

Floats = npt.NDArray[np.float32]

IMAGENET = 1000  # classes of ImageNet-1k
# Largest relative difference between a network's output and its last layer on its penultimate vector, both float32.
_SAME = 1e-4


@dataclasses.dataclass(frozen=True)
class OriginalLayer:
    """A linear layer on the penultimate vector, as the network's weights hold it.

    Parameters
    ----------
    weight : ndarray of shape (K, d), float32
        A row for each class.
    bias : ndarray of shape (K,), float32
        Zeros where the layer has none.
    names : tuple of tuple of str
        Names of each class, the most usual first, the WordNet number last; empty where they are not known.
    note : str
        What was assumed of the names, or why there are none; empty where they are certain.
    backbone : str
        Library and architecture, as a spec has them.
    """

    weight: Floats
    bias: Floats
    names: tuple[tuple[str, ...], ...]
    note: str
    backbone: str

    def logits(self, X: npt.NDArray[Any]) -> Floats:
        """Return the scores of the network's own classes, (n, K) float32, for penultimate vectors (n, d)."""
        scores: Floats = X.astype(np.float32, copy=False) @ self.weight.T + self.bias
        return scores


def original_layer(name: str, weights: str = "default") -> tuple[OriginalLayer | None, str]:
    """Return the last layer that a network's weights hold.

    Parameters
    ----------
    name, weights : str
        As for `extract.backbones.open_backbone`.

    Returns
    -------
    layer : OriginalLayer or None
    reason : str
        Why there is none; empty where there is one.

    Raises
    ------
    BackboneError
        If there is no such network.
    WeightsError
        If the weights cannot be had or read.
    MissingDependency
        If torch, torchvision or timm is not installed.

    Examples
    --------
    >>> layer, reason = original_layer("timm/test_resnet", "random")
    >>> layer, reason
    (None, 'the weights of timm/test_resnet are random: its last layer was never trained')
    """
    require_torch()
    import torch

    library, arch = resolve_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, spec = build_network(library, arch, weights)
        title = spec.backbone
        state, source = find_state(library, arch, weights, network)
        if state is None:
            return None, f"the weights of {title} are random: its last layer was never trained"
        head = last_layer_names(network, title)
        dim, reason = _width_if_linear(network, head, title, spec.crop)
    if reason:
        return None, reason
    # behind a wrapper's prefix such as `module.` too; auxiliary heads (`aux.fc`) have longer names
    found = sorted((k for k in state if f".{k}".endswith(f".{head[0]}.weight")), key=len)
    if not found:
        return None, f"{source} holds no tensor of the last layer of {title}, {head[0]}"
    weight = state[found[0]].float().numpy()
    if weight.ndim != 2 or weight.shape[1] != dim:
        return None, f"the last layer in {source} has the shape {weight.shape}, not (classes, {dim})"
    biases = state.get(found[0].removesuffix("weight") + "bias")
    bias = np.zeros(len(weight), np.float32) if biases is None else biases.float().numpy()
    if bias.shape != weight.shape[:1] or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None, f"the last layer in {source} holds NaN or a bias of the shape {bias.shape}: get the file anew"
    return OriginalLayer(weight, bias, *_names(library, len(weight), weights), title), ""


def original_layer_of(source: Source, wants: str, weights: str = "") -> tuple[OriginalLayer | None, str]:
    """Return the original last layer for stored features; whatever stands in the way is the reason.

    Parameters
    ----------
    source : Source
        The features; the network is built again to see that its weights are those that gave them.
    wants : str
        Who asks, for messages.
    weights : str
        The weights' file, if it has moved.

    Returns
    -------
    layer : OriginalLayer or None
    reason : str
        Why there is none; empty where there is one.
    """
    spec = source.spec
    if spec.layer != PENULTIMATE or spec.pooling != "network":
        return None, f"the last layer reads the penultimate vector, and {spec.title} is another layer"
    if spec.projection or spec.normalize:
        return None, f"the last layer reads the vector as the network gives it, and {spec.title} was changed afterwards"
    try:
        reopen_all([source], wants, weights=[weights] if weights else [])
        return original_layer(source.request["backbone"], weights or source.weights)
    except PenultError as error:
        return None, str(error)


def _width_if_linear(network: Any, head: list[str], title: str, crop: tuple[int, int]) -> tuple[int, str]:
    """Return the width of a network's last layer, or why it is no linear layer on the penultimate vector.

    Structure alone does not say what stands between the two, so both are run on noise; the head is taken off.
    """
    import torch
    from torch import nn

    if len(head) > 1:
        return 0, f"{title} has {len(head)} last layers ({', '.join(head)}), whose outputs it averages"
    layer = network.get_submodule(head[0])
    if not isinstance(layer, nn.Linear):
        return 0, f"the last layer of {title} is a {type(layer).__name__}, no linear layer on the penultimate vector"
    nn.init.normal_(layer.weight)  # some networks begin with zeros, on which everything would agree
    network.eval().requires_grad_(False)
    noise = torch.randn(2, 3, *crop)
    whole = network(noise)
    take_off_head(network, title)
    vectors = network(noise)
    if vectors.shape != (2, layer.in_features):
        return 0, f"the penultimate vector of {title} is not what its last layer reads"
    error = (whole - layer(vectors)).norm() / whole.norm()
    if not error < _SAME:
        return 0, f"{title} does more after its penultimate vector than one linear layer"
    return layer.in_features, ""


def _names(library: str, n_classes: int, weights: str) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Return the names of each class, and what was assumed: a checkpoint says them, else they are ImageNet-1k's."""
    checkpoint = read_checkpoint(Path(weights)) if Path(weights).is_file() else None
    if checkpoint:
        return tuple((name,) for name in checkpoint.info["classes"]), ""
    if n_classes != IMAGENET:
        return (), f"the names of its {n_classes} classes are not known"
    from timm.data.imagenet_info import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo()
    shown: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"] if library == "torchvision" else []
    names = []
    for i in range(n_classes):
        lemmas = [lemma.strip() for lemma in info.index_to_description(i).split(",")]
        names.append(tuple(dict.fromkeys([*shown[i : i + 1], *lemmas, info.index_to_label_name(i)])))
    assumed = f"its {n_classes} classes were taken for those of ImageNet-1k in their usual order"
    return tuple(names), assumed if is_file(weights) else ""
