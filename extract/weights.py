"""State dicts: reading them without running their code, fitting them into a network, and their digest."""

import dataclasses
import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from data.errors import MissingFile, WeightsError, first_line

StateDict = dict[str, torch.Tensor]

# Where training scripts put the state dict inside a checkpoint, most wanted first.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "network",
    "net",
    "params",
)
# What torch's restricted unpickler raises on bytes that are no pickle.
_GARBAGE = (ValueError, EOFError, KeyError, IndexError, AttributeError, TypeError, AssertionError)
# Only used while training; torchvision's GoogLeNet and Inception files carry them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet files from before torchvision 0.3: `denselayer1.norm.1.weight` is today's `denselayer1.norm1.weight`.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a ``.pth``/``.pt``/``.bin`` or ``.safetensors`` file; nothing in the file is run.

    Parameters
    ----------
    path : Path
        A state dict, or a checkpoint that holds one under a usual name.

    Returns
    -------
    dict of str to Tensor
        On the CPU, in their stored dtype.

    Raises
    ------
    MissingFile
        If there is no such file.
    WeightsError
        If it is no state dict, or could only be read by running its code.
    """
    if not path.is_file():
        raise MissingFile(f"the weights file {path} does not exist: check --weights")
    try:
        if _is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on the age of the format, which the user cannot change
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and reading the rest would run its code: where it was made, save "
            f"`model.state_dict()` alone and name that file ({first_line(error)})"
        ) from None
    except (OSError, RuntimeError, SafetensorError, *_GARBAGE) as error:
        raise WeightsError(
            f"{path} cannot be read as a state dict ({first_line(error)}): "
            "name a .pth or .safetensors file saved from `model.state_dict()`"
        ) from None
    return _unwrap(loaded, path)


def _is_safetensors(path: Path) -> bool:
    """Whether a file says so by its name or its beginning: the length of a JSON object, and the object."""
    with open(path, "rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (
        start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    )


def _unwrap(loaded: object, path: Path) -> StateDict:
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        if tensors and len(tensors) == len(loaded):
            return tensors
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            if tensors:  # a state dict with extra state beside the tensors
                return tensors
            break
        loaded = inner
    raise WeightsError(
        f"{path} holds no state dict: name a file saved from `model.state_dict()`, or a checkpoint that has one "
        f"under {', '.join(_WRAPPERS[2:6])}"
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What of a state dict fitted a network; names are the network's.

    Parameters
    ----------
    matched, missing, unknown : list of str
        Loaded; in the network only; in the file only.
    misfits : list of str
        In both with another shape, each with the two shapes.
    """

    matched: list[str]
    missing: list[str]
    unknown: list[str]
    misfits: list[str]

    def complaints(self) -> list[str]:
        """Return what did not fit, a clause each."""
        kinds = (
            (self.missing, "keys are missing"),
            (self.unknown, "keys are unknown"),
            (self.misfits, "have another shape"),
        )
        return [f"{len(keys)} {what} ({_first(keys)})" for keys, what in kinds if keys]

    def report(self, source: str, backbone: str, seed: int) -> tuple[str, ...]:
        """Say what of a partial state dict was used, a sentence each."""
        wanted = len(self.matched) + len(self.missing) + len(self.misfits)
        lines = [f"{source}: {len(self.matched)} of the {wanted} tensors of {backbone} loaded"]
        if self.missing:
            lines.append(f"{len(self.missing)} are not in the file, random by seed {seed}: {_first(self.missing)}")
        if self.misfits:
            lines.append(f"{len(self.misfits)} have another shape, random by seed {seed}: {_first(self.misfits)}")
        if self.unknown:
            lines.append(f"{len(self.unknown)} tensors of the file are unknown, not used: {_first(self.unknown)}")
        return tuple(lines)


def load_into(
    network: nn.Module,
    state: StateDict,
    *,
    head: Iterable[str],
    source: str,
    backbone: str,
    partial: bool = False,
) -> Loaded:
    """Load a state dict into a network whose last layer has been taken off; everything else must fit.

    A prefix that all wanted keys share in the file (``module.``, ``model.``, ``_orig_mod.`` and the like) is
    understood, as is float16. Keys of the taken-off layer and of auxiliary heads are passed over.

    Parameters
    ----------
    network : Module
        Changed in place.
    state : dict of str to Tensor
        As `read_state_dict` gives it.
    head : iterable of str
        Names of the layers that were taken off.
    source, backbone : str
        How messages name the file and the network.
    partial : bool
        Load what matches in name and shape and leave the rest of the network as it is.

    Returns
    -------
    Loaded

    Raises
    ------
    WeightsError
        Listing the keys that are missing, unknown or of another shape, unless `partial`.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {_OLD_DENSENET.sub(r"\1\2.", k): v for k, v in state.items()}
    prefix = _shared_prefix(set(state), list(wanted))
    given = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    passed_over = tuple(f"{name}." for name in head) + _AUXILIARY
    given = {k: v for k, v in given.items() if not k.startswith(passed_over) and not k.endswith("num_batches_tracked")}
    matched = [k for k, v in wanted.items() if k in given and given[k].shape == v.shape]
    loaded = Loaded(
        matched,
        missing=[k for k in wanted if k not in given],
        unknown=[k for k in given if k not in wanted],
        misfits=[
            f"{k} (file {tuple(given[k].shape)}, network {tuple(v.shape)})"
            for k, v in wanted.items()
            if k in given and given[k].shape != v.shape
        ],
    )
    if (complaints := loaded.complaints()) and not partial:
        raise WeightsError(
            f"{source} does not fit {backbone}: {'; '.join(complaints)}: name the network that it was saved from "
            "with --backbone, or load what fits with --partial"
        )
    if not all(torch.isfinite(given[k]).all() for k in matched):
        raise WeightsError(f"{source} holds NaN or infinity: get the file anew")
    network.load_state_dict({k: given[k].float() for k in matched}, strict=False)
    return loaded


def in_order(state: StateDict, network: nn.Module, source: str) -> StateDict:
    """Rename a state dict whose tensors come in the network's order under other names.

    Raises
    ------
    WeightsError
        If the shapes do not agree one by one.
    """
    names = network.state_dict()
    if [tuple(v.shape) for v in state.values()] != [tuple(v.shape) for v in names.values()]:
        raise WeightsError(f"{source} does not hold this network's tensors in order: reinstall the package")
    return dict(zip(names, state.values(), strict=True))


def weights_digest(network: nn.Module) -> str:
    """Return ``sha256:`` and the digest of a network's parameters and buffers as little-endian float32.

    Each tensor adds its name, its shape and its values, in the order of the names; BatchNorm's batch counters are
    left out. So float16 and float32 files of the same values, or the same values with another last layer, give
    the same digest.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False).data)
    return f"sha256:{digest.hexdigest()}"


def _shared_prefix(have: set[str], wanted: list[str]) -> str:
    """Return what must stand before the wanted keys so that most of them are found."""
    if not wanted:
        return ""
    # a few keys from all over the network: part of a state dict need not have the first or the last
    probes = [*wanted[:: max(1, len(wanted) // 16)], wanted[-1]]
    candidates = {""} | {k[: -len(w)] for w in probes for k in have if k.endswith("." + w)}
    return max(sorted(candidates), key=lambda prefix: sum(prefix + w in have for w in wanted))


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
