"""Frozen networks by name, up to the layers that are wanted, with their own preprocessing."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.errors import MissingFile, WeightsError
from data.provenance import version_of
from data.spec import FeatureSpec
from extract.options import PENULTIMATE, Options, Output
from extract.zoo import DEFAULT_BACKBONE as DEFAULT_BACKBONE
from extract.zoo import PACKAGE, build_network, find_state, is_file, require_torch, resolve_name, take_off_head

# Part of a state dict is taken where at least this share of the tensors on the way to the layers is in it: below
# that most of the features would be a random network's, which `--weights random` gives openly.
_LEAST_PART = 0.5
_PENULTIMATE = Output()


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A frozen network and what its outputs are.

    Parameters
    ----------
    network : Module
        In eval mode, without gradients; maps normalised pictures (B, C, H, W) to a tuple of features (B, dim_i),
        float32, one for each spec.
    specs : tuple of FeatureSpec
        One for each output, all of the same pixels; `view`, `projection` and `normalize` at their defaults.
    report : tuple of str
        What the user should know of how the weights fitted, a sentence each.
    """

    network: Any  # torch.nn.Module, not imported here: `request` below must work without torch
    specs: tuple[FeatureSpec, ...]
    report: tuple[str, ...] = ()

    @property
    def spec(self) -> FeatureSpec:
        """The spec of the first output."""
        return self.specs[0]


@dataclasses.dataclass(frozen=True)
class Headless:
    """A network without its last layer, its weights loaded, not yet cut.

    Parameters
    ----------
    network : Module
        In eval mode, without gradients; maps normalised pictures (B, C, H, W) to penultimate vectors (B, dim).
    spec : FeatureSpec
        Of these vectors.
    head : tuple of str
        Names of the layers that were taken off.
    title : str
        Where the weights came from; empty for random ones.
    loaded : Loaded, optional
        How the weights fitted; None for random ones.
    """

    network: Any
    spec: FeatureSpec
    head: tuple[str, ...]
    title: str
    loaded: Any  # extract.weights.Loaded, which needs torch


def request(
    backbone: str,
    weights: str,
    options: Options,
    seed: int,
    output: Output = _PENULTIMATE,
    *,
    partial: bool = False,
) -> dict[str, Any]:
    """Describe a command so exactly that the same description always resolves to the same spec.

    A store remembers it, and a later run that asks the same knows the fingerprint without loading the network.
    Needs no torch. What is at its default is left out, so that commands of older stores still match. Of
    ``all-stages`` the description stands for several specs, always the same.
    """
    if weights == "random":
        source: dict[str, Any] = {"random": seed}
    elif is_file(weights):
        path = Path(weights)
        if not path.is_file():
            raise MissingFile(f"the weights file {path} does not exist: check --weights")
        with open(path, "rb") as file:
            source = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    else:
        source = {"named": weights}
    packages = ("torch", "torchvision", "timm", PACKAGE.replace("_", "-"))
    asked: dict[str, Any] = {
        "backbone": backbone,
        "weights": source,
        "options": {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in dataclasses.asdict(options).items()
            if v is not None and (k, v) != ("color", "rgb")
        },
        "versions": {p: v for p in packages if (v := version_of(p))},
    }
    if output.layer != PENULTIMATE:
        asked["layer"] = output.layer
    if output.pooling not in ("", "network", "none"):
        asked["pooling"] = output.pooling
    if partial and weights != "random":
        asked["partial"] = {"seed": seed}  # of the tensors that the file does not have
    return asked


def same_command(asked: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether a remembered request resolves to what `asked` would.

    Where torch is not installed nothing can be computed anew, so the versions, which could only make the default
    weights other ones, do not matter: renames and relabels then work on a laptop.
    """
    if "torch" in asked["versions"]:
        return asked == held
    return {**asked, "versions": None} == {**held, "versions": None}


def open_backbone(
    name: str,
    weights: str = "default",
    options: Options | None = None,
    seed: int = 0,
    outputs: Sequence[Output] = (Output(),),
    *,
    partial: bool = False,
) -> Backbone:
    """Build a network by name, load its weights and cut it at the layers that are wanted.

    Parameters
    ----------
    name : str
        ``efficientnet_lite0`` (with packaged ImageNet weights), any classification network of torchvision or timm,
        or one with its library in front: ``timm/resnet50``. torchvision comes first where both have a name.
    weights : str
        ``default``: the packaged ones, or the library's from the hub's cache or the network; for torchvision the
        first set (IMAGENET1K_V1), whose features transfer better than V2's (pytorch/vision#8382), or the name of a
        set; ``random``; or the path of a state dict.
    options : Options, optional
        Changes to the network's own preprocessing.
    seed : int
        Of random weights, and of those that part of a state dict does not hold.
    outputs : sequence of Output
        What the network is to give, in one pass; equal ones count once.
    partial : bool
        Load the tensors whose name and shape match and keep the network's own initial values for the others, as
        long as at least half of those on the way to the layers match; `Backbone.report` says what did.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        If there is no such network, or it has no last layer that we can find, or no such layer or pooling.
    WeightsError
        If the weights cannot be had or do not fit.
    MissingDependency
        If torch, torchvision or timm is not installed.

    Examples
    --------
    >>> tiny = open_backbone("timm/test_resnet", "random", outputs=[Output("layer3", "gem"), Output()])
    >>> [spec.title for spec in tiny.specs]
    ['timm/test_resnet/layer3/gem', 'timm/test_resnet/penultimate']
    """
    require_torch()
    from extract.layers import cut_network

    headless = open_headless(name, weights, options, seed, partial=partial)
    module, specs = cut_network(headless.network, headless.spec, outputs, headless.head)
    module.eval()
    loaded, source = headless.loaded, headless.title
    if loaded is None or not partial:
        return Backbone(module, specs)
    refuse_little(headless, (name.removeprefix("body.") for name in module.state_dict()), specs[0].title)
    return Backbone(module, specs, loaded.report(source, headless.spec.backbone, seed))


def refuse_little(headless: Headless, names: Iterable[str], title: str) -> None:
    """Raise if part of a state dict is too small a part of the tensors of these names.

    Raises
    ------
    WeightsError
        If less than half of them was loaded.
    """
    below = [name for name in names if not name.endswith("num_batches_tracked")]
    found = sum(name in headless.loaded.matched for name in below)
    if found < _LEAST_PART * len(below):
        raise WeightsError(
            f"{headless.title} holds {found} of the {len(below)} tensors that {title} needs, less than half: name "
            "the network that it was saved from with --backbone, or say --weights random"
        )


def open_headless(
    name: str, weights: str = "default", options: Options | None = None, seed: int = 0, *, partial: bool = False
) -> Headless:
    """Build a network by name, load its weights and take off its last layer; parameters as for `open_backbone`."""
    require_torch()
    import torch

    from extract.channels import adapt_channels, fits_channels
    from extract.weights import Loaded, load_into, weights_digest

    options = options or Options()
    library, arch = resolve_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, spec = build_network(library, arch, weights)
    spec = options.apply(spec)
    title, channels = spec.backbone, len(spec.mean)
    state, source = find_state(library, arch, weights, network)
    head = take_off_head(network, title)
    ready = state is not None and fits_channels(network, state, channels, title)
    if ready:  # saved from a network of this many channels: nothing is to be converted
        adapt_channels(network, channels, title)
    loaded: Loaded | None = None
    if state is not None:
        loaded = load_into(network, state, head=head, source=source, backbone=title, partial=partial)
    if not ready:
        adapt_channels(network, channels, title)
    network.eval().requires_grad_(False)
    spec = dataclasses.replace(spec, weights=weights_digest(network))
    return Headless(network, spec, tuple(head), source, loaded)
