"""Any layer of a network by name, pooled to one vector a picture.

Names are torchvision's node names (https://docs.pytorch.org/vision/stable/feature_extraction.html), such as
``layer3.0.relu_1`` or ``flatten``, and the names of modules, such as ``layer3`` or ``blocks.5``; a module that runs
several times counts where it first runs, and one that gives no single tensor by the last node in it.
"""

import dataclasses
import difflib
from collections.abc import Sequence

import torch
from torch import nn

from data.errors import BackboneError
from data.spec import FeatureSpec
from extract.options import ALL_STAGES, PENULTIMATE, Output
from extract.pooling import Layout, Pool, choose_pooling, layout_of
from extract.stages import stages_of
from extract.tracing import TRIAL, Cut, Survey, survey
from extract.zoo import build_network, require_torch, resolve_name, take_off_head

HOW_TO_LIST = "list them with --layer list"


def layer_names(name: str) -> list[str]:
    """List the layers of a network that can be features, in the order in which they are computed.

    Parameters
    ----------
    name : str
        As for `open_backbone`.

    Examples
    --------
    >>> layer_names("timm/test_resnet")[-3:]
    ['global_pool.flatten', 'global_pool', 'penultimate']
    """
    require_torch()
    library, arch = resolve_name(name)
    with torch.random.fork_rng(devices=[]):
        network, spec = build_network(library, arch, "random")
    head = take_off_head(network, spec.backbone)
    network.eval().requires_grad_(False)
    found = survey(network, 3, spec.crop, head)
    return [layer for layer in found.shapes if _layout(found, layer, spec) is not None]


def cut_network(
    network: nn.Module, spec: FeatureSpec, outputs: Sequence[Output], head: Sequence[str]
) -> tuple[Cut, tuple[FeatureSpec, ...]]:
    """Cut a network at the layers that are wanted.

    Parameters
    ----------
    network : Module
        In eval mode, without its last layer.
    spec : FeatureSpec
        Of the penultimate layer.
    outputs : sequence of Output
        At least one.
    head : sequence of str
        Names of the layers that were taken off.

    Returns
    -------
    network : Cut
    specs : tuple of FeatureSpec
        One for each output; of equal ones the first.

    Raises
    ------
    BackboneError
        If there is no such layer, or it cannot be pooled so.
    """
    if all(output.layer == PENULTIMATE and output.pooling in ("", "network") for output in outputs):
        return Cut(network), (spec,)
    found = survey(network, len(spec.mean), spec.crop, head)
    chosen: dict[FeatureSpec, Pool] = {}
    for output in outputs:
        layers = _all_stages(found, spec, head) if output.layer == ALL_STAGES else [output.layer]
        for layer in layers:
            pooling, pool = _resolve(found, spec, layer, output.pooling, head)
            chosen.setdefault(dataclasses.replace(spec, layer=layer, pooling=pooling), pool)
    return found.cut([s.layer for s in chosen], list(chosen.values())), tuple(chosen)


def _all_stages(found: Survey, spec: FeatureSpec, head: Sequence[str]) -> list[str]:
    layers = stages_of(found, spec.crop, head)
    if not layers:
        raise BackboneError(f"{spec.backbone} has no stages that we can tell apart: name layers; {HOW_TO_LIST}")
    return layers


def _resolve(found: Survey, spec: FeatureSpec, layer: str, pooling: str, head: Sequence[str]) -> tuple[str, Pool]:
    where = f"{spec.backbone}/{layer}"
    if layer == PENULTIMATE:
        if pooling in ("", "network"):
            return "network", Pool("network")
        last = _all_stages(found, spec, head)[-1]
        raise BackboneError(
            f"{where} is pooled by the network itself and cannot be pooled by {pooling!r}: use the last feature map, "
            f"--layer {last} --pooling {pooling}"
        )
    if layer in head:
        raise BackboneError(f"{where} is the last layer, which is taken off: use --layer {PENULTIMATE}, its input")
    if layer not in found.shapes:
        near = difflib.get_close_matches(layer, found.shapes, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "it has others;"
        raise BackboneError(f"{spec.backbone} has no layer {layer!r}: {hint} {HOW_TO_LIST}")
    layout = _layout(found, layer, spec)
    if layout is None:
        shape = found.shapes[layer]
        gives = "no tensor" if shape is None else f"{shape} for {TRIAL} pictures"
        raise BackboneError(f"{where} gives {gives}, not a map, tokens or a vector for each: {HOW_TO_LIST}")
    return choose_pooling(layout, pooling, where)


def _layout(found: Survey, layer: str, spec: FeatureSpec) -> Layout | None:
    shape = found.shapes[layer]
    if shape is None or len(shape) < 2 or shape[0] != TRIAL:
        return None
    return layout_of(found.network, shape, spec.crop)
