"""Feature vectors on a plane: by principal components at once, by t-SNE or UMAP where they are asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from classify.head import Array, Floats
from classify.trials import Scaler
from data.cores import available_cores
from data.errors import MissingDependency, how_to_install

# Components that t-SNE and UMAP start from: neighbours are the same, and distances cost a twentieth.
_COMPONENTS = 50
_PERPLEXITY = 30
# With fewer pictures than these t-SNE is quicker without its approximation.
_EXACT = 250
# Percent of the pictures on each side that may lie beyond the map's edge: one alone would press all others together.
_EDGE = 0.25


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """Pictures on a plane.

    Parameters
    ----------
    kind : str
        A key of `MAPS`.
    title, note : str
        Of the map, and how it is to be read.
    xy : ndarray of shape (n, 2)
        Between 0 and 1, in one scale for both axes.
    """

    kind: str
    title: str
    note: str
    xy: Floats


def draw_maps(X: Array, kinds: list[str], seed: int = 0) -> list[FeatureMap]:
    """Lay vectors out on a plane, once for each kind.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Vectors; they are standardised here.
    kinds : list of str
        Keys of `MAPS`.
    seed : int
        Of the start.

    Returns
    -------
    list of FeatureMap

    Raises
    ------
    MissingDependency
        If UMAP is not installed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> (found,) = draw_maps(rng.normal(size=(20, 5)).astype(np.float32), ["pca"])
    >>> found.xy.shape, float(found.xy.min()) >= 0, float(found.xy.max()) <= 1
    ((20, 2), True, True)
    """
    from sklearn.decomposition import PCA

    Z = Scaler.fit(X).transform(X)
    most = min(_COMPONENTS if set(kinds) - {"pca"} else 2, *Z.shape)
    model = PCA(most, svd_solver="randomized", random_state=seed).fit(Z)
    components = model.transform(Z)
    components = np.pad(components, ((0, 0), (0, max(0, 2 - most))))  # of one feature or one picture
    share = float(model.explained_variance_ratio_[:2].sum()) if len(X) > 1 else 0.0
    return [MAPS[kind](components, share, seed) for kind in kinds]


def check_maps(kinds: list[str]) -> None:
    """Raise, before anything is computed, where a kind of map needs what is not installed.

    Raises
    ------
    MissingDependency
        If UMAP is not.
    """
    if "umap" in kinds:
        _umap_class()


def _pca(components: Floats, share: float, seed: int) -> FeatureMap:
    note = (
        f"The two directions in which the standardised features vary most: {share:.0%} of the variance. What lies "
        "apart here is apart; what lies together may be apart in another direction."
    )
    return FeatureMap("pca", "Principal components", note, _unit(components[:, :2]))


def _tsne(components: Floats, share: float, seed: int) -> FeatureMap:
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, max((len(components) - 1) / 3, 1))
    method = "exact" if len(components) < _EXACT else "barnes_hut"
    model = TSNE(2, perplexity=perplexity, init="pca", method=method, random_state=seed, n_jobs=available_cores())
    note = (
        f"t-SNE with a perplexity of {perplexity:.0f} keeps neighbours together; distances between groups, and their "
        "sizes, mean nothing (van der Maaten and Hinton 2008)."
    )
    return FeatureMap("tsne", "t-SNE", note, _unit(model.fit_transform(components)))


def _umap(components: Floats, share: float, seed: int) -> FeatureMap:
    import warnings

    neighbours = max(min(15, len(components) - 1), 2)
    with warnings.catch_warnings():  # that a seed means one thread
        warnings.simplefilter("ignore")
        model = _umap_class()(n_neighbors=neighbours, random_state=seed)
        xy = np.asarray(model.fit_transform(components), dtype=np.float64)
    note = (
        f"UMAP over {neighbours} neighbours keeps neighbours together; distances between groups say little (McInnes et "
        "al. 2018, arXiv:1802.03426)."
    )
    return FeatureMap("umap", "UMAP", note, _unit(xy))


def _umap_class() -> Any:
    try:
        from umap import UMAP
    except ImportError:
        hint = f"{how_to_install('report')}, or take --map tsne"
        raise MissingDependency(f"--map umap needs umap-learn: {hint}") from None
    return UMAP


MAPS: dict[str, Callable[[Floats, float, int], FeatureMap]] = {"pca": _pca, "tsne": _tsne, "umap": _umap}


def _unit(xy: Array) -> Floats:
    """Return points in the unit square, in one scale for both axes; the few far outside lie on its edge."""
    xy = np.asarray(xy, dtype=np.float64)
    low, high = np.percentile(xy, [_EDGE, 100 - _EDGE], axis=0)
    reach = max(1.1 * float((high - low).max()), 1e-12)
    return np.asarray(np.clip(0.5 + (xy - (low + high) / 2) / reach, 0, 1))
