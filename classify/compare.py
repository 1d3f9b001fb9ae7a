"""Every head on every feature of some stores, measured on the same pictures and ranked."""

import contextlib
import dataclasses
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from classify.artifact import TrainedHead, load_head, save_head, training_identity
from classify.evaluate import copies_note, measure
from classify.head import Array
from classify.heads import HEADS
from classify.ranking import Contender, Ranking, ranking_of
from classify.rows import Rows
from classify.selection import train
from classify.sources import Source, find_sources, in_order_of_content
from classify.training import Training
from data.errors import HeadError
from data.splits import measured_split
from data.store import FeatureStore, Samples

_TIMINGS = 3


def compare(
    stores: Sequence[FeatureStore],
    kinds: Sequence[str],
    *,
    features: Sequence[str] = (),
    dataset: str | None = None,
    split: str = "train",
    on: str | None = None,
    tune: str = "cv",
    seed: int = 0,
    save: Path | None = None,
    memory: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Ranking]:
    """Fit heads on features and rank them, image set by image set.

    Nothing is chosen on the measured split: every head's parameters come from the training split, and the ranking is
    a measurement.

    Parameters
    ----------
    stores : sequence of FeatureStore
        Several image sets, or several extractions of one; pictures are matched by content.
    kinds : sequence of str
        Keys of `HEADS`.
    features : sequence of str
        Networks, layers, titles or fingerprints; without any, all that cover the image set, in the centre view.
    dataset : str, optional
        One image set; without it, all.
    split, on : str
        What to train on, and what to measure on (default: test, or val where there is no test).
    tune : str
        As for `classify.selection.train`.
    seed : int
        Of the folds, the heads and the bootstrap.
    save : Path, optional
        Folder for the heads.
    memory : int, optional
        Bytes that may be used: features that take more are read in blocks, and heads that cannot are left out.
    on_progress : callable, optional
        Called with the number of heads done and in all.

    Returns
    -------
    list of Ranking

    Raises
    ------
    StoreError
        If no store has the image set, the split or the features.
    HeadError
        If no head at all can be fitted.
    """
    sources = find_sources(stores, features, dataset)
    report, done = on_progress or (lambda done, total: None), itertools.count(1)
    with _folder(save) as folder:
        fits = _Fits(
            lambda kind, training, val: train(kind, training, tune=tune, val=val, seed=seed, memory=memory),
            folder,
            memory,
            lambda: report(next(done), len(sources) * len(kinds)),
        )
        for source in sources:
            place = on or measured_split(source.store.splits(source.dataset))
            fits.add(source, kinds, (split, place), with_val=tune == "val")
    if not fits.groups:
        raise HeadError(f"no head could be fitted; {fits.remarks[0][1]}")
    return [
        ranking_of(
            dataset,
            place,
            [fitted if save else dataclasses.replace(fitted, file="") for fitted in group],
            [
                *(["there is no test split: this is val"] if on is None and place == "val" else []),
                *fits.notes[dataset, place, identity],
                *(note for of, note in fits.remarks if of == dataset),
            ],
            seed,
        )
        for (dataset, place, identity), group in fits.groups.items()
    ]


Pictures = tuple[str, str, str]  # image set, split and identity


@dataclasses.dataclass
class _Fits:
    """Heads as they are fitted and measured, by the pictures that measure them.

    Parameters
    ----------
    learn : callable
        Trains a kind of head on some samples, and on others that choose, if any do.
    folder : Path
        Of the heads' files.
    memory : int or None
        Bytes that may be used.
    told : callable
        Called for each kind of head on each source.
    """

    learn: Callable[[str, Samples, Samples | None], Training]
    folder: Path
    memory: int | None
    told: Callable[[], None]
    groups: dict[Pictures, list[Contender]] = dataclasses.field(default_factory=dict)
    notes: dict[Pictures, list[str]] = dataclasses.field(default_factory=dict)
    remarks: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # image set and note
    seen: set[Pictures] = dataclasses.field(default_factory=set)

    def add(self, source: Source, kinds: Sequence[str], splits: tuple[str, str], with_val: bool) -> None:
        """Fit every kind of head on one split of a source and measure it on another, unless that was done before."""
        spec = source.info.spec
        load = functools.partial(source.store.load, dataset=source.dataset, spec=spec, memory=self.memory)
        training = load(splits[0]).labelled()
        learnt = (source.dataset, spec.fingerprint, training_identity(in_order_of_content(training)))
        again = learnt in self.seen
        if again:
            self.remarks.append((source.dataset, f"{source.store.path} holds the same {spec.title} again"))
        self.seen.add(learnt)
        val = load("val") if with_val and not again else None
        for kind in kinds:
            try:
                trained = None if again else self.learn(kind, training, val)
            except HeadError as error:
                trained = None
                self.remarks.append((source.dataset, f"not fitted: {kind} on {spec.title}: {error}"))
            self.told()
            if trained is not None:
                self._measure(trained, source, training, splits[1])

    def _measure(self, training: Training, source: Source, samples: Samples, place: str) -> None:
        """Write a head, read it back and measure that: it is what a user would have."""
        file = self.folder / f"{source.dataset}-{training.kind}-{source.slug}.head"
        known = source.info.source
        save_head(file, training, samples, request=known.request, weights_file=known.weights_file)
        head = load_head(file)
        measured = in_order_of_content(head.samples(source.store, place, source.dataset, self.memory))
        key = (source.dataset, place, training_identity(measured))
        if key not in self.groups:
            self.groups[key], self.notes[key] = [], copies_note(measured)
        group = self.groups[key]
        group.append(
            Contender(
                source=source,
                training=training,
                n_train=len(samples),
                head=head,
                head_bytes=file.stat().st_size,
                file=str(file),
                seconds_a_picture=_seconds_a_picture(head, measured.X),
                measured=measure(head, measured, group[0].measured.classes if group else head.classes),
            )
        )


@contextlib.contextmanager
def _folder(save: Path | None) -> Iterator[Path]:
    if save is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    elif save.exists() and not save.is_dir():
        raise HeadError(f"{save} is a file, and heads go into a folder: name another with --save")
    else:
        save.mkdir(parents=True, exist_ok=True)
        yield save


def _seconds_a_picture(head: TrainedHead, X: Array) -> float:
    times = []
    _, some = next(Rows([X]).blocks())  # in memory: reading is no cost of a head
    for _ in range(_TIMINGS):
        start = time.perf_counter()
        head.predict_proba(some)
        times.append(time.perf_counter() - start)
    return min(times) / len(some)


def all_kinds(kinds: Sequence[str]) -> list[str]:
    """Return the heads named, each once; ``all`` is every one."""
    return list(HEADS) if "all" in kinds else list(dict.fromkeys(kinds))
