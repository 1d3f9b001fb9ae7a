"""What `compare` compares heads on: the features of image sets, in one store or several, and their names."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.errors import StoreError
from data.store import FeatureInfo, FeatureStore, Samples


@dataclasses.dataclass(frozen=True)
class Source:
    """One kind of features of one image set in one store."""

    store: FeatureStore
    dataset: str
    info: FeatureInfo

    @property
    def key(self) -> tuple[str, str]:
        """What tells it apart within an image set."""
        return self.info.spec.fingerprint, str(self.store.path)

    @property
    def title(self) -> str:
        """What tables call the features: without the library."""
        return self.info.spec.title.split("/", 1)[-1]

    @property
    def slug(self) -> str:
        """What files are named after it, which no other of a comparison has."""
        clean = "".join(c if c.isalnum() or c in "._" else "-" for c in self.title)
        return f"{clean}-{self.info.spec.fingerprint[:8]}-{self.store.path.stem}"

    @property
    def centre(self) -> tuple[str, str]:
        """The key of the same features in the centre view."""
        spec = dataclasses.replace(self.info.spec, view="center")
        return spec.fingerprint, str(self.store.path)


def covering(stores: Sequence[FeatureStore], dataset: str | None = None, *, kept: bool = False) -> list[Source]:
    """Return the features of image sets, or of one, that every picture of theirs has; what training keeps if asked."""
    found: list[Source] = []
    for store in stores:
        infos = {fp: info for fp, info in store.features().items() if kept or not info.kept}
        held = {fingerprint: store.digests(fingerprint) for fingerprint in infos}
        for name, view in store.views().items():
            if dataset in (None, name):
                found += [Source(store, name, i) for fp, i in infos.items() if np.isin(view.digests, held[fp]).all()]
    return found


def find_sources(
    stores: Sequence[FeatureStore], wanted: Sequence[str] = (), dataset: str | None = None
) -> list[Source]:
    """Return the features of every image set that cover it; kept ones where a name fits nothing else.

    Raises
    ------
    StoreError
        If there are none, or a name in `wanted` fits none.
    """
    found = covering(stores, dataset, kept=bool(wanted))
    where = ", ".join(str(store.path) for store in stores)
    if not found:
        sets = ", ".join(sorted({name for store in stores for name in store.views()})) or "none"
        of = f"the image set {dataset!r}" if dataset is not None else "any image set"
        raise StoreError(f"{where} holds no features of every picture of {of}; image sets: {sets}")
    named: list[Source] = []
    for name in wanted:
        called = [source for source in found if source.info.is_called(name)]
        named += [source for source in called if not source.info.kept] or called
        if not called:
            titles = "; ".join(dict.fromkeys(f"{s.info.spec.title} ({s.info.spec.fingerprint[:12]})" for s in found))
            raise StoreError(f"{where} holds no features {name!r}, only {titles}: name some of these with --features")
    if wanted:
        return [source for source in found if source in named]
    # of several views of one thing the centre stands for it
    keys = {(source.dataset, *source.key) for source in found}
    return [s for s in found if not (s.centre != s.key and (s.dataset, *s.centre) in keys)]


def penultimate_sources(
    stores: Sequence[FeatureStore], wanted: Sequence[str] = (), dataset: str | None = None
) -> list[Source]:
    """Return those of `find_sources` that a network gives before its last layer, in colour and as they are.

    Raises
    ------
    StoreError
        If there are none whose network is known.
    """
    found = [s for s in find_sources(stores, wanted, dataset) if s.info.requests]
    plain = [
        s
        for s in found
        if (s.info.spec.layer, s.info.spec.view, s.info.spec.color) == ("penultimate", "center", "rgb")
        and not (s.info.spec.projection or s.info.spec.normalize)
    ]
    if not plain:
        where = ", ".join(str(store.path) for store in stores)
        raise StoreError(
            f"{where} holds no penultimate features in colour whose network is known: run `extract IMAGES -o STORE`"
        )
    return plain


def told_apart(sources: Sequence[Source]) -> list[str]:
    """Return what tables call the features: their titles, and as much more as tells them apart."""
    titles = [source.title for source in sources]
    for more in ([s.info.spec.fingerprint[:8] for s in sources], [str(s.store.path) for s in sources]):
        of_title: dict[str, set[str]] = {}
        for title, detail in zip(titles, more, strict=True):
            of_title.setdefault(title, set()).add(detail)
        titles = [f"{t} ({m})" if len(of_title[t]) > 1 else t for t, m in zip(titles, more, strict=True)]
    return titles


def in_order_of_content(samples: Samples) -> Samples:
    """Return the pictures in an order that does not depend on the store."""
    names = np.array(samples.classes)[samples.y]
    return samples.take(np.lexsort((names, samples.digests)))
