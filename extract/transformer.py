"""A scikit-learn transformer from pictures to features; the only file of `extract` that may import scikit-learn."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from data.errors import ImageSetError, MissingFile, ProjectionError
from data.listing import is_address
from data.terminal import ProgressDisplay, printable
from extract.backbones import DEFAULT_BACKBONE
from extract.cache import Answer, Cache, MemoryCache, StoreCache, absent, stages
from extract.networks import Floats, Setup
from extract.options import ALL_STAGES, Options
from extract.preprocess import expand_views
from extract.wanted import Wanted

# How many pictures a message names.
_NAMED = 3


class PenultFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Features of pictures as a step of a scikit-learn pipeline, with a store as its cache.

    `transform` takes paths and computes only what neither the store nor, without one, this process's memory has:
    a picture's features belong to its content, whatever its name and whoever extracted them. It learns nothing, so
    folds cannot leak through it. Clones, threads and processes may share one store.

    Parameters
    ----------
    backbone : str
        Any classification network of torchvision or timm; see `extract.backbones.open_backbone`.
    store : path, optional
        A store that `extract` made, or a file to make; a name that ends in ``/`` is a folder store, to which adding
        pictures does not rewrite what is there. Without one, vectors are kept in memory until the process ends or
        `extract.cache.forget` is called.
    weights : str
        ``default``, ``random`` or a file.
    layer : str or sequence of str
        ``penultimate``, names of nodes, or ``all-stages``. The vectors of several stand side by side.
    pooling : str
        ``avg``, ``max``, ``gem``, ``cls`` or ``flatten``; empty for the layer's own.
    view : str or sequence of str
        ``center``, ``flip``, ``five-crop``, ``random:N``; the vectors of several stand side by side.
    average : bool
        Take the mean over the views instead.
    normalize : bool
        Make each vector 1 long (L2).
    projection : str
        ``random:DIM``, ``random:DIM:SEED`` or a file of components.
    input_size, resize, interpolation, mean, std, color, decoder
        As for `extract.options.Options`; None for the network's own.
    fitting : str, optional
        `fit` of `extract.options.Options`, which here is a method.
    partial : bool
        Take from a weights file what fits.
    seed : int
        Of random weights.
    engine, device, precision, batch_size
        As for `extract.networks.Setup`.
    workers : int
        Threads that read and decode; 0 takes one a core.
    dtype : str
        ``float32`` or ``float16``: how new features are stored. What `transform` returns is float32.
    name : str
        Of the image set under which the store remembers the files.
    on_error : str
        ``raise``: a picture that cannot be used is an error that names it, after the others have been stored;
        ``nan``: its row is NaN.
    verbose : bool
        Show progress and notes.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> paths = sorted(Path("pictures/train").rglob("*.png"))
    >>> y = [path.parent.name for path in paths]
    >>> features = PenultFeatures("timm/test_resnet", weights="random", store="features.h5")
    >>> features.transform(paths[:3]).shape
    (3, 96)
    >>> model = make_pipeline(features, LogisticRegression(max_iter=1000)).fit(paths, y)
    >>> model.predict(["pictures/test/cat/0.png"]).tolist()
    ['cat']
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        *,
        store: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] = "default",
        layer: str | Sequence[str] = "penultimate",
        pooling: str = "",
        view: str | Sequence[str] = "center",
        average: bool = False,
        normalize: bool = False,
        projection: str = "",
        input_size: int | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        color: str | None = None,
        decoder: str | None = None,
        fitting: str | None = None,
        partial: bool = False,
        seed: int = 0,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 0,
        workers: int = 0,
        dtype: str = "float32",
        name: str = "transformed",
        on_error: str = "raise",
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.store = store
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.view = view
        self.average = average
        self.normalize = normalize
        self.projection = projection
        self.input_size = input_size
        self.resize = resize
        self.interpolation = interpolation
        self.mean = mean
        self.std = std
        self.color = color
        self.decoder = decoder
        self.fitting = fitting
        self.partial = partial
        self.seed = seed
        self.engine = engine
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.workers = workers
        self.dtype = dtype
        self.name = name
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters; nothing is learnt, and no picture is opened.

        Parameters
        ----------
        X : array-like of str or path, of shape (n,) or (n, 1)
            Where the pictures are.
        y : any
            Ignored.
        """
        self._wanted()
        _places(X)
        return self

    def transform(self, X: Any) -> Floats:
        """Return the features of pictures.

        Parameters
        ----------
        X : array-like of str or path, of shape (n,) or (n, 1)
            Local paths or addresses; a list, an array, a pandas Series or a data frame with one column.

        Returns
        -------
        ndarray of shape (n, dim), float32
            In the order of `X`.

        Raises
        ------
        MissingFile
            If a file does not exist, before anything is computed.
        ImageSetError
            If X holds no paths, or a picture cannot be decoded.
        PenultError
            If the network, the weights or the store refuse.
        """
        places = _places(X)
        if self.on_error == "raise":
            lost = [place for place in dict.fromkeys(places) if absent(place)]
            if lost:
                raise MissingFile(
                    f"{_some(lost)} {'does' if len(lost) == 1 else 'do'} not exist: correct X, or give rows of NaN "
                    "with on_error='nan'"
                )
        cache = self._cache(make=True)
        if self.verbose:
            return self._checked(_watched(cache, places))
        return self._checked(cache.vectors(places))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return a name for each column, such as ``test_resnet/penultimate_0``.

        Parameters
        ----------
        input_features : any
            Ignored.

        Raises
        ------
        NotFittedError
            If no picture was transformed yet: only the network's output says how long it is.
        """
        columns = self._cache().columns()
        if not columns:
            raise NotFittedError(
                f"how long a vector of {self.backbone} is is known when a picture was transformed: call transform first"
            )
        names = [f"{title.partition('/')[2]}_{i}" for title, dim in columns for i in range(dim)]
        return np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _wanted(self) -> Wanted:
        if self.on_error not in ("raise", "nan"):
            raise ImageSetError(f"on_error is 'raise' or 'nan', got {self.on_error!r}")
        if self.projection.startswith("pca:"):
            raise ProjectionError(
                f"projection {self.projection!r} would be fitted on the first pictures, whatever their fold: put "
                "sklearn.decomposition.PCA behind this step, or name a file of components"
            )
        layers = [self.layer] if isinstance(self.layer, str) else list(self.layer)
        return Wanted(
            backbone=self.backbone,
            weights=os.fspath(self.weights),
            options=Options(
                input_size=self.input_size,
                resize=self.resize,
                interpolation=self.interpolation,
                mean=None if self.mean is None else tuple(self.mean),
                std=None if self.std is None else tuple(self.std),
                color=self.color,
                decoder=self.decoder,
                fit=self.fitting,
            ),
            seed=self.seed,
            partial=self.partial,
            layers=tuple(n for layer in layers for n in (stages(self.backbone) if layer == ALL_STAGES else (layer,))),
            pooling=self.pooling,
            views=tuple(expand_views([self.view] if isinstance(self.view, str) else list(self.view))),
            average=self.average,
            projection=self.projection,
            normalize="l2" if self.normalize else "",
        )

    def _cache(self, *, make: bool = False) -> Cache:
        setup = Setup(self.engine, self.device, self.batch_size, self.precision)
        if self.store is None:
            return MemoryCache(self._wanted(), setup)
        path = Path(self.store)
        if make:
            (path if os.fspath(self.store).endswith(os.sep) else path.parent).mkdir(parents=True, exist_ok=True)
        return StoreCache(path, self._wanted(), self.name, setup, self.workers, self.dtype)

    def _checked(self, answer: Answer) -> Floats:
        """Return the vectors, or say which pictures have none."""
        if answer.skipped and (self.on_error == "raise" or not answer.vectors.shape[1]):
            reasons = [f"{place}: {reason}" for place, reason in answer.skipped.items()]
            advice = "" if self.on_error == "nan" else ", or give rows of NaN with on_error='nan'"
            raise ImageSetError(f"{_some(reasons)}: mend them or leave them out{advice}")
        return answer.vectors


def _places(X: Any) -> list[str]:
    """Return the absolute path, or the address, of each picture."""
    wants = "X is a list or array of picture paths"
    if isinstance(X, str | os.PathLike):
        raise ImageSetError(f"{wants}, got one path: write [{os.fspath(X)!r}]")
    column = np.asarray(X, dtype=object)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise ImageSetError(f"{wants}, got an array of shape {column.shape}: give one column of paths")
    if not len(column):
        raise ImageSetError(f"{wants}, got none: give at least one")
    for path in column:
        if not isinstance(path, str | os.PathLike):
            raise ImageSetError(f"{wants}, got {type(path).__name__} {path!r}: give str or Path")
    texts = [os.fspath(path) for path in column]
    return [text if is_address(text) else os.path.abspath(text.removeprefix("file://")) for text in texts]


def _watched(cache: Cache, places: Sequence[str]) -> Answer:
    """Ask a cache, showing progress and what it has to say."""
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    with ProgressDisplay(console, "pictures") as display:
        answer = cache.vectors(places, lambda p: display.update(p.done, p.total, p.skipped))
    for note in answer.notes:
        console.print(f"note: {note}")
    return answer


def _some(items: Sequence[str]) -> str:
    named = "; ".join(printable(item) for item in items[:_NAMED])
    return named + (f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else "")
