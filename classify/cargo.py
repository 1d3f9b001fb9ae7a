"""What goes into a bundle: which heads, image sets and features, and what becomes of these. Refuses what cannot go."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from classify.artifact import TrainedHead, load_head, training_identity
from classify.carried import Components, foldable
from classify.head import Array
from data.bundle import can_hold, is_bundle, named_heads, read_bundle
from data.errors import BundleError, FingerprintMismatch, HeadError, ProjectionError, StoreError
from data.packing import Packed
from data.relabel import Corrections
from data.spec import FeatureSpec
from data.store import FeatureInfo, FeatureStore
from data.terminal import printable
from data.views import View

# A picture held out of the others was not held out of the components, and with many of these its standardised
# coordinates tell little: of 245 ants and bees, lr gets 0.963 in cross-validation with 32 components and 0.878 with
# 128, where on val it gets 0.941 and 0.935.
_FEW = 1 / 8
# Rows that decide the components, drawn by a fixed seed: 512 MB in float64 at 1,280 numbers a vector.
_PCA_ROWS = 50_000

Fit = Callable[[Array, int], Components]


@dataclasses.dataclass(frozen=True)
class Order:
    """What was asked for.

    Parameters
    ----------
    heads : sequence of str
        Files of heads, or bundles that hold some; none: those of the store, where that is a bundle.
    features, datasets : sequence of str
        As for `FeatureStore.load`; features are added to those of the heads, image sets stand instead of theirs.
    dtype : str, optional
        ``float32`` or ``float16``; None: as stored.
    pca : int, optional
        Components of each feature to keep.
    corrections : Corrections, optional
        Corrected labels, for the heads that were fitted with them, and to measure on.
    """

    heads: Sequence[str] = ()
    features: Sequence[str] = ()
    datasets: Sequence[str] = ()
    dtype: str | None = None
    pca: int | None = None
    corrections: Corrections | None = None


@dataclasses.dataclass(frozen=True)
class Passenger:
    """A head to pack: its name in the bundle, where it is, and the image set that it is measured on."""

    name: str
    file: Path
    trained: TrainedHead
    dataset: str

    @property
    def split(self) -> str:
        """What it was trained on."""
        return str(self.trained.info["trained_on"].get("split") or "train")

    @property
    def augmented(self) -> bool:
        """Whether it was trained on other views too."""
        return int(self.trained.info["trained_on"].get("views", 1)) > 1

    @property
    def corrected(self) -> str:
        """The SHA-256 of the corrections that it was fitted with, empty where there were none."""
        return str((self.trained.info["trained_on"].get("corrections") or {}).get("sha256", ""))


@dataclasses.dataclass(frozen=True)
class Cargo:
    """What goes into a bundle.

    Parameters
    ----------
    heads : list of Passenger
        In the order named.
    views : list of View
        The image sets.
    packed : dict of str to Packed
        What becomes of each feature, by the fingerprint that it has in the store.
    components : dict of str to Components
        The projection of those that are projected now, by the same fingerprints.
    notes : list of str
        What a user would want to know.
    """

    heads: list[Passenger]
    views: list[View]
    packed: dict[str, Packed]
    components: dict[str, Components]
    notes: list[str]

    @property
    def nbytes(self) -> int:
        """What vectors and heads take."""
        rows = len({digest for view in self.views for digest in view.digests.tolist()})
        vectors = sum(rows * packed.dim * np.dtype(packed.dtype).itemsize for packed in self.packed.values())
        return vectors + sum(head.file.stat().st_size for head in self.heads)


def choose_cargo(store: FeatureStore, order: Order, fit: Fit) -> Cargo:
    """Choose what goes into a bundle.

    Parameters
    ----------
    store : FeatureStore
        Where it is.
    order : Order
        What was asked for.
    fit : callable
        From vectors (n, d) and a number to so many principal components.

    Raises
    ------
    FingerprintMismatch
        If a head reads features that the store does not have.
    HeadError
        If a head is for other classes.
    BundleError, StoreError, ProjectionError
        If heads have one name, something is not there, or cannot be projected.
    """
    held, views = store.features(), [store.view(name) for name in order.datasets]
    heads = _open_heads(store, order)
    for head in heads:
        if head.dataset not in [view.name for view in views]:
            views.append(store.view(head.dataset))
    views = views or [store.view()]
    notes = [note for head in heads if (note := _changed(store, head, order.corrections))]
    if order.corrections:
        done = "measured on" if heads else "there is no head to measure on"
        notes.append(f"{done} the labels that {order.corrections.path} corrects")
    packed: dict[str, Packed] = {}
    components: dict[str, Components] = {}
    for fingerprint, others in _chosen(store, held, order, heads, views).items():
        if order.pca:
            digests = _fitted_on(store, held[fingerprint], heads, views)
            components[fingerprint] = fit(store.vectors(fingerprint, digests), order.pca)
            notes += _too_few(order.pca, len(digests))
        for one in (fingerprint, *others):
            packed.setdefault(one, _becomes(held[one], order, components.get(fingerprint)))
    return Cargo(heads, views, packed, components, list(dict.fromkeys(notes)))


def _open_heads(store: FeatureStore, order: Order) -> list[Passenger]:
    heads: dict[str, Passenger] = {}
    own = list(read_bundle(store.path).heads().values()) if is_bundle(store.path) else []
    for file in named_heads(order.heads, store.path) if order.heads else own:
        trained = load_head(file)
        if not can_hold(f"heads/{file.stem}.head"):
            raise BundleError(f"{file} cannot go by that name: give it one that does not begin with a dot")
        if file.stem in heads:
            raise BundleError(
                f"{heads[file.stem].file} and {file} would both be called {file.stem} in the bundle: rename one"
            )
        head = Passenger(file.stem, file, trained, _dataset_of(trained, store, order))
        classes = store.view(head.dataset).classes
        if set(trained.classes) != set(classes):
            raise HeadError(
                f"{file} tells {_some(trained.classes)} apart, the image set {head.dataset!r} of {store.path} has "
                f"the classes {_some(classes)}: name a head fitted on it, or the store it was fitted on"
            )
        _refuse_lacking(store, head)
        if order.pca and not foldable(trained):
            _refuse_other_labels(head, order.corrections)
        heads[head.name] = head
    return list(heads.values())


def _refuse_lacking(store: FeatureStore, head: Passenger) -> None:
    """Raise if the store lacks what a head reads, of any picture."""
    try:
        head.trained.samples(store, None, head.dataset, memory=0)
    except (FingerprintMismatch, StoreError):
        if head.trained.kind != "finetuned":
            raise
        root = store.view(head.dataset).root
        raise StoreError(
            f"{store.path} does not hold what {head.file} gives for every picture of {head.dataset!r}: run "
            f"`extract {root} -o {store.path} --weights {head.file}` first"
        ) from None


def _refuse_other_labels(head: Passenger, corrections: Corrections | None) -> None:
    """Raise if a head that is to be fitted anew would learn other labels than it did."""
    if head.corrected in ("", corrections and corrections.sha256):
        return
    given = f"not with {corrections.path}" if corrections else "and none are given"
    raise HeadError(
        f"{head.file} was fitted with corrected labels (a CSV of SHA-256 {head.corrected[:12]}), {given}, and --pca "
        "has it fitted anew: name the same CSV with --relabel, or leave out --pca"
    )


def _dataset_of(trained: TrainedHead, store: FeatureStore, order: Order) -> str:
    own = str(trained.info["trained_on"]["dataset"])
    if order.datasets:
        return own if own in order.datasets else order.datasets[0]
    views = store.views()
    if own not in views:
        raise StoreError(
            f"{trained.name} was fitted on the image set {own!r}, and {store.path} holds "
            f"{', '.join(map(repr, sorted(views)))}: name one with --dataset, or the store that the head is of"
        )
    return own


def labels_of(store: FeatureStore, head: Passenger, corrections: Corrections | None) -> FeatureStore:
    """Return a store as a head was fitted on it: with corrected labels where it was."""
    return FeatureStore(store.path, corrections if head.corrected else None)


def _changed(store: FeatureStore, head: Passenger, corrections: Corrections | None) -> str:
    """Say so if a head was fitted on other pictures or labels than its split has now."""
    was = head.trained.info["trained_on"].get("identity")
    if head.trained.kind == "finetuned" or was is None or head.split not in store.splits(head.dataset):
        return ""
    if head.corrected and not corrections:
        return f"{head.name} was fitted with corrected labels: with --relabel it is measured on them"
    labels = labels_of(store, head, corrections)
    now = training_identity(head.trained.samples(labels, head.split, head.dataset, memory=0))
    return "" if now == was else f"{head.name} was fitted on other pictures or labels than {head.split} has now"


def _chosen(
    store: FeatureStore, held: dict[str, FeatureInfo], order: Order, heads: list[Passenger], views: list[View]
) -> dict[str, list[str]]:
    """Return the fingerprints to pack, each with those of its other views that go with it."""
    chosen: dict[str, list[str]] = {}
    for head in heads:
        for spec in head.trained.specs:
            chosen.setdefault(spec.fingerprint, [])
            if head.augmented:
                chosen[spec.fingerprint] = _other_views(store, held, spec, head.dataset)
    for view in views if order.features or not heads else []:
        found = store.load(dataset=view.name, features=order.features or None, memory=0)
        for spec in found.specs:
            chosen.setdefault(spec.fingerprint, [])
    return chosen


def _other_views(store: FeatureStore, held: dict[str, FeatureInfo], spec: FeatureSpec, dataset: str) -> list[str]:
    alike = {fp for fp, info in held.items() if dataclasses.replace(info.spec, view=spec.view) == spec}
    others = {fp for fp in alike if fp != spec.fingerprint and not held[fp].spec.view.startswith("mean(")}
    digests = store.view(dataset).digests
    return [fp for fp in sorted(others) if np.isin(digests, store.digests(fp)).all()]


def _becomes(info: FeatureInfo, order: Order, components: Components | None) -> Packed:
    dtype = order.dtype or info.dtype
    if components is None:
        return Packed(info, info.spec, info.dim, dtype)
    spec = dataclasses.replace(info.spec, projection=components.projection)
    return Packed(info, spec, len(components.components), dtype, components.transform)


def _fitted_on(store: FeatureStore, info: FeatureInfo, heads: list[Passenger], views: list[View]) -> Array:
    """Return the contents that decide the components: what heads on these features were trained on, or else train."""
    if info.spec.projection or info.spec.normalize:
        what = info.spec.projection.partition(":")[0] or info.spec.normalize
        raise ProjectionError(
            f"{info.spec.title} is made shorter or scaled already ({what}), and --pca is for features as the "
            "network gives them: leave it out, or pack the features from before that"
        )
    mine = [head for head in heads if info.spec in head.trained.specs]
    parts = dict.fromkeys((head.dataset, head.split) for head in mine) or dict.fromkeys(
        (view.name, "train") for view in views
    )
    samples = [store.load(split, dataset=dataset, spec=info.spec, memory=0) for dataset, split in parts]
    digests = np.unique(np.concatenate([one.digests for one in samples]))
    return digests if len(digests) <= _PCA_ROWS else np.random.default_rng(0).permutation(digests)[:_PCA_ROWS]


def _too_few(components: int, pictures: int) -> list[str]:
    few = int(_FEW * pictures)
    if not components > few >= 1:
        return []
    return [
        f"{components} components were fitted on {pictures} pictures: `fit` on the bundle will look worse in "
        f"cross-validation than it is, so go by `eval`, or keep {few}"
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
