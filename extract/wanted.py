"""What is wanted of one network: layers, views, projection; as commands that a store remembers, and as features."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import ProjectionError
from data.provenance import KEPT
from extract.backbones import DEFAULT_BACKBONE, Backbone, open_backbone, request
from extract.networks import Feature, Floats, Projector
from extract.options import ALL_STAGES, Options, Output
from extract.preprocess import single_views
from extract.projection import Pca, load_pca, parse_projection, random_projection


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One network and the vectors wanted of it: every layer in every view.

    Parameters
    ----------
    backbone, weights, options, seed, partial
        As for `extract.backbones.open_backbone`.
    layers : tuple of str
        ``penultimate``, names of nodes, or ``all-stages``.
    pooling : str
        As for `extract.options.Output`.
    views : tuple of str
        Single views, as `extract.preprocess.expand_views` gives them.
    average : bool
        Keep one vector, the mean over the views, instead of one for each.
    projection : str
        Empty; ``random:DIM`` or ``random:DIM:SEED``; ``pca:DIM``, fitted on pictures of the first set; or a file that
        `extract.projection.save_pca` wrote.
    normalize : str
        Empty or ``l2``.
    poolings : tuple of str
        One for each of `layers`, in order, where `pooling` does not suit them all.
    kept : bool
        Whether the vectors are kept to go on from there, and no features that anybody asked for: a store that has
        them does not mention them where it is asked for features.
    """

    backbone: str = DEFAULT_BACKBONE
    weights: str = "default"
    options: Options = dataclasses.field(default_factory=Options)
    seed: int = 0
    partial: bool = False
    layers: tuple[str, ...] = ("penultimate",)
    pooling: str = ""
    views: tuple[str, ...] = ("center",)
    average: bool = False
    projection: str = ""
    normalize: str = ""
    poolings: tuple[str, ...] = ()
    kept: bool = False

    @property
    def stored_views(self) -> list[str]:
        """The views as specs name them, one for each stored vector."""
        for view in self.views:
            single_views(view)
        views = list(dict.fromkeys(self.views))
        return [f"mean({','.join(views)})"] if self.average and len(views) > 1 else views

    def open(self, outputs: Sequence[Output] = ()) -> Backbone:
        """Build the network; see `extract.backbones.open_backbone`.

        Parameters
        ----------
        outputs : sequence of Output
            What it is to give, instead of `layers`.
        """
        return open_backbone(
            self.backbone,
            self.weights,
            self.options,
            self.seed,
            outputs or [self._output(layer) for layer in self.layers],
            partial=self.partial,
        )

    def requests(self) -> list[dict[str, Any]] | None:
        """Return one command for each vector, as a store remembers them; None if only the network knows which.

        Raises
        ------
        MissingFile
            If a file that is named does not exist.
        SpecError
            If there is no such view or projection.
        """
        if ALL_STAGES in self.layers:
            return None
        layers, views = dict.fromkeys(self.layers), self.stored_views
        return [self._request(layer, view) for layer, view in itertools.product(layers, views)]

    def features(self, backbone: Backbone, pca: Callable[[Backbone], Pca] | None = None) -> list[Feature]:
        """Return what the network's outputs become.

        Parameters
        ----------
        backbone : Backbone
            As `open` gives it.
        pca : callable, optional
            Fits the components, where the projection asks for it.

        Raises
        ------
        ProjectionError
            If the projection does not suit.
        """
        project, projection = self._projection(backbone, pca)
        features = []
        for (i, spec), view in itertools.product(enumerate(backbone.specs), self.stored_views):
            stored = dataclasses.replace(spec, view=view, projection=projection, normalize=self.normalize)
            features.append(Feature(stored, self._request(spec.layer, view), i, project))
        return features

    def _output(self, layer: str) -> Output:
        own = dict(zip(self.layers, self.poolings, strict=False))
        return Output(layer, own.get(layer, self.pooling))

    def _request(self, layer: str, view: str) -> dict[str, Any]:
        output = self._output(layer)
        asked = request(self.backbone, self.weights, self.options, self.seed, output, partial=self.partial)
        ours: dict[str, Any] = {"view": view if view != "center" else "", "projection": self._asked_projection()}
        ours |= {"normalize": self.normalize, KEPT: self.kept}
        return {**asked, **{k: v for k, v in ours.items() if v}}

    def _asked_projection(self) -> str:
        """Return the projection with nothing left open but what only fitting decides."""
        kind, *numbers = self.projection.split(":")
        if not self.projection or (kind == "pca" and len(numbers) == 1):
            return self.projection
        if kind == "random" and len(numbers) in (1, 2):
            return ":".join([kind, numbers[0], numbers[1] if len(numbers) == 2 else "0"])
        return load_pca(Path(self.projection)).projection

    def _projection(self, backbone: Backbone, pca: Callable[[Backbone], Pca] | None) -> tuple[Projector | None, str]:
        asked = self._asked_projection()
        if not asked:
            return None, ""
        if len(backbone.specs) > 1 and not asked.startswith("random"):
            raise ProjectionError("components of one layer do not suit another: name one --layer with --projection")
        if asked.startswith("random"):
            kind = parse_projection(asked)
            return _RandomProjection(kind.dim, kind.seed), asked
        if Path(self.projection).is_file():
            components = load_pca(Path(self.projection))
        elif pca is not None:
            components = pca(backbone)
        else:
            raise ProjectionError(
                f"the components of {self.projection} are not here: name their file (--projection FILE)"
            )
        return components, components.projection


class _RandomProjection:
    """A random projection whose matrix is made when the width of a layer is known."""

    def __init__(self, dim: int, seed: int) -> None:
        self._dim = dim
        self._seed = seed
        self._matrices: dict[int, Floats] = {}

    def __call__(self, vectors: Floats) -> Floats:
        projected: Floats = vectors @ self._matrix(vectors.shape[1])
        return projected

    def affine(self, width: int) -> tuple[Floats, Floats]:
        """Return what is subtracted first, (width,), and what vectors are then multiplied with, (width, dim)."""
        return np.zeros(width, np.float32), self._matrix(width)

    def _matrix(self, width: int) -> Floats:
        if width not in self._matrices:  # two threads may make it at once, and make the same
            self._matrices[width] = random_projection(width, self._dim, self._seed)
        return self._matrices[width]


def wanted_of(request: dict[str, Any], weights: str, projection: str) -> Wanted:
    """Return what a remembered command wanted.

    Parameters
    ----------
    request : dict
        As `Wanted.requests` made it.
    weights, projection : str
        Where its files are now.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in request["options"].items()}
    view, asked, partial = request.get("view", "center"), request.get("projection", ""), request.get("partial")
    return Wanted(
        backbone=request["backbone"],
        weights=weights,
        options=Options(**options),
        seed=(partial or {}).get("seed", request["weights"].get("random", 0)),
        partial=partial is not None,
        layers=(request.get("layer", "penultimate"),),
        pooling=request.get("pooling", ""),
        views=tuple(single_views(view)),
        average=view.startswith("mean("),
        projection=projection if asked.startswith("pca") else asked,
        normalize=request.get("normalize", ""),
    )
