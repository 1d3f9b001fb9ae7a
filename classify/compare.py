"""Every head on every feature of some stores, measured on the same pictures and ranked."""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.artifact import TrainedHead, load_head, save_head, training_identity
from classify.evaluate import Measured, Pair, Scores, compare_pairs, copies_note, measure, rank
from classify.head import Array
from classify.heads import HEADS
from classify.rows import Rows
from classify.selection import train
from classify.sources import Source, find_sources, in_order_of_content, told_apart
from classify.statistics import ALPHA, Separation, separation, winners_optimism
from classify.training import Training
from data.errors import HeadError
from data.splits import measured_split
from data.store import FeatureStore, Samples

_TIMINGS = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One head on one kind of features.

    Parameters
    ----------
    name : str
        The head and the features, as tables call it.
    kind, features, fingerprint, store : str
        What was fitted on what.
    params : dict
        As chosen on the training split.
    cv_accuracy : float or None
        From the choice.
    n_train : int
        Training pictures.
    fit_seconds : float
        Choice and fit together.
    predict_microseconds : float
        Of a picture, from its vector: the fastest of three passes over the measured split, or of a large one's first
        block.
    head_bytes, feature_bytes : int
        Of the head's file, and of the stored vector of a picture.
    extract_milliseconds : float or None
        What it took to compute the features of a picture, as their provenance says; None where it does not.
    engines : list of str
        What computed them, likewise.
    file : str
        Where the head was written; empty if it was not.
    scores : Scores
        On the measured split.
    tie : bool
        Whether McNemar's exact test with Holm's correction cannot tell it from the best.
    """

    name: str
    kind: str
    features: str
    fingerprint: str
    store: str
    params: dict[str, Any]
    cv_accuracy: float | None
    n_train: int
    fit_seconds: float
    predict_microseconds: float
    head_bytes: int
    feature_bytes: int
    extract_milliseconds: float | None
    engines: list[str]
    file: str
    scores: Scores
    tie: bool

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON has it, with the scores beside the rest."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "scores"}
        scores = self.scores.as_json()
        return {**fields, **{name: value for name, value in scores.items() if name not in ("head", "kind")}}


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All heads on one image set, best first.

    Parameters
    ----------
    dataset, split : str
        The pictures that were measured.
    n : int
        Their number.
    classes : list of str
        Their classes.
    entries : list of Entry
        By accuracy, then by log-loss.
    pairs : list of Pair
        Every head against the best; Holm's correction is over all of these.
    separation : Separation or None
        What it takes to tell the two best apart; None for one head.
    optimism : float
        How much better than it is the best looks here, if these pictures are taken to choose it.
    notes : list of str
        What qualifies the figures.
    """

    dataset: str
    split: str
    n: int
    classes: list[str]
    entries: list[Entry]
    pairs: list[Pair]
    separation: Separation | None
    optimism: float
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the ranking as `compare --json` prints it."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "n": self.n,
            "classes": self.classes,
            "heads": [entry.as_json() for entry in self.entries],
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "separation": dataclasses.asdict(self.separation) if self.separation else None,
            "optimism": self.optimism,
            "notes": self.notes,
        }


@dataclasses.dataclass(frozen=True)
class _Fitted:
    source: Source
    training: Training
    n_train: int
    head: TrainedHead
    head_bytes: int
    file: str
    seconds_a_picture: float
    measured: Measured


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
    report = on_progress or (lambda done, total: None)
    groups: dict[tuple[str, str, str], list[_Fitted]] = {}
    notes: dict[tuple[str, str, str], list[str]] = {}
    remarks: list[tuple[str, str]] = []  # image set and note
    seen: set[tuple[str, str, str]] = set()
    done, total = 0, len(sources) * len(kinds)
    with _folder(save) as folder:
        for source in sources:
            place = on or measured_split(source.store.splits(source.dataset))
            load = functools.partial(source.store.load, dataset=source.dataset, spec=source.info.spec, memory=memory)
            training = load(split).labelled()
            learnt = (source.dataset, source.info.spec.fingerprint, training_identity(in_order_of_content(training)))
            if learnt in seen:
                done += len(kinds)
                remarks.append((source.dataset, f"{source.store.path} holds the same {source.info.spec.title} again"))
                continue
            seen.add(learnt)
            val = load("val") if tune == "val" else None
            key: tuple[str, str, str] | None = None
            for kind in kinds:
                try:
                    trained = train(kind, training, tune=tune, val=val, seed=seed, memory=memory)
                except HeadError as error:
                    remarks.append((source.dataset, f"not fitted: {kind} on {source.info.spec.title}: {error}"))
                    continue
                finally:
                    done += 1
                    report(done, total)
                file = folder / f"{source.dataset}-{kind}-{source.slug}.head"
                head = _written(file, trained, training, source)
                samples = in_order_of_content(head.samples(source.store, place, source.dataset, memory))
                key = (source.dataset, place, training_identity(samples))
                classes = groups[key][0].measured.classes if key in groups else head.classes
                fitted = _Fitted(
                    source=source,
                    training=trained,
                    n_train=len(training),
                    head=head,
                    head_bytes=file.stat().st_size,
                    file=str(file) if save else "",
                    seconds_a_picture=_seconds_a_picture(head, samples.X),
                    measured=measure(head, samples, classes),
                )
                groups.setdefault(key, []).append(fitted)
            if key is not None and key not in notes:
                notes[key] = [*(["there is no test split: this is val"] if on is None and place == "val" else [])]
                notes[key] += copies_note(samples)
    if not groups:
        raise HeadError(f"no head could be fitted; {remarks[0][1]}")
    for key in groups:
        notes[key] += [note for dataset, note in remarks if dataset == key[0]]
    return [_ranking(key[0], key[1], fitted, notes[key], seed) for key, fitted in groups.items()]


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


def _written(file: Path, trained: Training, samples: Samples, source: Source) -> TrainedHead:
    """Write a head and read it back: what is measured is what a user would have."""
    known = source.info.source
    save_head(file, trained, samples, request=known.request, weights_file=known.weights_file)
    return load_head(file)


def _seconds_a_picture(head: TrainedHead, X: Array) -> float:
    times = []
    _, some = next(Rows([X]).blocks())  # in memory: reading is no cost of a head
    for _ in range(_TIMINGS):
        start = time.perf_counter()
        head.predict_proba(some)
        times.append(time.perf_counter() - start)
    return min(times) / len(some)


def _ranking(dataset: str, split: str, fitted: list[_Fitted], notes: list[str], seed: int) -> Ranking:
    titles = told_apart([f.source for f in fitted])
    names = [f"{f.training.kind} on {title}" for f, title in zip(fitted, titles, strict=True)]
    by_name = dict(zip(names, fitted, strict=True))
    renamed = [
        dataclasses.replace(f.measured, head=dataclasses.replace(f.head, name=name)) for name, f in by_name.items()
    ]
    scores = rank(renamed, seed=seed)
    pairs = compare_pairs(scores, with_best=True)
    ties = {scores[0].head} | {pair.b for pair in pairs if pair.p_holm >= ALPHA}
    entries = [_entry(s, by_name[s.head], s.head in ties) for s in scores]
    if len({e.n_train for e in entries}) > 1:
        notes = [*notes, "the stores have different training splits: n_train says how many pictures each head saw"]
    common = [note for note in scores[0].notes if all(note in s.notes for s in scores)]
    return Ranking(
        dataset=dataset,
        split=split,
        n=len(scores[0].correct),
        classes=fitted[0].measured.classes,
        entries=entries,
        pairs=pairs,
        separation=separation(scores[0].correct, scores[1].correct) if len(scores) > 1 else None,
        optimism=winners_optimism(
            np.array([s.accuracy for s in scores]), np.stack([s.drawn["accuracy"] for s in scores], axis=1)
        ),
        notes=[*notes, *common],
    )


def _entry(scores: Scores, fitted: _Fitted, tie: bool) -> Entry:
    info = fitted.source.info
    return Entry(
        name=scores.head,
        kind=fitted.training.kind,
        features=info.spec.title,
        fingerprint=info.spec.fingerprint,
        store=str(fitted.source.store.path),
        params=fitted.training.params,
        cv_accuracy=fitted.training.cv_accuracy,
        n_train=fitted.n_train,
        fit_seconds=fitted.training.seconds,
        predict_microseconds=1e6 * fitted.seconds_a_picture,
        head_bytes=fitted.head_bytes,
        feature_bytes=info.dim * np.dtype(info.dtype).itemsize,
        extract_milliseconds=info.extract_milliseconds,
        engines=sorted({run["engine"] for run in info.provenance if "engine" in run}),
        file=fitted.file,
        scores=scores,
        tie=tie,
    )


def all_kinds(kinds: Sequence[str]) -> list[str]:
    """Return the heads named, each once; ``all`` is every one."""
    return list(HEADS) if "all" in kinds else list(dict.fromkeys(kinds))
