"""What `pack` does: chooses, refuses what would not verify, writes the folder, and measures what that cost.

What stage one does for it, which knows pictures and networks, comes as functions: see `StageOne`.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.artifact import TrainedHead, load_head, training_identity
from classify.carried import Components, Trip, carry_projected, measure_trips
from classify.head import Array
from data import VERSION
from data.bundle import FEATURES, MANIFEST, THUMBNAILS, is_bundle, manifest, members, named_heads, read_bundle
from data.errors import BundleError, DiskFull, HeadError, PenultError, ProjectionError, StoreError
from data.listing import join
from data.packing import Packed, new_folder, pack_features, refuse_folder
from data.spec import FeatureSpec, Source
from data.splits import measured_split
from data.store import FeatureInfo, FeatureStore
from data.terminal import ProgressDisplay, printable
from data.thumbnails import Thumbnails, thumbnails_of, write_thumbnails
from data.verify import verify_store
from data.views import View

# A picture held out of the others was not held out of the components, and with many of these its standardised
# coordinates tell little: of 245 ants and bees, lr gets 0.963 in cross-validation with 32 components and 0.878 with
# 128, where on val it gets 0.941 and 0.935.
_FEW = 1 / 8
# Rows that decide the components, drawn by a fixed seed: 512 MB in float64 at 1,280 numbers a vector.
_PCA_ROWS = 50_000

Place = tuple[str, str]  # root and path of a picture


@dataclasses.dataclass(frozen=True)
class StageOne:
    """What stage one does for a bundle.

    Parameters
    ----------
    fit : callable
        From vectors (n, d) and a number to so many principal components.
    components_file : callable
        From a store and a spec's projection to where its components are kept.
    keep : callable
        Writes components into such a file.
    thumbnails : callable
        From the places of pictures, their contents and the thumbnails that are known to digest, JPEG or None, and
        why there is none, of each.
    side : int
        Pixels of a thumbnail's longer side, at most.
    export : callable
        From a head, a file to write and the files of its components: makes one ONNX graph of network and head.
    """

    fit: Callable[[Array, int], Components]
    components_file: Callable[[Path, str], Path]
    keep: Callable[[Path, Any], None]
    thumbnails: Callable[
        [Sequence[Place], Sequence[bytes], Thumbnails | None], Iterator[tuple[bytes, bytes | None, str]]
    ]
    side: int
    export: Callable[[TrainedHead, Path, list[str]], None]


@dataclasses.dataclass(frozen=True)
class _Head:
    """A head to pack: its name in the bundle, where it is, and the image set that it is measured on."""

    name: str
    file: Path
    trained: TrainedHead
    dataset: str

    @property
    def split(self) -> str:
        return str(self.trained.info["trained_on"].get("split") or "train")

    @property
    def augmented(self) -> bool:
        return int(self.trained.info["trained_on"].get("views", 1)) > 1


class Packing:
    """One bundle in the making.

    Parameters
    ----------
    store, output : Path
        What is packed, and the folder to make.
    heads : sequence of str
        Files of heads, or bundles that hold some; none: those of `store`, where that is a bundle.
    features, datasets : sequence of str
        As for `FeatureStore.load`; features are added to those of the heads, image sets stand instead of theirs.
    dtype : str, optional
        ``float32`` or ``float16``; None: as stored.
    pca : int, optional
        Components of each feature to keep.
    thumbnails : int
        Bytes for them, at most.
    models : bool
        Whether heads are exported to ONNX.
    stage_one : StageOne
        What makes components, thumbnails and models.
    command : str
        What was asked for, as `bundle.json` keeps it.
    display : ProgressDisplay
        Told how far it is.
    """

    def __init__(
        self,
        store: Path,
        output: Path,
        *,
        heads: Sequence[str],
        features: Sequence[str],
        datasets: Sequence[str],
        dtype: str | None,
        pca: int | None,
        thumbnails: int,
        models: bool,
        stage_one: StageOne,
        command: str,
        display: ProgressDisplay,
    ) -> None:
        self.path = store
        self.output = output
        self.named = heads
        self.wanted = features
        self.datasets = datasets
        self.dtype = dtype
        self.pca = pca
        self.most = thumbnails
        self.models = models
        self.stage_one = stage_one
        self.command = command
        self.display = display

    def run(self) -> dict[str, Any]:
        """Make the bundle and return what its `bundle.json` says.

        Raises
        ------
        PenultError
            If something would not verify, or does not fit; what was at `output` is then as it was.
        """
        refuse_folder(self.output, self.path)
        self.store = FeatureStore(self.path)
        self.held, views = self.store.features(), self.store.views()
        self.heads = self._open_heads(views)
        names = list(dict.fromkeys([*self.datasets, *(head.dataset for head in self.heads)]))
        self.views = [views[name] for name in names] or [self.store.view()]
        self.notes = [note for head in self.heads if (note := self._changed(head))]
        self.components: dict[str, Components] = {}
        self.packed = self._packed(self._chosen())
        with new_folder(self.output, self.path, self._needed()) as folder:
            self._keep_components(folder)
            pack_features(self.store, folder / FEATURES, list(self.packed.values()), self.views, self.display.update)
            heads, trips = self._carry(folder)
            info = {
                "made": self._made(),
                "features": [self._feature(one, folder) for one in self.packed.values()],
                "datasets": [_dataset(view) for view in self.views],
                "heads": heads,
                "measured": [dataclasses.asdict(one) for one in measure_trips(trips, self.store, FeatureStore(folder))],
                "thumbnails": self._thumbnails(folder),
                "notes": self.notes,
            }
            self._export(folder, heads)
            info["files"] = members(folder)
            (folder / MANIFEST).write_bytes(manifest(info))
            problems = verify_store(folder).problems
            if problems:
                raise BundleError(problems[0].replace(str(folder), str(self.path)))
            return read_bundle(folder).info

    def _open_heads(self, views: dict[str, View]) -> list[_Head]:
        heads: dict[str, _Head] = {}
        own = list(read_bundle(self.path).heads().values()) if is_bundle(self.path) else []
        for file in named_heads(self.named, self.path) if self.named else own:
            trained = load_head(file)
            if file.stem in heads:
                raise BundleError(
                    f"{heads[file.stem].file} and {file} would both be called {file.stem} in the bundle: rename one"
                )
            head = _Head(file.stem, file, trained, self._dataset_of(trained, views))
            view = views[head.dataset]
            if set(trained.classes) != set(view.classes):
                raise HeadError(
                    f"{file} tells {_some(trained.classes)} apart, the image set {head.dataset!r} of {self.path} has "
                    f"the classes {_some(view.classes)}: name a head fitted on it, or the store it was fitted on"
                )
            trained.samples(self.store, None, head.dataset, memory=0)  # raises where it lacks the features
            heads[head.name] = head
        return list(heads.values())

    def _dataset_of(self, trained: TrainedHead, views: dict[str, View]) -> str:
        for name in self.datasets:
            self.store.view(name)  # raises where there is no such image set
        own = str(trained.info["trained_on"]["dataset"])
        if self.datasets:
            return own if own in self.datasets else self.datasets[0]
        if own not in views:
            raise StoreError(
                f"{trained.name} was fitted on the image set {own!r}, and {self.path} holds "
                f"{', '.join(map(repr, sorted(views)))}: name one with --dataset, or the store that the head is of"
            )
        return own

    def _changed(self, head: _Head) -> str:
        """Say so if a head was fitted on other pictures or labels than its split has now."""
        was = head.trained.info["trained_on"].get("identity")
        if head.trained.kind == "finetuned" or was is None or head.split not in self.store.splits(head.dataset):
            return ""
        now = training_identity(head.trained.samples(self.store, head.split, head.dataset, memory=0))
        return "" if now == was else f"{head.name} was fitted on other pictures or labels than {head.split} has now"

    def _chosen(self) -> dict[str, list[str]]:
        """Return the fingerprints to pack, each with those of its other views that go with it."""
        chosen: dict[str, list[str]] = {}
        for head in self.heads:
            for spec in head.trained.specs:
                chosen.setdefault(spec.fingerprint, [])
                if head.augmented:
                    chosen[spec.fingerprint] = self._other_views(spec, head.dataset)
        for view in self.views if self.wanted or not self.heads else []:
            found = self.store.load(dataset=view.name, features=self.wanted or None, memory=0)
            for spec in found.specs:
                chosen.setdefault(spec.fingerprint, [])
        return chosen

    def _other_views(self, spec: FeatureSpec, dataset: str) -> list[str]:
        alike = {fp for fp, info in self.held.items() if dataclasses.replace(info.spec, view=spec.view) == spec}
        digests = self.store.view(dataset).digests
        others = {fp for fp in alike if fp != spec.fingerprint and not self.held[fp].spec.view.startswith("mean(")}
        return [fp for fp in sorted(others) if np.isin(digests, self.store.digests(fp)).all()]

    def _packed(self, chosen: dict[str, list[str]]) -> dict[str, Packed]:
        """Return what becomes of each feature, by the fingerprint that it has in the store."""
        packed: dict[str, Packed] = {}
        for fingerprint, others in chosen.items():
            components = self._components(self.held[fingerprint]) if self.pca else None
            if components:
                self.components[fingerprint] = components
            for one in (fingerprint, *others):
                packed.setdefault(one, self._becomes(self.held[one], components))
        return packed

    def _keep_components(self, folder: Path) -> None:
        """Put the components of projected features where a store has them, so that new pictures can be projected."""
        for components in self.components.values():
            self.stage_one.keep(self.stage_one.components_file(folder, components.projection), components)
        for packed in self.packed.values():
            if packed.transform is None and packed.spec.projection.startswith("pca"):
                held = self.stage_one.components_file(self.path, packed.spec.projection)
                if held.is_file():
                    shutil.copyfile(held, self.stage_one.components_file(folder, packed.spec.projection))

    def _needed(self) -> int:
        rows = len({digest for view in self.views for digest in view.digests.tolist()})
        vectors = sum(rows * packed.dim * np.dtype(packed.dtype).itemsize for packed in self.packed.values())
        return vectors + self.most + sum(head.file.stat().st_size for head in self.heads)

    def _becomes(self, info: FeatureInfo, components: Components | None) -> Packed:
        dtype = self.dtype or info.dtype
        if components is None:
            return Packed(info, info.spec, info.dim, dtype)
        spec = dataclasses.replace(info.spec, projection=components.projection)
        return Packed(info, spec, len(components.components), dtype, components.transform)

    def _components(self, info: FeatureInfo) -> Components:
        """Fit principal components on the pictures that heads on these features were trained on, or else on train."""
        if info.spec.projection or info.spec.normalize:
            what = info.spec.projection.partition(":")[0] or info.spec.normalize
            raise ProjectionError(
                f"{info.spec.title} is made shorter or scaled already ({what}), and --pca is for features as the "
                "network gives them: leave it out, or pack the features from before that"
            )
        mine = [h for h in self.heads if info.spec.fingerprint in [spec.fingerprint for spec in h.trained.specs]]
        parts = dict.fromkeys([(head.dataset, head.split) for head in mine]) or dict.fromkeys(
            (view.name, "train") for view in self.views
        )
        digests = np.unique(
            np.concatenate([self.store.load(s, dataset=d, spec=info.spec, memory=0).digests for d, s in parts])
        )
        if len(digests) > _PCA_ROWS:
            digests = np.random.default_rng(0).permutation(digests)[:_PCA_ROWS]
        few = int(_FEW * len(digests))
        if self.pca and self.pca > few >= 1:
            self.notes.append(
                f"{self.pca} components were fitted on {len(digests)} pictures: `fit` on the bundle will look worse in "
                f"cross-validation than it is, so go by `eval`, or keep {few}"
            )
        return self.stage_one.fit(self.store.vectors(info.spec.fingerprint, digests), self.pca or 0)

    def _carry(self, folder: Path) -> tuple[list[dict[str, Any]], list[Trip]]:
        """Write the heads; return what `bundle.json` says of them, and what is to be measured."""
        store = FeatureStore(folder)
        said: list[dict[str, Any]] = []
        trips: list[Trip] = []
        for number, head in enumerate(self.heads):
            if number == 0:
                (folder / "heads").mkdir()
                self.display.count("heads")
            file = folder / "heads" / f"{head.name}.head"
            how = self._carry_one(head, file, store)
            after = dataclasses.replace(load_head(file), name=str(head.file))
            said.append(
                {
                    "name": head.name,
                    "file": f"heads/{head.name}.head",
                    "kind": head.trained.kind,
                    "how": how,
                    "dataset": head.dataset,
                    "classes": head.trained.classes,
                    "features": [spec.fingerprint for spec in after.specs],
                    "model": None,
                    "no_model": "left out by --without models",
                }
            )
            splits = self.store.splits(head.dataset)
            if {"test", "val"} & splits.keys():
                trips.append(Trip(head.name, how, head.trained, after, head.dataset, measured_split(splits)))
            self.display.update(number + 1, len(self.heads))
        return said, trips

    def _carry_one(self, head: _Head, file: Path, store: FeatureStore) -> str:
        mine = [self.packed[spec.fingerprint] for spec in head.trained.specs]
        if not self.pca:
            shutil.copyfile(head.file, file)
            return "as it was"
        sources = [
            Source(one.spec, {**source.request, "projection": one.projection}, source.weights_file)
            for one, source in zip(mine, head.trained.sources, strict=True)
        ]
        specs = [one.spec for one in mine]
        components = [self.components[spec.fingerprint] for spec in head.trained.specs]
        return carry_projected(
            file,
            head.trained,
            components,
            sources,
            lambda: store.load(head.split, dataset=head.dataset, spec=specs, augment=head.augmented),
            lambda: store.load("val", dataset=head.dataset, spec=specs),
        )

    def _thumbnails(self, folder: Path) -> dict[str, Any] | None:
        places: dict[bytes, Place] = {}
        first: set[bytes] = set()
        for view in self.views:
            names, splits = view.digests.tolist(), set(view.splits.tolist())
            places |= {name: (view.root, path) for name, path in zip(names, view.paths, strict=True)}
            first |= set(view.digests[view.splits == measured_split(splits)].tolist())
        if not self.most:
            return None
        digests = sorted(places, key=lambda digest: (digest not in first, digest))  # a digest's order is chance
        failed: list[str] = []
        known = thumbnails_of(self.path)

        def made() -> Iterator[tuple[bytes, bytes]]:
            self.display.count("thumbnails")
            found = self.stage_one.thumbnails([places[digest] for digest in digests], digests, known)
            for i, (digest, jpeg, reason) in enumerate(found):
                self.display.update(i + 1, len(digests))
                if jpeg is None:
                    failed.append(f"{join(*places[digest])}: {reason}")
                else:
                    yield digest, jpeg

        count, more = write_thumbnails(folder / THUMBNAILS, made(), self.most)
        if known:
            known.close()
        if not count:
            (folder / THUMBNAILS).unlink()
        return {
            "count": count,
            "of": len(digests),
            "pixels": self.stage_one.side,
            "capped": more,
            "lacking": len(failed),
            "why": failed[0] if failed else "",
        }

    def _export(self, folder: Path, heads: list[dict[str, Any]]) -> None:
        """Export the heads to ONNX, as far as they can be, and say why where not."""
        if not self.models or not heads:
            return
        self.display.count("models")
        (folder / "models").mkdir()
        for number, (said, head) in enumerate(zip(heads, self.heads, strict=True)):
            file = f"models/{head.name}.onnx"
            try:
                self._export_one(folder, head, folder / file)
                said |= {"model": file, "no_model": ""}
            except DiskFull:
                raise
            except PenultError as error:
                (folder / file).unlink(missing_ok=True)
                said["no_model"] = str(error).replace(str(folder), str(self.output))
            self.display.update(number + 1, len(heads))
        if not any(said["model"] for said in heads):
            (folder / "models").rmdir()

    def _export_one(self, folder: Path, head: _Head, file: Path) -> None:
        if not self.pca and is_bundle(self.path):  # made where torch was, for the same features
            bundle = read_bundle(self.path)
            held = bundle.model(head.name) if bundle.heads().get(head.name) == head.file else None
            if held:
                shutil.copyfile(held, file)
                return
        trained = dataclasses.replace(load_head(folder / "heads" / f"{head.name}.head"), name=str(head.file))
        components = [spec.projection for spec in trained.specs if spec.projection.startswith("pca")]
        self.stage_one.export(trained, file, [str(self.stage_one.components_file(folder, one)) for one in components])

    def _feature(self, packed: Packed, folder: Path) -> dict[str, Any]:
        """Return what `bundle.json` says of one feature."""
        components = None
        if packed.spec.projection.startswith("pca"):
            components = self.stage_one.components_file(folder, packed.spec.projection)
        return {
            "fingerprint": packed.spec.fingerprint,
            "title": packed.spec.title,
            "dim": packed.dim,
            "dtype": packed.dtype,
            "components": components.name if components and components.is_file() else None,
            "before": {
                "fingerprint": packed.info.spec.fingerprint,
                "dim": packed.info.dim,
                "dtype": packed.info.dtype,
            },
        }

    def _made(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "command": self.command,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "penult": VERSION,
            "store": str(self.path),
        }
        if is_bundle(self.path):
            made["before"] = read_bundle(self.path).info["made"]
        return made


def _dataset(view: View) -> dict[str, Any]:
    names, counts = np.unique(view.splits, return_counts=True)
    return {
        "name": view.name,
        "images": len(view.paths),
        "classes": view.classes,
        "splits": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
