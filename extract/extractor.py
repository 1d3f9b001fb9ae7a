"""One extraction: what is known already is looked up, the rest is computed, staged and published."""

import dataclasses
import datetime
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from data.store import FeatureStore
from data.views import Skipped, View
from extract.backbones import DEFAULT_BACKBONE, Backbone, Options, open_backbone, request, same_command
from extract.blocks import BlockWriter
from extract.preprocess import pillow_settings
from extract.reader import Picture, read_pictures

if TYPE_CHECKING:
    from extract.engines import Engine

_RECORDED = ("torch", "torchvision", "timm", "pillow", "numpy", "h5py")


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far an extraction is: pictures done of `total`, of which `skipped` gave no features."""

    done: int
    total: int
    skipped: int


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What an extraction did; `pipeline.py extract --json` prints it.

    Parameters
    ----------
    images : int
        Pictures in the image set: `extracted` + `reused` + skipped.
    extracted, reused : int
        Vectors computed now, and pictures whose content had one already (duplicates among them).
    skipped : list of Skipped
        Pictures that gave no features, with the reason.
    dim : int
        Length of a vector.
    fingerprint, engine : str
        The spec's fingerprint, and what computed the vectors (``none`` if nothing had to be).
    seconds, images_per_second : float
        Wall time of the whole run, loading included, and pictures of the set over it.
    stage_seconds : dict
        Seconds spent in ``read``, ``decode`` (both summed over threads), ``forward`` and ``write``.
    published : bool
        False if the store held everything already and was not touched.
    splits : dict
        Pictures in each split.
    notes : list of str
        What a user would want to know.
    """

    images: int
    extracted: int
    reused: int
    skipped: list[Skipped]
    dim: int
    fingerprint: str
    engine: str
    seconds: float
    images_per_second: float
    stage_seconds: dict[str, float]
    published: bool
    splits: dict[str, int]
    notes: list[str]


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
    backbone, weights, options, seed
        As for `extract.backbones.open_backbone`.
    engine, device, batch_size
        As for `extract.engines.open_engine`.
    workers : int
        Threads that read and decode; 0 takes one a core, up to 8.
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
        *,
        backbone: str = DEFAULT_BACKBONE,
        weights: str = "default",
        options: Options | None = None,
        seed: int = 0,
        engine: str = "auto",
        device: str = "auto",
        batch_size: int = 0,
        workers: int = 0,
        dtype: str = "float32",
        split: SplitRule | None = None,
        rehash: bool = False,
        strict: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.images = images
        self.store = store
        self.backbone = backbone
        self.weights = weights
        self.options = options or Options()
        self.seed = seed
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
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
        asked = request(self.backbone, self.weights, self.options, self.seed)
        store = FeatureStore(self.store)
        store.refuse_other_folder()
        features = store.features() if store.exists() else {}
        old_view = (store.views() if store.exists() else {}).get(self.images.name)
        known = [(info.spec, held) for info in features.values() for held in info.requests if same_command(asked, held)]
        spec, asked = known[0] if known else (None, asked)
        # features that exist keep their dtype, which the writer must know to refuse what does not fit it
        dtype = features[spec.fingerprint].dtype if spec and spec.fingerprint in features else self.dtype
        run = _Run(self, asked, spec, dtype)
        writer = run.writer
        try:
            with pillow_settings():
                run.compute()
        except KeyboardInterrupt:
            run.stage()
            writer.wait()
            raise Interrupted(
                f"interrupted: {run.computed} pictures were computed and are kept beside {self.store}; run the same "
                "command again to go on from there"
            ) from None
        finally:
            writer.close()
        view = run.view(old_view)
        refuse_stranger(self.store, old_view, view)
        began = time.perf_counter()
        published = publish(self.store, view, request=asked, fingerprint=run.spec.fingerprint)
        write_seconds = writer.seconds + time.perf_counter() - began
        seconds = time.perf_counter() - start
        names, counts = np.unique(view.splits, return_counts=True)
        return Extraction(
            images=len(self.images),
            extracted=run.computed,
            reused=len(view.paths) - run.computed,
            skipped=view.skipped,
            dim=store.features()[run.spec.fingerprint].dim,
            fingerprint=run.spec.fingerprint,
            engine=run.engine.name if run.engine else "none",
            seconds=round(seconds, 3),
            images_per_second=round(len(self.images) / seconds, 1),
            stage_seconds={k: round(v, 3) for k, v in {**run.seconds, "write": write_seconds}.items()},
            published=published,
            splits={str(n): int(c) for n, c in zip(names, counts, strict=True)},
            notes=[*self.images.notes, *oddities(view, old_view)],
        )


class _Run:
    """The state of one extraction: what became of each picture, and the batch in the making."""

    def __init__(self, job: Extractor, asked: dict[str, Any], spec: FeatureSpec | None, dtype: str) -> None:
        self.job = job
        self.asked = asked
        self.backbone: Backbone | None = None
        self.engine: Engine | None = None
        self.spec = spec or self._open_backbone().spec
        self.memory = recall(job.store, self.spec.fingerprint, job.images, rehash=job.rehash)
        self.writer = BlockWriter(job.store, self.spec, dtype)
        self.seconds = {"read": 0.0, "decode": 0.0, "forward": 0.0}
        self.computed = self.done = 0
        self.digests = np.zeros(len(job.images), dtype="S64")
        self.sizes = job.images.sizes.copy()
        self.mtimes = job.images.mtimes.copy()
        self.reasons: dict[int, str] = {}
        self.not_finite: set[bytes] = set()
        self.batch: list[Picture] = []
        self.scanned: list[int] = []  # read since the last block: the next one remembers their files

    def compute(self) -> None:
        """Look up, read, decode and run the network over every picture of the set, and stage all rows."""
        job, known = self.job, self.memory.digests
        indices = list(self._look_up())
        self._report()
        workers = job.workers or min(os.cpu_count() or 1, 8)
        ahead = 2 * (job.batch_size or 32) + workers
        for picture in read_pictures(job.images, indices, self.spec, known, workers=workers, ahead=ahead):
            i = picture.index
            self.seconds["read"] += picture.read_seconds
            self.seconds["decode"] += picture.decode_seconds
            self.digests[i], self.sizes[i], self.mtimes[i] = picture.digest, picture.size, picture.mtime
            self.scanned.append(i)
            if picture.reason:
                self._skip(i, picture.reason)
            elif picture.pixels is not None and picture.digest not in known:
                known.add(picture.digest)  # from here on a copy of it is reused
                self.batch.append(picture)
                if len(self.batch) == self._open_engine().batch_size:
                    self._forward()
            self.done += 1
            self._report()
        if self.batch:
            self._forward()
        self.stage()
        self.writer.wait()
        for i in range(len(self.digests)):
            if self.not_finite and bytes(self.digests[i]) in self.not_finite:
                self._skip(i, "the network gives NaN or infinity for it")
                self.mtimes[i] = -1  # another network may not: look again

    def stage(self) -> None:
        """Hand the rows so far to the writer."""
        if self.engine is None:  # nothing was computed
            return
        scanned, self.scanned = self.scanned, []
        self.writer.stage(self._view_of(scanned, self.job.images.splits, None))

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
        stats = zip(images.paths, images.sizes.tolist(), images.mtimes.tolist(), strict=True)
        for i, (path, size, mtime) in enumerate(stats):
            remembered = memory.files.get(path)
            failure = memory.failures.get(path)
            if mtime >= 0 and remembered and remembered[:2] == (size, mtime) and remembered[2] in memory.digests:
                self.digests[i] = remembered[2]
                self.done += 1
            elif mtime >= 0 and failure and (failure.size, failure.mtime) == (size, mtime):
                self._skip(i, failure.reason)
                self.done += 1
            else:
                yield i

    def _skip(self, index: int, reason: str) -> None:
        if self.job.strict:
            raise ImageSetError(f"{self.job.images.title(index)}: {reason}: mend or remove it, or run without --strict")
        self.reasons[index] = reason

    def _forward(self) -> None:
        engine = self._open_engine()
        batch, self.batch = self.batch, []
        start = time.perf_counter()
        features = engine.forward(np.stack([p.pixels for p in batch if p.pixels is not None]))
        self.seconds["forward"] += time.perf_counter() - start
        finite: npt.NDArray[np.bool_] = np.all(np.isfinite(features), axis=1)
        verdicts: list[bool] = finite.tolist()
        digests = [p.digest for p in batch]
        self.not_finite.update(d for d, good in zip(digests, verdicts, strict=True) if not good)
        self.writer.add([d for d, good in zip(digests, verdicts, strict=True) if good], features[finite])
        self.computed += int(finite.sum())
        if self.writer.due:
            self.stage()

    def _open_backbone(self) -> Backbone:
        if self.backbone is None:
            job = self.job
            self.backbone = open_backbone(job.backbone, job.weights, job.options, job.seed)
        return self.backbone

    def _open_engine(self) -> "Engine":
        if self.engine is None:
            from extract.engines import open_engine  # torch is loaded only when something must be computed

            backbone = self._open_backbone()
            if backbone.spec != self.spec:
                raise FingerprintMismatch(
                    f"the network {self.job.backbone} is not the one that {self.job.store} remembers for this command "
                    f"({'; '.join(differences(backbone.spec, self.spec))}): extract into a new store"
                )
            self.engine = open_engine(backbone, self.job.engine, self.job.device, self.job.batch_size)
            self.writer.run = self._provenance(self.engine)
            self.writer.requests = [self.asked]
        return self.engine

    def _provenance(self, engine: "Engine") -> dict[str, Any]:
        return {
            "run": self.writer.run_id,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "engine": engine.name,
            "device": engine.device,
            "batch_size": engine.batch_size,
            "request": self.asked,
            "weights_file": os.path.abspath(self.job.weights) if "sha256" in self.asked["weights"] else "",
            "versions": {"penult": VERSION, **{p: importlib.metadata.version(p) for p in _RECORDED}},
        }

    def _report(self) -> None:
        if self.job.on_progress:
            self.job.on_progress(Progress(self.done, len(self.job.images), len(self.reasons)))
