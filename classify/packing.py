"""What `pack` does with what it has chosen: writes the folder, measures what that cost, and lets nothing half be seen.

What stage one does for it, which knows pictures and networks, comes as functions: see `StageOne`.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from classify.artifact import TrainedHead, load_head
from classify.cargo import Fit, Order, Passenger, choose_cargo, labels_of
from classify.carried import Trip, carry_projected, measure_trips
from data import VERSION
from data.bundle import FEATURES, MANIFEST, THUMBNAILS, is_bundle, manifest, members, read_bundle
from data.errors import BundleError, DiskFull, PenultError
from data.listing import join
from data.packing import Packed, new_folder, pack_features, refuse_folder
from data.spec import Source
from data.splits import measured_split
from data.store import FeatureStore
from data.terminal import ProgressDisplay
from data.thumbnails import Thumbnails, thumbnails_of, write_thumbnails
from data.verify import verify_store
from data.views import View

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

    fit: Fit
    components_file: Callable[[Path, str], Path]
    keep: Callable[[Path, Any], None]
    thumbnails: Callable[
        [Sequence[Place], Sequence[bytes], Thumbnails | None], Iterator[tuple[bytes, bytes | None, str]]
    ]
    side: int
    export: Callable[[TrainedHead, Path, list[str]], None]


class Packing:
    """One bundle in the making.

    Parameters
    ----------
    store, output : Path
        What is packed, and the folder to make.
    order : Order
        What of it.
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
        order: Order,
        *,
        thumbnails: int,
        models: bool,
        stage_one: StageOne,
        command: str,
        display: ProgressDisplay,
    ) -> None:
        self.path = store
        self.output = output
        self.order = order
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
        self.cargo = cargo = choose_cargo(self.store, self.order, self.stage_one.fit)
        with new_folder(self.output, self.path, cargo.nbytes + self.most) as folder:
            self._keep_components(folder)
            self.display.count("vectors")
            pack_features(self.store, folder / FEATURES, list(cargo.packed.values()), cargo.views, self.display.update)
            heads, trips = self._carry(folder)
            info = {
                "made": self._made(),
                "features": [self._feature(one, folder) for one in self.cargo.packed.values()],
                "datasets": [_dataset(view) for view in self.cargo.views],
                "heads": heads,
                "measured": self._measured(trips, folder),
                "thumbnails": self._thumbnails(folder),
                "notes": self.cargo.notes,
            }
            self._export(folder, heads)
            info["files"] = members(folder)
            (folder / MANIFEST).write_bytes(manifest(info))
            problems = verify_store(folder).problems
            if problems:
                raise BundleError(problems[0].replace(str(folder), str(self.path)))
            return read_bundle(folder).info

    def _keep_components(self, folder: Path) -> None:
        """Put the components of projected features where a store has them, so that new pictures can be projected."""
        for components in self.cargo.components.values():
            self.stage_one.keep(self.stage_one.components_file(folder, components.projection), components)
        for packed in self.cargo.packed.values():
            if packed.transform is None and packed.spec.projection.startswith("pca"):
                held = self.stage_one.components_file(self.path, packed.spec.projection)
                if held.is_file():
                    shutil.copyfile(held, self.stage_one.components_file(folder, packed.spec.projection))

    def _carry(self, folder: Path) -> tuple[list[dict[str, Any]], list[Trip]]:
        """Write the heads; return what `bundle.json` says of them, and what is to be measured."""
        said: list[dict[str, Any]] = []
        trips: list[Trip] = []
        for number, head in enumerate(self.cargo.heads):
            if number == 0:
                (folder / "heads").mkdir()
                self.display.count("heads")
            file = folder / "heads" / f"{head.name}.head"
            how = self._carry_one(head, file, labels_of(FeatureStore(folder), head, self.order.corrections))
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
            split = _labelled_split(self.store.view(head.dataset))
            if split:
                trips.append(Trip(head.name, how, head.trained, after, head.dataset, split))
            self.display.update(number + 1, len(self.cargo.heads))
        return said, trips

    def _carry_one(self, head: Passenger, file: Path, store: FeatureStore) -> str:
        mine = [self.cargo.packed[spec.fingerprint] for spec in head.trained.specs]
        if not self.order.pca:
            shutil.copyfile(head.file, file)
            return "as it was"
        sources = [
            Source(one.spec, source.request and {**source.request, "projection": one.projection}, source.weights_file)
            for one, source in zip(mine, head.trained.sources, strict=True)
        ]
        specs = [one.spec for one in mine]
        components = [self.cargo.components[spec.fingerprint] for spec in head.trained.specs]
        return carry_projected(
            file,
            head.trained,
            components,
            sources,
            lambda: store.load(head.split, dataset=head.dataset, spec=specs, augment=head.augmented),
            lambda: store.load("val", dataset=head.dataset, spec=specs),
        )

    def _measured(self, trips: list[Trip], folder: Path) -> list[dict[str, Any]]:
        """Return what the heads' figures were, and what they are on the features of the bundle."""
        before, after = (FeatureStore(path, self.order.corrections) for path in (self.path, folder))
        return [dataclasses.asdict(one) for one in measure_trips(trips, before, after)]

    def _thumbnails(self, folder: Path) -> dict[str, Any] | None:
        places: dict[bytes, Place] = {}
        first: set[bytes] = set()
        for view in self.cargo.views:
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
        for number, (said, head) in enumerate(zip(heads, self.cargo.heads, strict=True)):
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

    def _export_one(self, folder: Path, head: Passenger, file: Path) -> None:
        if not self.order.pca and is_bundle(self.path):  # made where torch was, for the same features
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


def _labelled_split(view: View) -> str | None:
    """Return the split that shows what packing cost, test or else val; None where neither has a labelled picture."""
    labelled = set(view.splits[view.targets >= 0].tolist())
    return measured_split(labelled) if labelled & {"test", "val"} else None


def _dataset(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "images": len(view.paths),
        "classes": view.classes,
        "splits": view.split_counts(),
    }
