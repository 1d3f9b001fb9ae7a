"""Principal components of a layer: fitted on pictures of the first set, and kept in a file beside the store."""

from pathlib import Path

import numpy as np

from data.errors import MissingFile, ProjectionError
from data.images import ImageSet, Subset
from extract.backbones import Backbone
from extract.embed import embed
from extract.networks import Feature
from extract.projection import Pca, fit_pca, load_pca, save_pca

# Rows that decide the components: several for each direction, from the training split where there is one.
_LEAST_ROWS, _ROWS_PER_DIMENSION = 2048, 4


def components_file(store: Path, projection: str) -> Path:
    """Return where the components of a spec's projection (``pca:DIM:sha256:HEX``) are kept."""
    name = f"pca-{projection.rpartition(':')[2][:16]}.safetensors"
    return store / name if store.is_dir() else store.with_name(f"{store.name}.{name}")


def stored_components(store: Path, projection: str) -> Pca:
    """Return the components that features in a store have.

    Raises
    ------
    MissingFile
        If their file is gone.
    """
    path = components_file(store, projection)
    if not path.is_file():
        raise MissingFile(
            f"the components that the features in {store} were projected with are not at {path}: "
            "restore that file from a copy, or extract into a new store"
        )
    return load_pca(path)


def fit_components(store: Path, images: ImageSet, backbone: Backbone, projection: str, device: str) -> Pca:
    """Fit components on training pictures chosen by a fixed seed, and keep them beside the store.

    Raises
    ------
    ProjectionError
        If there are too few pictures for so many components.
    """
    kind, _, number = projection.partition(":")
    if kind != "pca" or not number.isdigit():
        raise ProjectionError(f"no projection {projection!r}: use random:DIM, random:DIM:SEED, pca:DIM or a file")
    dim = int(number)
    splits = images.splits.tolist()
    train = [i for i, split in enumerate(splits) if split == "train"] or list(range(len(images)))
    rows = max(_LEAST_ROWS, _ROWS_PER_DIMENSION * dim)
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:rows]).tolist()
    sample = Subset(images, [train[i] for i in chosen])
    vectors = embed(sample, backbone, Feature(backbone.spec, {}), device=device).vectors
    pca = fit_pca(vectors, dim)
    save_pca(components_file(store, pca.projection), pca)
    return pca
