"""What a checkpoint of stage three says of itself, so that stage one can take it for a backbone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data.errors import SpecError, WeightsError
from data.spec import FeatureSpec
from data.views import View
from extract.listed import extract_listed
from extract.networks import Setup
from extract.options import Options
from extract.results import Progress
from extract.wanted import Wanted

CHECKPOINT_KEY = "penult_checkpoint"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned network in a file.

    Parameters
    ----------
    path : Path
    spec : FeatureSpec
        Of its penultimate vectors.
    info : dict
        Everything that the file says.
    """

    path: Path
    spec: FeatureSpec
    info: dict[str, Any]

    def options(self, changes: Options | None = None) -> Options:
        """Return the preprocessing that it was trained with, with some of it changed."""
        named = {k: v for k, v in dataclasses.asdict(changes or Options()).items() if v is not None}
        known: dict[str, Any] = self.info.get("request", {}).get("options", {})
        return Options(**{**options_of(self.spec, known.get("fit")), **named})


def options_of(spec: FeatureSpec, fit: str | None = None) -> dict[str, Any]:
    """Return the preprocessing of a spec as values of `Options`, whatever its network's own is.

    Parameters
    ----------
    spec : FeatureSpec
    fit : str, optional
        Its `fit`, where that was asked for by name; else the usual one is left out, as older readers expect.
    """
    return {
        "input_size": spec.crop[0],
        "resize": spec.resize,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "color": spec.color,
        "decoder": spec.decoder,
        **({"fit": spec.fit} if fit or spec.fit != "shorter" else {}),
    }


def extract_view(path: Path, view: View, store: Path, on_progress: Callable[[Progress], None] | None = None) -> None:
    """Add to a store what a checkpoint's network gives for some of its pictures.

    Parameters
    ----------
    path : Path
        The checkpoint.
    view : View
        The pictures, of an image set that the store has.
    store : Path
        Which is not written in place: a new file replaces it.
    on_progress : callable, optional
        Called with an `extract.results.Progress` after every picture.

    Raises
    ------
    WeightsError
        If it is no checkpoint.
    PenultError
        If the pictures or the store refuse.
    """
    found = read_checkpoint(path)
    if found is None:
        raise WeightsError(f"{path} is no checkpoint: make one with `finetune`")
    wanted = Wanted(found.spec.backbone, str(path), found.options(), kept=True)
    extract_listed(store, view, wanted, Setup(), on_progress)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return what a file says if it is a checkpoint of ours; None if it is anything else. Reads no tensor.

    Raises
    ------
    WeightsError
        If it is of a newer format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(CHECKPOINT_KEY)
    except (SafetensorError, OSError, ValueError):
        return None
    if text is None:
        return None
    try:
        info = json.loads(text)
        spec = FeatureSpec.from_json(json.dumps(info["spec"]))
        newer = info["format"] > 1
    except (ValueError, KeyError, TypeError, SpecError):
        raise WeightsError(
            f"{path} is a checkpoint whose metadata cannot be read: make it anew with `finetune`"
        ) from None
    if newer:
        raise WeightsError(f"{path} has format {info['format']}, this Penult reads format 1: update Penult")
    return Checkpoint(path, spec, info)
