"""One extraction: what is known already is looked up, the rest is computed, staged and published."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data.cores import available_cores
from data.depot import bring_blocks
from data.errors import ImageSetError, StoreError
from data.images import ImageSet
from data.memory import recall
from data.publish import publish, refuse_stranger
from data.report import oddities
from data.splits import SplitRule, stratified_split
from data.store import FeatureInfo, FeatureStore
from data.views import View
from data.words import counted
from extract.backbones import Backbone
from extract.components import fit_components, stored_components
from extract.networks import Feature, Setup
from extract.passes import Outcome, Pass, Tally, make_view
from extract.projection import Pca
from extract.results import Extraction, FeatureResult, Progress, name_limit
from extract.target import Plan, Target, remembered
from extract.wanted import Wanted


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
        As for `extract.networks.Setup`.
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
    keep : bool
        Add to the store's image set of that name: its other pictures stay, and none of `images` need be readable.
    ray : str
        Address of a Ray cluster whose workers compute, ``auto`` for the one that this machine is in, or ``local`` for
        one of this machine alone; empty computes in this process.
    ray_workers : int
        Workers on the cluster; 0 takes one a GPU, or all cores.
    staging : str
        Address (of fsspec's) where blocks wait to be published; empty for beside the store.
    on_progress : callable, optional
        Called with a `Progress` after every picture.

    Examples
    --------
    >>> from data.images import open_images
    >>> done = Extractor(open_images("pictures"), Path("new.h5"), [Wanted("timm/test_resnet", "random")]).run()
    >>> done.images, done.extracted, done.dim
    (36, 36, 96)
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
        keep: bool = False,
        ray: str = "",
        ray_workers: int = 0,
        staging: str = "",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.images = images
        self.store = store
        self.wanted = wanted
        self.setup = Setup(engine, device, batch_size, precision, compile)
        self.workers = workers
        self.dtype = dtype
        self.split = split
        self.rehash = rehash
        self.strict = strict
        self.keep = keep
        self.ray = ray
        self.ray_workers = ray_workers
        self.staging = staging
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
        old_views = store.views() if store.exists() else {}
        old_view = old_views.get(self.images.name)
        if self.staging:
            bring_blocks(self.staging, self.store)
        run = _Run(self, store.features() if store.exists() else {})
        try:
            run.compute()
        except KeyboardInterrupt:
            done, where = counted(run.computed, "picture was", "pictures were"), self.staging or f"beside {self.store}"
            raise Interrupted(
                f"interrupted: {done} computed and kept {where}; run the same command again to go on from there"
            ) from None
        view = run.view(old_view)
        refuse_stranger(self.store, old_view, view, keep=self.keep)
        began = time.perf_counter()
        commands = {f.spec.fingerprint: f.request for target in run.targets for f in target.features}
        published = publish(self.store, view, commands=commands, keep=self.keep)
        run.tally.seconds["write"] += time.perf_counter() - began
        seconds = time.perf_counter() - start
        features = run.features(store.features())
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
            stage_seconds={k: round(v, 3) for k, v in run.tally.seconds.items()},
            limit=run.limit(),
            published=published,
            splits=view.split_counts(),
            notes=[*self.images.notes, *run.tally.notes, *oddities(view, old_views, str(self.store))],
            features=features,
            workers=run.processes,
        )


class _Crew(Protocol):
    """Who computes: a `Pass` in this process, or `extract.cluster.Cluster`."""

    tally: Tally
    cores: int
    readers: int

    @property
    def processes(self) -> int:
        """How many processes computed."""

    def run(self, images: ImageSet, indices: Sequence[int]) -> Generator[Outcome]:
        """Yield what became of each picture; when all have come, every row is staged."""

    def flush(self) -> None:
        """Stage what has been computed before an interruption."""

    def close(self) -> None:
        """End it."""


class _Run:
    """The state of one extraction: what became of each picture."""

    def __init__(self, job: Extractor, held: dict[str, FeatureInfo]) -> None:
        self.job = job
        self.plan = Plan(job.store, job.staging, job.setup, job.workers or available_cores())
        # features that exist keep their dtype, which the writer must know to refuse what does not fit it
        dtypes = {fingerprint: info.dtype for fingerprint, info in held.items()}
        self.targets = []
        for wanted in job.wanted:
            known = remembered(wanted, held)
            components = functools.partial(self._components, wanted, known)
            self.targets.append(Target(self.plan, wanted, known, lambda f: dtypes.get(f, job.dtype), components))
        self.fingerprints = [f.spec.fingerprint for target in self.targets for f in target.features]
        self.memory = recall(job.store, self.fingerprints, job.images, rehash=job.rehash)
        self.tally = Tally()
        self.processes = self.cores = self.readers = self.done = 0
        self.digests = np.zeros(len(job.images), dtype="S64")
        self.sizes = job.images.sizes.copy()
        self.mtimes = job.images.mtimes.copy()
        self.reasons: dict[int, str] = {}
        self._given: set[bytes] = set()
        self._pending: set[bytes] = set()  # contents to be read, as far as they are known; empty for others
        self._known = [[self.memory.digests[f.spec.fingerprint] for f in target.features] for target in self.targets]

    @property
    def computed(self) -> int:
        """How many contents a network saw and gave features."""
        return len(self._given - self.tally.not_finite)

    def compute(self) -> None:
        """Look up, read, decode and run the networks over every picture of the set, and stage all rows."""
        job = self.job
        indices = list(self._look_up())
        self._report()
        for target, known in zip(self.targets, self._known, strict=True):
            lacking = [i for i, rows in enumerate(known) if not self._pending <= rows]
            if 0 < len(lacking) < len(known):
                target.compute_only(lacking)
        if indices:
            self._compute(indices)
        for i in range(len(self.digests)):
            if self.tally.not_finite and bytes(self.digests[i]) in self.tally.not_finite:
                self._skip(i, "the network gives NaN or infinity for it")
                self.mtimes[i] = -1  # another network may not: look again
        if job.staging:
            bring_blocks(job.staging, job.store)
        if job.staging or job.ray:
            self._miss_none()

    def _compute(self, indices: list[int]) -> None:
        crew = self._crew()
        self.tally = crew.tally
        with contextlib.closing(crew):
            try:
                with contextlib.closing(crew.run(self.job.images, indices)) as outcomes:
                    for outcome in outcomes:
                        self._settle(outcome)
            except KeyboardInterrupt:
                crew.flush()
                raise
            finally:
                self.processes, self.cores, self.readers = crew.processes, crew.cores, crew.readers

    def _crew(self) -> _Crew:
        job = self.job
        if not job.ray:
            return Pass(self.targets, self._known, self.plan.readers, available_cores())
        from extract.cluster import Cluster  # Ray is optional

        return Cluster(
            dataclasses.replace(self.plan, readers=job.workers),
            self.targets,
            self._known,
            job.images,
            address=job.ray,
            workers=job.ray_workers,
        )

    def _miss_none(self) -> None:
        """Raise if rows that others staged are not here: a store is never published with holes of ours."""
        job = self.job
        held = recall(job.store, self.fingerprints, job.images).digests
        lost = sum(
            1 for digest in self._given - self.tally.not_finite if any(digest not in rows for rows in held.values())
        )
        if lost:
            raise StoreError(
                f"the rows of {counted(lost, 'picture')} were staged and are gone from "
                f"{job.staging or 'beside ' + str(job.store)}: a run for another store took them, or the folder is not "
                "the same on every machine; give each store a staging address of its own, and run the same command "
                "again"
            )

    def _components(self, wanted: Wanted, known: list[Feature], backbone: Backbone) -> Pca:
        """Return the principal components: those that the store's features have, else new ones, kept beside it."""
        job = self.job
        if known:
            return stored_components(job.store, known[0].spec.projection)
        return fit_components(job.store, job.images, backbone, wanted.projection, job.setup.device)

    def features(self, held: dict[str, FeatureInfo]) -> list[FeatureResult]:
        """Return every vector that was wanted, of which the store now holds what it holds."""
        return [
            FeatureResult(
                f.spec.title,
                f.spec.fingerprint,
                held[f.spec.fingerprint].dim if f.spec.fingerprint in held else 0,
                self.tally.engines.get(i, "none"),
            )
            for i, target in enumerate(self.targets)
            for f in target.features
        ]

    def limit(self) -> str:
        """Say which stage was the limit; empty if nothing was computed."""
        if not self.tally.engines:
            return ""
        engine = self.tally.engines[min(self.tally.engines)]
        return name_limit(
            self.tally.seconds,
            on_cpu=engine.endswith("/cpu"),
            engine=engine,
            workers=self.readers,
            cores=self.cores,
            wall=self.tally.wall,
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
        if not keep and not self.job.keep:
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
        every = range(len(images))
        new = splits.astype(np.str_)
        return make_view(images, every, self.digests, self.sizes, self.mtimes, self.reasons, new, rule)

    def _look_up(self) -> Iterator[int]:
        """Settle every picture whose file is as it was; yield the others."""
        images, memory = self.job.images, self.memory
        complete = set.intersection(*self.memory.digests.values())
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
                self._pending.add(remembered[2] if remembered and as_it_was else b"")
                yield i

    def _settle(self, outcome: Outcome) -> None:
        """Note what became of a file."""
        i = outcome.index
        self.digests[i], self.sizes[i], self.mtimes[i] = outcome.digest, outcome.size, outcome.mtime
        if outcome.reason:
            self._skip(i, outcome.reason)
        elif outcome.given:
            self._given.add(outcome.digest)
        self.done += 1
        self._report()

    def _skip(self, index: int, reason: str) -> None:
        if self.job.strict:
            raise ImageSetError(f"{self.job.images.title(index)}: {reason}: mend or remove it, or run without --strict")
        self.reasons[index] = reason

    def _report(self) -> None:
        if self.job.on_progress:
            self.job.on_progress(Progress(self.done, len(self.job.images), len(self.reasons)))
