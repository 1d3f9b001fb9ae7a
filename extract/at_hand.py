"""Where networks' weights and exported graphs are kept on this machine, and which networks need no connection.

Folders are found without torch; nothing is ever fetched.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from data.errors import EngineError, MissingDependency
from data.terminal import parse_size
from extract.zoo import DEFAULT_BACKBONE, checkpoint_name, is_file, packaged_file, resolve_name

# Twenty graphs of resnet50.
_GRAPHS = "2GB"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Cache:
    """A folder that fills by itself.

    Parameters
    ----------
    what, path : str
    files, nbytes : int
        What lies there; a link counts as what it is, not as what it points to.
    writable : bool
        Whether more can be kept.
    limit : int or None
        Bytes that it stays within by itself; None where nothing bounds it.
    """

    what: str
    path: str
    files: int
    nbytes: int
    writable: bool
    limit: int | None = None


def graph_folder() -> Path:
    """Return where exported graphs are kept: ``$PENULT_CACHE``, else the user's cache folder."""
    named = os.environ.get("PENULT_CACHE")
    return Path(named) if named else _user_cache() / "penult"


def graph_limit() -> int:
    """Return the bytes that exported graphs may take together: ``$PENULT_CACHE_SIZE``, else 2 GB.

    Raises
    ------
    EngineError
        If the variable is no size.
    """
    try:
        return parse_size(os.environ.get("PENULT_CACHE_SIZE") or _GRAPHS)
    except ValueError as error:
        raise EngineError(f"the environment variable PENULT_CACHE_SIZE {error}") from None


def torch_folder() -> Path:
    """Return where torchvision keeps weights, as `torch.hub` finds it."""
    return Path(os.environ.get("TORCH_HOME") or _user_cache() / "torch").expanduser() / "hub" / "checkpoints"


def hub_folder() -> Path:
    """Return where timm keeps weights, as `huggingface_hub` finds it."""
    home = os.environ.get("HF_HOME") or _user_cache() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def caches() -> list[Cache]:
    """Return the folders that fill by themselves."""
    folders = (
        ("graphs for ONNX Runtime", graph_folder() / "onnx", graph_limit()),
        ("weights of torchvision", torch_folder(), None),
        ("weights of timm", hub_folder(), None),
    )
    return [Cache(what, str(path), *_measure(path), _writable(path), limit) for what, path, limit in folders]


def cached_networks() -> list[str]:
    """Return the networks whose own weights are on this machine, as `--backbone` takes them; needs torchvision.

    Of timm those are listed that are kept under timm's own name on the hub.

    Raises
    ------
    MissingDependency
        If torch, torchvision or timm is not installed.
    """
    resolve_name(DEFAULT_BACKBONE)
    import torchvision.models as models

    found = [DEFAULT_BACKBONE] if _is_packaged() else []
    kept = set(os.listdir(torch_folder())) if torch_folder().is_dir() else set()
    for arch in models.list_models(module=models) if kept else []:
        if checkpoint_name(arch) in kept:
            found.append(arch)
    for folder in sorted(hub_folder().glob("models--timm--*")):
        if any(next(folder.glob(f"snapshots/*/{name}"), None) for name in _WEIGHTS):
            found.append("timm/" + folder.name.removeprefix("models--timm--"))
    return found


def has_weights(backbone: str, weights: str = "default") -> bool:
    """Whether a network's weights, as `extract.backbones.open_backbone` takes them, need not be fetched.

    Raises
    ------
    BackboneError
        If there is no such network.
    MissingDependency
        If torch, torchvision or timm is not installed.
    """
    library, arch = resolve_name(backbone)
    if weights == "random" or is_file(weights):
        return True
    if (library, arch.split(".")[0]) == ("timm", "tf_efficientnet_lite0") and _is_packaged():
        return True
    if library == "torchvision":
        return (torch_folder() / checkpoint_name(arch, weights)).is_file()
    import huggingface_hub
    import timm

    config: Any = timm.get_pretrained_cfg(arch)
    repository = config.hf_hub_id if config else None
    cached = (huggingface_hub.try_to_load_from_cache(repository, name) for name in _WEIGHTS if repository)
    return any(isinstance(path, str) for path in cached)


def _is_packaged() -> bool:
    try:
        return packaged_file().is_file()
    except MissingDependency:
        return False


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _measure(folder: Path) -> tuple[int, int]:
    """Return how many files there are, and their bytes."""
    sizes = []
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.lstat(os.path.join(base, name)).st_size)
            except OSError:  # removed meanwhile
                continue
    return len(sizes), sum(sizes)


def _writable(folder: Path) -> bool:
    """Whether files can be put there, the folder made if need be."""
    nearest = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
