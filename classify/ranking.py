"""Heads on the same pictures, best first, with what each cost and what can be said of their differences."""

import dataclasses
from typing import Any

import numpy as np

from classify.artifact import TrainedHead
from classify.evaluate import Measured, Pair, Scores, compare_pairs, optimism, rank
from classify.sources import Source, told_apart
from classify.statistics import ALPHA, Separation, separation
from classify.training import Training


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
class Contender:
    """A head that was fitted, written, read back and measured; `n_train` pictures taught it."""

    source: Source
    training: Training
    n_train: int
    head: TrainedHead
    head_bytes: int
    file: str
    seconds_a_picture: float
    measured: Measured


def ranking_of(dataset: str, split: str, fitted: list[Contender], notes: list[str], seed: int) -> Ranking:
    """Rank heads that were measured on the same pictures; the seed is of the bootstrap."""
    titles = told_apart([f.source for f in fitted])
    names = [f"{f.training.kind} on {title}" for f, title in zip(fitted, titles, strict=True)]
    by_name = dict(zip(names, fitted, strict=True))
    renamed = [
        dataclasses.replace(f.measured, head=dataclasses.replace(f.head, name=name)) for name, f in by_name.items()
    ]
    scores = rank(renamed, with_best=True, seed=seed)
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
        optimism=optimism(scores),
        notes=[*notes, *common],
    )


def _entry(scores: Scores, fitted: Contender, tie: bool) -> Entry:
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
