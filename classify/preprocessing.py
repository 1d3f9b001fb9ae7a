"""What preprocessing is worth: one sample of pictures, the features of each way to see it, the same folds for all."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from classify.calibration import fit_scale, log_loss
from classify.duplicates import find_copies
from classify.folds import Design
from classify.head import Array, Floats, softmax
from classify.heads import HEADS
from classify.linear import unwarned
from classify.out_of_fold import kept_together
from classify.rows import BLOCK
from classify.selection import settings_of
from classify.statistics import (
    ALPHA,
    Interval,
    Rights,
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_interval,
    pictures_needed,
    wilson_interval,
)
from classify.trials import trials
from data.errors import HeadError
from data.store import FeatureStore, Samples

FOLDS = 5
OWN = "own"
# A way that takes less than this share of the time is worth mentioning, and to be recommended where the 95% interval of
# its difference rules out that it loses more than this.
_CHEAPER = 0.8
_LOSS = 0.02
_ONE_POINT = 0.01


class Tried(Protocol):
    """One way to preprocess whose features are stored; stage one extracts them."""

    @property
    def factor(self) -> str:
        """What is changed; ``own`` where nothing is."""

    @property
    def name(self) -> str:
        """To what."""

    @property
    def flags(self) -> str:
        """The options of `extract` that ask for it."""

    @property
    def fingerprint(self) -> str:
        """Of its features."""

    @property
    def milliseconds(self) -> float | None:
        """What a picture took."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One way to preprocess, measured.

    Parameters
    ----------
    factor, name, flags, fingerprint, milliseconds
        As of `Tried`.
    accuracy : float
        Of logistic regression on pictures that it was not trained on, as `right_out_of_fold` has it.
    interval : tuple of float
        Wilson's 95% interval.
    difference : float
        Of the accuracy from the network's own preprocessing; 0 of itself.
    reach : tuple of float
        The 95% interval of that.
    discordant : float
        Share of pictures that exactly one of the two gets right.
    p_value, p_holm : float or None
        McNemar's exact test against the own one, as it is and with Holm's correction over all ways; None of itself.
    """

    factor: str
    name: str
    flags: str
    fingerprint: str
    milliseconds: float | None
    accuracy: float
    interval: Interval
    difference: float
    reach: Interval
    discordant: float
    p_value: float | None
    p_holm: float | None

    @property
    def as_good(self) -> bool:
        """Whether a loss of more than two points against the own one is ruled out."""
        return self.reach[0] >= -_LOSS

    @property
    def verdict(self) -> str:
        """``own``, ``better``, ``worse`` or ``tie``."""
        if self.p_holm is None:
            return OWN
        if self.p_holm >= ALPHA:
            return "tie"
        return "better" if self.difference > 0 else "worse"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every way to preprocess one sample.

    Parameters
    ----------
    n, n_classes, folds, seed : int
        Pictures that were measured, their classes, and the folds.
    kept_together : int
        Pictures that share their fold with an exact or near copy.
    entries : list of Entry
        The network's own first.
    detectable : float or None
        The smallest difference in accuracy that this sample shows in four of five cases, at the share of discordant
        pictures that was seen; None where not even that share would do.
    pictures_for_one_point : int or None
        Pictures that it would take to show a difference of one point.
    """

    n: int
    n_classes: int
    folds: int
    seed: int
    kept_together: int
    entries: list[Entry]
    detectable: float | None
    pictures_for_one_point: int | None

    @property
    def own(self) -> Entry:
        """The network's own preprocessing."""
        return self.entries[0]

    @property
    def best(self) -> Entry:
        """The way to take: the most accurate of those that are better than the own one, else that."""
        better = [entry for entry in self.entries if entry.verdict == "better"]
        return max(better, key=lambda entry: entry.accuracy, default=self.own)

    def cheaper(self) -> list[Entry]:
        """Return the ways that take less time than the own one, where that is to be kept, and tie with it."""
        most = self.own.milliseconds
        if most is None or self.best is not self.own:
            return []
        return [
            entry
            for entry in self.entries
            if entry.milliseconds is not None and entry.milliseconds < _CHEAPER * most and entry.verdict == "tie"
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as `probe-preprocess --json` prints it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        entries = [{**vars(entry), "verdict": entry.verdict} for entry in self.entries]
        return {**own, "entries": entries, "best": self.best.name, "options": self.best.flags}


def compare_ways(
    store: FeatureStore,
    dataset: str,
    tried: Sequence[Tried],
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure every way on the same folds.

    Exact and near copies of a picture share its fold. The test takes the answers for independent, although their heads
    share training pictures.

    Parameters
    ----------
    store : FeatureStore
        What has the features.
    dataset : str
        The sample, as it calls it.
    tried : sequence of Tried
        The network's own preprocessing first.
    seed : int
        Of the folds.
    on_progress : callable, optional
        Called with the fits done and in all.

    Raises
    ------
    HeadError, StoreError
        If the sample has one class alone, or a way's features are not those of every picture.
    """
    held = store.features()
    samples = store.load(dataset=dataset, spec=held[tried[0].fingerprint].spec).labelled()
    copies = find_copies(samples.X[:], samples.digests)
    sizes = np.bincount(copies.group)[copies.group]
    samples, contents = kept_together(samples, copies.group), samples.digests
    rights: list[Rights] = []
    for number, way in enumerate(tried):
        X = samples.X if not number else store.vectors(way.fingerprint, contents)
        seen = dataclasses.replace(samples, X=X, specs=(held[way.fingerprint].spec,), widths=(X.shape[1],))
        told = None if on_progress is None else _told(on_progress, number, len(tried))
        rights.append(right_out_of_fold(seen, seed, told))
    entries = _entries(tried, rights)
    n, others = len(rights[0]), [entry.discordant for entry in entries[1:]]
    # Holm's first step compares the smallest p-value with alpha over the number of tests
    alpha, share = ALPHA / max(len(others), 1), float(np.median(others)) if others else 0.0
    least = max(share, _ONE_POINT)
    return Comparison(
        n=n,
        n_classes=len(np.unique(samples.y)),
        folds=FOLDS,
        seed=seed,
        kept_together=int((sizes > 1).sum()),
        entries=entries,
        detectable=detectable_difference(n, share, alpha=alpha) if share else None,
        pictures_for_one_point=pictures_needed((least + _ONE_POINT) / 2, (least - _ONE_POINT) / 2, alpha=alpha),
    )


def right_out_of_fold(samples: Samples, seed: int, on_progress: Callable[[int, int], None] | None = None) -> Rights:
    """Return which pictures are right by a logistic regression that was trained on the other folds.

    C is chosen for each fold by the log-loss of the other folds, each held out in its turn. Pictures that cannot be
    held out, being the only content of their class, are left out.

    Parameters
    ----------
    samples : Samples
        n labelled pictures.
    seed : int
        Of the folds.
    on_progress : callable, optional
        Called with the fits done and in all.

    Returns
    -------
    ndarray of shape (m,), bool

    Raises
    ------
    HeadError
        If nothing can be held out.
    """
    design = Design.cross_validation(samples, FOLDS, seed)
    if not design.n_folds:
        raise HeadError(f"no class of {samples.dataset!r} has two pictures: nothing can be held out")
    settings = settings_of("lr", {}, "cv", None)
    heads = [HEADS["lr"](**setting, random_state=seed) for setting in settings]
    total = len(settings) * design.n_folds
    with unwarned(heads[0]):
        tried = trials(
            heads,
            design,
            None,
            kept=slice(None),
            block=BLOCK,
            report=lambda done: on_progress(done, total) if on_progress else None,
        )
    right = np.empty(len(design.held_out), dtype=bool)
    for fold in range(design.n_folds):
        mine = design.fold_of == fold
        others = ~mine if design.n_folds > 1 else mine
        losses = [_loss(trial.scores[others], design.truth[others]) for trial in tried]
        right[mine] = tried[int(np.argmin(losses))].correct[mine]
    return right


def _loss(scores: Floats, truth: Array) -> float:
    """Return the log-loss of scores after temperature scaling."""
    return log_loss(softmax(fit_scale(scores, truth) * scores), truth)


def _told(on_progress: Callable[[int, int], None], number: int, ways: int) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(number * total + done, ways * total)


def _entries(tried: Sequence[Tried], rights: Sequence[Rights]) -> list[Entry]:
    own = rights[0]
    p_values = [mcnemar_exact(right, own) for right in rights[1:]]
    corrected = holm(p_values)
    return [
        Entry(
            way.factor,
            way.name,
            way.flags,
            way.fingerprint,
            way.milliseconds,
            accuracy=float(right.mean()),
            interval=wilson_interval(int(right.sum()), len(right)),
            difference=float(right.mean() - own.mean()),
            reach=paired_interval(int((own & ~right).sum()), int((right & ~own).sum()), len(own)) if i else (0.0, 0.0),
            discordant=float((right != own).mean()),
            p_value=p_values[i - 1] if i else None,
            p_holm=corrected[i - 1] if i else None,
        )
        for i, (way, right) in enumerate(zip(tried, rights, strict=True))
    ]
