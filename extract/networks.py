"""A frozen network, how to run it and the features wanted of it: from inputs of pictures to finished vectors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from data.spec import FeatureSpec
from extract.decode import Pixels
from extract.preprocess import Recipe, recipes

if TYPE_CHECKING:
    from extract.engines import Engine

Floats = npt.NDArray[np.float32]
Inputs = Mapping[Recipe, Pixels]  # of one picture


@dataclasses.dataclass(frozen=True)
class Setup:
    """How to run a network.

    Parameters
    ----------
    engine : str
        A key of `extract.engines.ENGINES`, or ``auto``.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    batch_size : int
        Pictures in a batch; 0 chooses by device.
    precision : str
        ``float32``, ``fp16`` or ``bf16`` (automatic mixed precision), or ``auto``: fp16 on CUDA, else float32.
    compile : bool
        Whether PyTorch compiles the network first, which takes a minute and pays on a GPU.
    cores : int
        Cores that it may use on a CPU; 0 takes all that the process has.
    """

    engine: str = "auto"
    device: str = "auto"
    batch_size: int = 0
    precision: str = "auto"
    compile: bool = False
    cores: int = 0


class Projector(Protocol):
    """Makes vectors shorter."""

    def __call__(self, vectors: Floats, /) -> Floats:
        """Return (B, dim) float32 for vectors (B, width) float32."""

    def affine(self, width: int) -> tuple[Floats, Floats]:
        """Return what is subtracted first, (width,), and what vectors are then multiplied with, (width, dim)."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One vector wanted of each picture.

    Parameters
    ----------
    spec : FeatureSpec
        What it is.
    request : dict
        The command that gives it, as `extract.wanted` describes it.
    output : int
        Which output of its network it begins with.
    project : Projector, optional
        From (B, dim_out) to (B, dim), float32, if the spec has a projection.
    """

    spec: FeatureSpec
    request: dict[str, Any]
    output: int = 0
    project: Projector | None = None

    def finish(self, outputs: Mapping[Recipe, Sequence[Floats]]) -> Floats:
        """Return the vectors, (B, dim) float32: the mean over the spec's views, projected, normalised.

        Parameters
        ----------
        outputs : mapping of Recipe to sequence of ndarray
            What the network gave for the inputs of each recipe, one array for each of its outputs.
        """
        views = [outputs[recipe][self.output] for recipe in recipes(self.spec)]
        vectors: Floats = views[0] if len(views) == 1 else np.stack(views).mean(axis=0, dtype=np.float32)
        if self.project:
            vectors = self.project(vectors)
        if self.spec.normalize == "l2":
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)  # a zero vector stays one
        return vectors


class Network:
    """One backbone, what is wanted of it, and the engine that runs it once `engine` is set.

    Parameters
    ----------
    features : sequence of Feature
        What its outputs become; all of the same backbone, weights and kind of input.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = list(features)
        self.recipes = tuple(dict.fromkeys(r for f in features for r in recipes(f.spec)))
        self.engine: Engine | None = None

    def compute(self, pictures: Sequence[Inputs]) -> list[Floats]:
        """Return the vectors of some pictures, (B, dim) float32 for each feature; threads may call it."""
        engine = self.engine
        assert engine is not None, "the engine is set before the first batch"
        outputs = {recipe: engine.forward(np.stack([p[recipe] for p in pictures])) for recipe in self.recipes}
        return [feature.finish(outputs) for feature in self.features]
