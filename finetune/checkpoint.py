"""A trained network as one safetensors file: all tensors under the network's own names, and the rest as JSON.

torchvision and timm load the tensors as they are, `extract --weights` takes the file for a backbone, and
`classify.artifact` reads its last layer as a head; docs/format.md says what is in it.
"""

import base64
import dataclasses
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from data import VERSION
from data.errors import TrainingError
from data.spec import FeatureSpec
from data.staging import disk_full_hint, write_atomically
from data.views import Digests
from extract.checkpoints import CHECKPOINT_KEY, options_of, read_checkpoint
from extract.weights import weights_digest
from finetune.surgery import Operated, Tuned


def tuned_spec(network: Tuned, before: FeatureSpec) -> FeatureSpec:
    """Return what the penultimate vectors of a trained network are: those of the same network with its weights now."""
    return dataclasses.replace(before, weights=weights_digest(network.body))


def save_checkpoint(path: Path, operated: Operated, facts: dict[str, Any], train_digests: Digests) -> FeatureSpec:
    """Write a trained network; the same training gives the same bytes.

    Parameters
    ----------
    path : Path
        The file; an old checkpoint is replaced at once or not at all.
    operated : Operated
        Its network has the weights to keep.
    facts : dict
        What the metadata are to say beside what is known here: classes, strategy, pictures, epochs, options.
    train_digests : ndarray of shape (n,), S64
        Contents that the gradient saw, or that chose the epoch.

    Returns
    -------
    FeatureSpec
        Of the penultimate vectors.
    """
    refuse_overwrite(path)
    network = operated.network
    # a network that averages several last layers (DeiT with distillation) gets the same in each: their mean is ours
    layer = {f"{head}.{name}": t for head in operated.head for name, t in network.last.state_dict().items()}
    named = {**network.body.state_dict(), **layer}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    spec = tuned_spec(network, operated.spec)
    keys = np.sort(np.array([int(d[:16], 16) for d in train_digests.tolist()], dtype="<u8"))
    info = {
        "format": 1,
        "backbone": operated.spec.backbone,
        "spec": json.loads(spec.canonical_json()),
        "fingerprint": spec.fingerprint,
        "last": operated.head[-1],
        "last_weights": weights_digest(network.last),
        "request": {"backbone": spec.backbone, "options": options_of(spec, operated.fit)},
        **facts,
        "train_keys": base64.b64encode(keys.tobytes()).decode(),
        "versions": {"penult": VERSION, "torch": torch.__version__, **_versions()},
    }
    content = save(tensors, metadata={CHECKPOINT_KEY: json.dumps(info, sort_keys=True)})
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)
    return spec


def refuse_overwrite(path: Path) -> None:
    """Raise if a checkpoint written to `path` would replace something else than a checkpoint, or cannot be written.

    Raises
    ------
    TrainingError
        With another name as the next step.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "cannot be written to" if path.parent.is_dir() else "is no folder"
        raise TrainingError(f"{path.parent} {why}: name a file in another folder with -o")
    if path.is_dir() or (path.exists() and read_checkpoint(path) is None):
        raise TrainingError(f"{path} exists and is no checkpoint: name another file with -o, or remove it first")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torchvision", "timm")}
