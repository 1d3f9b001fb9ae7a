"""One extraction: what is known already is looked up, the rest is computed, staged and published."""

import dataclasses
import datetime
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data import VERSION
from data.errors import FingerprintMismatch, ImageSetError
from data.images import ImageSet
from data.memory import recall
from data.publish import publish, refuse_stranger
from data.report import oddities
from data.spec import FeatureSpec, differences
from data.splits import SplitRule, stratified_split
from data.store import FeatureInfo, FeatureStore
from data.views import Skipped, View
from extract.backbones import Backbone, same_command
from extract.blocks import BlockWriter
from extract.components import fit_components, stored_components
from extract.flow import Batch, available_cores, decoding, flow
from extract.networks import Feature, Network
from extract.projection import Pca
from extract.reader import Picture
from extract.results import Extraction, FeatureResult, Progress, name_limit
from extract.wanted import Wanted

_RECORDED = ("torch", "torchvision", "timm", "onnxruntime", "pillow", "simplejpeg", "numpy", "h5py")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything computed so far has been staged."""


class Extractor:
    """Extracts one image set into one store.

    Parameters
    ----------
    images : ImageSet
        The pictures.
    store : Path
        A file, or a folder that exists.
    wanted : sequence of Wanted
        The networks, and the vectors of each; pictures are read and decoded once for all of them.
    engine, device, batch_size, precision, compile
        As for `extract.engines.Setup`.
    workers : int
        Threads that read and decode; 0 takes one a core.
    dtype : str
        ``float32`` or ``float16``: how new features are stored. Features that exist keep theirs.
    split : SplitRule, optional
        How to split the set; without one the folders' splits stay, and a set without any gets the default rule.
    rehash : bool
        Read every file again instead of trusting its size and modification time.
    strict : bool
        Fail on the first picture that cannot be decoded.
    on_progress : callable, optional
        Called with a `Progress` after every picture.
    """

    def __init__(
        self,
        images: ImageSet,
        store: Path,
        wanted: Sequence[Wanted] = (Wanted(),),
        *,
        engine: str = "auto",
        device: str = "auto",
        batch_size: int = 0,
        precision: str = "auto",
        compile: bool = False,
        workers: int = 0,
        dtype: str = "float32",
        split: SplitRule | None = None,
        rehash: bool = False,
        strict: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.images = images
        self.store = store
        self.wanted = wanted
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
        self.precision = precision
        self.compile = compile
        self.workers = workers
        self.dtype = dtype
        self.split = split
        self.rehash = rehash
        self.strict = strict
        self.on_progress = on_progress

    def run(self) -> Extraction:
        """Extract what is missing and publish.

        Raises
        ------
        Interrupted
            On Ctrl-C; the same call again goes on from there.
        PenultError
            If the network, the weights, the store or the disk refuse; nothing that was staged is lost.
        """
        start = time.perf_counter()
        if self.store.is_symlink():  # replace what it points to, not the link
            self.store = self.store.resolve()
        store = FeatureStore(self.store)
        store.refuse_other_folder()
        old_view = (store.views() if store.exists() else {}).get(self.images.name)
        run = _Run(self, store.features() if store.exists() else {})
        try:
            with decoding():
                run.compute()
        except KeyboardInterrupt:
            run.stage()
            run.wait()
            raise Interrupted(
                f"interrupted: {run.computed} pictures were computed and are kept beside {self.store}; run the same "
                "command again to go on from there"
            ) from None
        finally:
            run.close()
        view = run.view(old_view)
        refuse_stranger(self.store, old_view, view)
        began = time.perf_counter()
        commands = {f.spec.fingerprint: f.request for target in run.targets for f in target.features}
        published = publish(self.store, view, commands=commands)
        run.seconds["write"] += time.perf_counter() - began
        seconds = time.perf_counter() - start
        names, counts = np.unique(view.splits, return_counts=True)
        held = store.features()
        features = [
            FeatureResult(f.spec.title, f.spec.fingerprint, held[f.spec.fingerprint].dim, target.engine_name)
            for target in run.targets
            for f in target.features
        ]
        return Extraction(
            images=len(self.images),
            extracted=run.computed,
            reused=len(view.paths) - run.computed,
            skipped=view.skipped,
            dim=features[0].dim,
            fingerprint=features[0].fingerprint,
            engine=features[0].engine,
            seconds=round(seconds, 3),
            images_per_second=round(len(self.images) / seconds, 1),
            stage_seconds={k: round(v, 3) for k, v in run.seconds.items()},
            limit=run.limit(),
            published=published,
            splits={str(n): int(c) for n, c in zip(names, counts, strict=True)},
            notes=[*self.images.notes, *run.notes, *oddities(view, old_view)],
            features=features,
        )


class _Target:
    """One network of an extraction: its features, known from the store or by opening it, and their writers."""

    def __init__(self, job: Extractor, wanted: Wanted, held: dict[str, FeatureInfo]) -> None:
        self.job = job
        self.wanted = wanted
        self.backbone: Backbone | None = None
        self.engine_name = "none"
        self.features: list[Feature] = []  # none yet: `_components` asks
        self.features = self._remembered(held) or self.open()
        self.network = Network(self.features)
        self.lacking = list(range(len(self.features)))  # those that some picture has not, which the network computes
        # features that exist keep their dtype, which the writer must know to refuse what does not fit it
        dtypes = {fingerprint: info.dtype for fingerprint, info in held.items()}
        self.writers = [
            BlockWriter(job.store, f.spec, dtypes.get(f.spec.fingerprint, job.dtype)) for f in self.features
        ]

    def compute_only(self, lacking: list[int]) -> None:
        """Leave out of the network the features that every picture has, and the views that only they need."""
        self.lacking = lacking
        self.network = Network([self.features[i] for i in lacking])

    def open(self) -> list[Feature]:
        """Build the network and return its features."""
        self.backbone = self.wanted.open()
        return self.wanted.features(self.backbone, self._components)

    def start_engine(self, first: list[Picture]) -> list[str]:
        """Build the engine, trying it on the first pictures; return what the user should know."""
        from extract.engines import Setup, open_engine  # torch is loaded only when something must be computed

        job = self.job
        if self.backbone is None:
            opened = self.open()
            for now, then in zip(opened, self.features, strict=True):
                _refuse_another(now.spec, then.spec, self.wanted.backbone, job.store)
            self.network.features = [
                dataclasses.replace(opened[i], request=self.features[i].request) for i in self.lacking
            ]
        assert self.backbone is not None
        setup = Setup(job.engine, job.device, job.batch_size, job.precision, job.compile)
        sample = np.stack([picture.inputs[self.network.recipes[0]] for picture in first])
        engine = self.network.engine = open_engine(self.backbone, setup, sample)
        self.engine_name = engine.name
        for writer, feature in zip(self.writers, self.features, strict=True):
            writer.run = self._provenance(writer.run_id, feature)
            writer.requests = [feature.request]
        return [*self.backbone.report, *engine.notes]

    def _remembered(self, held: dict[str, FeatureInfo]) -> list[Feature]:
        """Return the features of commands that the store knows; none if it does not know all of them."""
        asked = self.wanted.requests()
        features = []
        for request in asked or ():
            known = ((i.spec, old) for i in held.values() for old in i.requests if same_command(request, old))
            spec, old = next(known, (None, {}))
            if spec is None:
                return []
            features.append(Feature(spec, old))
        return features

    def _components(self, backbone: Backbone) -> Pca:
        """Return the principal components: those that the store's features have, else new ones, kept beside it."""
        job = self.job
        if self.features:
            return stored_components(job.store, self.features[0].spec.projection)
        return fit_components(job.store, job.images, backbone, self.wanted.projection, job.device)

    def _provenance(self, run_id: str, feature: Feature) -> dict[str, Any]:
        engine = self.network.engine
        assert engine is not None
        versions = {"penult": VERSION, **{p: v for p in _RECORDED if (v := _version(p))}}
        return {
            "run": run_id,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "engine": engine.name,
            "device": engine.device,
            "precision": engine.precision,
            "batch_size": engine.batch_size,
            "request": feature.request,
            "weights_file": os.path.abspath(self.wanted.weights) if "sha256" in feature.request["weights"] else "",
            "versions": versions,
        }


class _Run:
    """The state of one extraction: what became of each picture."""

    def __init__(self, job: Extractor, held: dict[str, FeatureInfo]) -> None:
        self.job = job
        self.targets = [_Target(job, wanted, held) for wanted in job.wanted]
        fingerprints = [f.spec.fingerprint for target in self.targets for f in target.features]
        self.memory = recall(job.store, fingerprints, job.images, rehash=job.rehash)
        self.workers = job.workers or available_cores()
        self.seconds = {"read": 0.0, "decode": 0.0, "forward": 0.0, "write": 0.0}
        self.flow_seconds = 0.0
        self.computed = self.done = 0
        self.notes: list[str] = []
        self.digests = np.zeros(len(job.images), dtype="S64")
        self.sizes = job.images.sizes.copy()
        self.mtimes = job.images.mtimes.copy()
        self.reasons: dict[int, str] = {}
        self.not_finite: set[bytes] = set()
        self.pending: set[bytes] = set()  # contents to be read, as far as they are known; empty for others
        self.scanned: list[int] = []  # read since the last block: the next one remembers their files
        self._known = [[self.memory.digests[f.spec.fingerprint] for f in target.features] for target in self.targets]
        # what a network has been given in this run: from then on a copy of it is reused
        self._given: list[set[bytes]] = [set() for _ in self.targets]

    def compute(self) -> None:
        """Look up, read, decode and run the networks over every picture of the set, and stage all rows."""
        job = self.job
        indices = list(self._look_up())
        self._report()
        for target, known in zip(self.targets, self._known, strict=True):
            lacking = [i for i, rows in enumerate(known) if not self.pending <= rows]
            if 0 < len(lacking) < len(known):
                target.compute_only(lacking)
        began = time.perf_counter()
        networks = [target.network for target in self.targets]
        for item in flow(job.images, indices, networks, lacking=self._lacking, start=self._start, workers=self.workers):
            if isinstance(item, Batch):
                self._take(item)
            else:
                self._settle(item)
        self.flow_seconds = time.perf_counter() - began
        self.stage()
        self.wait()
        for i in range(len(self.digests)):
            if self.not_finite and bytes(self.digests[i]) in self.not_finite:
                self._skip(i, "the network gives NaN or infinity for it")
                self.mtimes[i] = -1  # another network may not: look again

    def stage(self) -> None:
        """Hand the rows so far to the writers; the first block also says which files were read."""
        if not any(writer.rows for target in self.targets for writer in target.writers):
            return
        scanned, self.scanned = self.scanned, []
        for target in self.targets:
            for writer in target.writers:
                if writer.rows:
                    writer.stage(self._view_of(scanned, self.job.images.splits, None))
                    scanned = []

    def wait(self) -> None:
        """Wait until every block is on the disk."""
        for target in self.targets:
            for writer in target.writers:
                writer.wait()

    def close(self) -> None:
        """End the writers; blocks in flight are finished."""
        for target in self.targets:
            for writer in target.writers:
                writer.close()
                self.seconds["write"] += writer.seconds

    def limit(self) -> str:
        """Say which stage was the limit; empty if nothing was computed."""
        engines = [target.network.engine for target in self.targets if target.network.engine]
        if not engines:
            return ""
        return name_limit(
            self.seconds,
            on_cpu=engines[0].device == "cpu",
            engine=engines[0].name,
            workers=self.workers,
            cores=available_cores(),
            wall=self.flow_seconds,
        )

    def view(self, old: View | None) -> View:
        """Return the image set as the store is to remember it.

        Raises
        ------
        ImageSetError
            If no picture could be read.
        """
        images = self.job.images
        keep = [i for i in range(len(images)) if i not in self.reasons]
        if not keep:
            first = min(self.reasons)
            raise ImageSetError(
                f"none of the {len(images)} pictures of {images.root} could be read (the first, "
                f"{images.paths[first]}: {self.reasons[first]}): check the files"
            )
        rule = self.job.split
        if rule is None and images.classes and not (images.splits != "").any():
            rule = SplitRule(**old.split_rule) if old and old.split_rule else SplitRule()
        splits = images.splits.astype(object)  # a new name may be longer than those there are
        if rule is not None:
            splits[keep] = stratified_split(images.targets[keep], self.digests[keep], rule)
        return self._view_of(range(len(images)), splits.astype(np.str_), rule)

    def _view_of(self, rows: Iterable[int], splits: npt.NDArray[np.str_], rule: SplitRule | None) -> View:
        """Return a view of some pictures; `splits` are those of the whole set."""
        images = self.job.images
        rows = list(rows)
        good = [i for i in rows if i not in self.reasons]
        return View(
            name=images.name,
            root=str(images.root),
            classes=images.classes,
            paths=[images.paths[i] for i in good],
            digests=self.digests[good],
            targets=images.targets[good],
            splits=splits[good],
            sizes=self.sizes[good],
            mtimes=self.mtimes[good],
            skipped=[
                Skipped(images.paths[i], self.reasons[i], int(self.sizes[i]), int(self.mtimes[i]))
                for i in rows
                if i in self.reasons
            ],
            split_rule=dataclasses.asdict(rule) if rule else None,
        )

    def _look_up(self) -> Iterator[int]:
        """Settle every picture whose file is as it was; yield the others."""
        images, memory = self.job.images, self.memory
        complete = set.intersection(*(known for target in self._known for known in target))
        stats = zip(images.paths, images.sizes.tolist(), images.mtimes.tolist(), strict=True)
        for i, (path, size, mtime) in enumerate(stats):
            remembered = memory.files.get(path)
            failure = memory.failures.get(path)
            if mtime >= 0 and remembered and remembered[:2] == (size, mtime) and remembered[2] in complete:
                self.digests[i] = remembered[2]
                self.done += 1
            elif mtime >= 0 and failure and (failure.size, failure.mtime) == (size, mtime):
                self._skip(i, failure.reason)
                self.done += 1
            else:
                as_it_was = mtime >= 0 and remembered is not None and remembered[:2] == (size, mtime)
                self.pending.add(remembered[2] if remembered and as_it_was else b"")
                yield i

    def _lacking(self, digest: bytes) -> list[int]:
        """Return the networks that have not seen a content, all of whose features they must give."""
        return [
            i
            for i, known in enumerate(self._known)
            if digest not in self._given[i] and not all(digest in rows for rows in known)
        ]

    def _settle(self, picture: Picture) -> None:
        """Note what became of a file."""
        i = picture.index
        self.seconds["read"] += picture.read_seconds
        self.seconds["decode"] += picture.decode_seconds
        self.digests[i], self.sizes[i], self.mtimes[i] = picture.digest, picture.size, picture.mtime
        self.scanned.append(i)
        if picture.reason:
            self._skip(i, picture.reason)
        elif picture.inputs and (lacking := self._lacking(picture.digest)):
            for network in lacking:
                self._given[network].add(picture.digest)
            self.computed += 1
        self.done += 1
        self._report()

    def _take(self, batch: Batch) -> None:
        """Give the writers those rows of a batch that they do not have."""
        self.seconds["forward"] += batch.seconds
        target = self.targets[batch.network]
        finite = np.all([np.isfinite(vectors).all(axis=1) for vectors in batch.vectors], axis=0)
        digests = [picture.digest for picture in batch.pictures]
        bad = {digest for digest, good in zip(digests, finite.tolist(), strict=True) if not good}
        self.computed -= len(bad - self.not_finite)
        self.not_finite |= bad
        for i, vectors in zip(target.lacking, batch.vectors, strict=True):
            known = self._known[batch.network][i]
            keep = [row for row, digest in enumerate(digests) if digest not in known and digest not in bad]
            target.writers[i].add([digests[row] for row in keep], vectors[keep])
        if any(writer.due for writer in target.writers):
            self.stage()

    def _start(self, network: int, first: list[Picture]) -> None:
        self.notes += self.targets[network].start_engine(first)

    def _skip(self, index: int, reason: str) -> None:
        if self.job.strict:
            raise ImageSetError(f"{self.job.images.title(index)}: {reason}: mend or remove it, or run without --strict")
        self.reasons[index] = reason

    def _report(self) -> None:
        if self.job.on_progress:
            self.job.on_progress(Progress(self.done, len(self.job.images), len(self.reasons)))


def _refuse_another(now: FeatureSpec, then: FeatureSpec, backbone: str, store: Path) -> None:
    if now != then:
        raise FingerprintMismatch(
            f"the network {backbone} is not the one that {store} remembers for this command "
            f"({'; '.join(differences(now, then))}): extract into a new store"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
