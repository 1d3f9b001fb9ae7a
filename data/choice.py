"""Which of a store's image sets and features are meant: by name, all layers of one network, and their other views.

Features that training or a contest keeps are meant where a name fits nothing else: they change nothing that a plain
command does.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from data.errors import StoreError
from data.held import FeatureInfo
from data.spec import FeatureSpec, told_apart
from data.views import View

ALL_STAGES = "all-stages"

_PLAIN: tuple[Callable[[FeatureSpec], bool], ...] = (
    lambda spec: spec.layer == "penultimate",
    lambda spec: spec.color == "rgb",
)

Held = Mapping[str, FeatureInfo]  # by fingerprint
Covers = Callable[[str], bool]  # whether the features of a fingerprint are there of every picture


def choose_view(views: Mapping[str, View], name: str | None, where: str) -> View:
    """Return one image set of a store: the one of that name, or the only one with labels.

    Parameters
    ----------
    views : dict of str to View
        What the store holds.
    name : str or None
        Which is meant, if one is named.
    where : str
        How messages name the store.

    Raises
    ------
    StoreError
        If it is not there, or not unique.
    """
    # beside one with labels, sets without are pictures that were classified, or that `PenultFeatures` was given
    labelled = [view for view in views.values() if view.classes] or list(views.values())
    if name is None and len(labelled) == 1:
        return labelled[0]
    held = ", ".join(sorted(views))
    if not held:
        raise StoreError(f"{where} holds no image set: run `extract IMAGES -o {where}`")
    if name is None:
        raise StoreError(
            f"{where} holds the image sets {held}: name one with --dataset; one that is not needed leaves the store "
            f"with `drop {where} --dataset NAME`"
        )
    if name not in views:
        raise StoreError(f"{where} holds no image set {name!r}, only {held}: name one of these with --dataset")
    return views[name]


def choose_features(held: Held, names: Sequence[str], covers: Covers, where: str, dataset: str) -> list[str]:
    """Return the fingerprints of the features that are meant, in the order named.

    Parameters
    ----------
    held : dict of str to FeatureInfo
        What the store holds.
    names : sequence of str
        Each the beginning of a fingerprint, a network, a layer, or both as titles have them; ``all-stages`` or
        ``NETWORK/all-stages``: every layer of one network, as `layer_order` orders them. None: the only ones there
        are. Where a name, or none, fits several, what was asked for is meant, and of that the penultimate layer in
        colour.
    covers : callable
        Whether the features of a fingerprint are there of every picture of the image set.
    where, dataset : str
        How messages name the store and the image set.

    Raises
    ------
    StoreError
        If a name fits nothing or several features, or two names fit the same.
    """
    chosen: list[str] = []
    for name in names or [""]:
        network, _, last = name.rpartition("/")
        if last == ALL_STAGES:
            found = _all_layers(held, network, covers, where, dataset)
        else:
            found = [_choose_one(held, name, covers, where, dataset)]
        twice = next((fp for fp in found if fp in chosen), None)
        if twice:
            raise StoreError(f"--features names {held[twice].spec.title} twice: name each of the features once")
        chosen += found
    return chosen


def fingerprints_of(held: Held, name: str) -> list[str]:
    """Return all that a name fits; see `data.held.FeatureInfo.is_called`."""
    return [fp for fp, info in held.items() if info.is_called(name)]


def other_views(held: Held, chosen: Sequence[str], covers: Covers, where: str) -> list[list[str]]:
    """Return the other views that all of the chosen features are stored in: for each view, a fingerprint a feature.

    Raises
    ------
    StoreError
        If there are none, or one of the features lacks a view that another has.
    """
    every = [_views_of(held, held[fp].spec, covers) for fp in chosen]
    for fp, views in zip(chosen, every, strict=True):
        title = held[fp].spec.title
        if not views:
            raise StoreError(
                f"{where} holds {title} in no other view: extract some, such as --views center flip random:4"
            )
        lacking = sorted({view for others in every for view in others} - views.keys())
        if lacking:
            raise StoreError(
                f"{where} holds {title} not in {', '.join(lacking)}, in which it holds other features named with it: "
                f"extract it with --views center {' '.join(lacking)}, or name other --features"
            )
    return [[views[view] for views in every] for view in every[0]]


def _choose_one(held: Held, name: str, covers: Covers, where: str, dataset: str) -> str:
    found = fingerprints_of(held, name) if name else list(held)
    found = [fp for fp in found if not held[fp].kept] or found
    if not name:  # a store may hold other image sets under other specs
        found = [fp for fp in found if len(found) == 1 or covers(fp)]
    # of several views of one thing the centre stands for it
    centres = {dataclasses.replace(held[fp].spec, view="center").fingerprint for fp in found}
    if len(found) > 1 and all(fp in found for fp in centres):
        found = [fp for fp in found if fp in centres]
    # of several that fit, those of the layer that is meant if none is named, in colour
    for plain in _PLAIN:
        found = [fp for fp in found if plain(held[fp].spec)] or found
    # a fine-tuned network that was measured has the name of the one that it comes from, and the measured pictures alone
    found = [fp for fp in found if covers(fp)] or found if len(found) > 1 else found
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"features {name!r}" if name else f"features of every picture of {dataset!r}"
        raise StoreError(
            f"{where} holds no {what}, only {_listed(held, held)}: extract them, or name one with --features"
        )
    families = {family_of(held[fp].spec) for fp in found}
    layers = f", or all of them with --features {ALL_STAGES}" if len(families) == 1 else ""
    raise StoreError(
        f"{where} holds several features that fit: {_listed(held, found)}: name one with --features{layers}"
    )


def _all_layers(held: Held, network: str, covers: Covers, where: str, dataset: str) -> list[str]:
    """Return every layer of the network of which the store has several, those that all pictures have.

    Where of what was asked for there are no two, kept ones beside one that was count; kept activations are no layers.
    """
    families: dict[FeatureSpec, list[str]] = {}
    for fp, info in held.items():
        if (not network or info.is_called(network)) and not info.spec.is_activations and covers(fp):
            families.setdefault(family_of(info.spec), []).append(fp)
    asked = {family: [fp for fp in fps if not held[fp].kept] for family, fps in families.items()}
    several = {family: fps for family, fps in asked.items() if len(fps) > 1}
    several = several or {family: fps for family, fps in families.items() if asked[family] and len(fps) > 1}
    centres = {family: fps for family, fps in several.items() if family.view == "center"}
    several = centres or several
    if len(several) == 1:
        ((_, fps),) = several.items()
        return sorted(fps, key=lambda fp: layer_order(held[fp].spec))
    if not several:
        of = f"of {network!r}" if network else "of one network"
        raise StoreError(
            f"{where} holds no two layers {of} for every picture of {dataset!r}, only {_listed(held, held)}: extract "
            f"them with --layers {ALL_STAGES} penultimate"
        )
    names = "; ".join(
        f"{family.backbone}: {', '.join(held[fp].spec.layer for fp in fps)} ({', '.join(fp[:12] for fp in fps)})"
        for family, fps in several.items()
    )
    raise StoreError(
        f"{where} holds several layers of more than one network or preprocessing: {names}: name one with --features "
        f"NETWORK/{ALL_STAGES}, or each of the features by its fingerprint"
    )


def family_of(spec: FeatureSpec) -> FeatureSpec:
    """Return what the layers of one network, on the same pixels, have in common."""
    return dataclasses.replace(spec, layer=ALL_STAGES, pooling="")


def layer_order(spec: FeatureSpec) -> tuple[bool, list[tuple[int, str]], str]:
    """Order layers by name, numbers as numbers, with the penultimate layer last."""
    parts = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", spec.layer)]
    return spec.layer == "penultimate", parts, spec.pooling


def _views_of(held: Held, spec: FeatureSpec, covers: Covers) -> dict[str, str]:
    return {
        info.spec.view: fp
        for fp, info in held.items()
        if fp != spec.fingerprint
        and dataclasses.replace(info.spec, view=spec.view) == spec
        and not info.spec.view.startswith("mean(")
        and not info.kept
        and covers(fp)
    }


def _listed(held: Held, fingerprints: Iterable[str]) -> str:
    return "; ".join(told_apart((held[fp].spec for fp in fingerprints), fingerprints=True).values()) or "none"
