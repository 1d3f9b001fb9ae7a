"""Frozen features against fine-tuning: strategies on the same pictures, ranked, tested in pairs, and their cost."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from classify.advise import Advice
from classify.selection import train
from classify.sources import Source
from classify.statistics import ALPHA, Interval, Rights, holm, mcnemar_exact, wilson_interval
from data.errors import HeadError, TrainingError
from data.spec import FeatureSpec
from data.store import FeatureStore

# Heads on frozen features, and the modes of `finetune`; a frozen one is called by its head.
FROZEN = ("lr", "svm", "mlp", "head2toe")
TRAINED = ("head", "partial", "full", "lp-ft", "scratch")
STRATEGIES = (*FROZEN, *TRAINED)


@dataclasses.dataclass(frozen=True)
class Run:
    """One strategy with one seed.

    Parameters
    ----------
    strategy : str
        Of `STRATEGIES`.
    seed : int
    right : ndarray of shape (n,), bool
        Which of the measured pictures it classifies rightly.
    seconds : float
        From the files: computing features, where it uses them, fitting or training, measuring.
    cost : float
        Pictures that went once, forward, through the whole network; a step of training counts as three.
    notes : tuple of str
        What the user should know.
    """

    strategy: str
    seed: int
    right: Rights
    seconds: float
    cost: float
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())


@dataclasses.dataclass(frozen=True)
class Entry:
    """One strategy in a contest, over all seeds.

    Parameters
    ----------
    strategy : str
    runs : tuple of Run
        One for each seed.
    interval : tuple of float
        Wilson's, of the mean accuracy on n pictures.
    p_value, p_holm : float or None
        Of being as good as the best, by McNemar's exact test on the answers of the first seed, as it is and with
        Holm's correction over the strategies; None of the best itself.
    wins : int
        Seeds with which no other strategy was more accurate.
    behind : bool
        Whether it has fewer right answers than the best with the first seed, which the test is about, too.
    """

    strategy: str
    runs: tuple[Run, ...]
    interval: Interval
    p_value: float | None
    p_holm: float | None
    wins: int
    behind: bool

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([run.accuracy for run in self.runs]))

    @property
    def verdict(self) -> str:
        """``best``, ``tie`` with it, or ``worse``."""
        if self.p_holm is None:
            return "best"
        return "worse" if self.p_holm < ALPHA and self.behind else "tie"

    @property
    def seconds(self) -> float:
        """Median over the seeds."""
        return float(np.median([run.seconds for run in self.runs]))

    @property
    def cost(self) -> float:
        """Median over the seeds."""
        return float(np.median([run.cost for run in self.runs]))

    def as_json(self) -> dict[str, Any]:
        """Return the entry as `compare --strategies --json` prints it."""
        return {
            "strategy": self.strategy,
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.interval),
            "seeds": [{"seed": run.seed, "accuracy": run.accuracy} for run in self.runs],
            "wins": self.wins,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 2),
            "cost": round(self.cost, 1),
            "notes": sorted({note for run in self.runs for note in run.notes}),
        }


@dataclasses.dataclass(frozen=True)
class Contest:
    """All strategies on one image set in one colour mode, best first.

    Parameters
    ----------
    dataset, color, backbone, split : str
        What was measured on.
    n, n_train, n_classes : int
    entries : list of Entry
    refused : dict of str to str
        Why strategies are not among them.
    """

    dataset: str
    color: str
    backbone: str
    split: str
    n: int
    n_train: int
    n_classes: int
    entries: list[Entry]
    refused: dict[str, str]

    def best_of(self, strategies: Sequence[str]) -> Entry | None:
        """Return the best of some strategies; None where none was run."""
        return next((entry for entry in self.entries if entry.strategy in strategies), None)

    def as_json(self) -> dict[str, Any]:
        """Return the contest as `compare --strategies --json` prints it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**own, "entries": [entry.as_json() for entry in self.entries]}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One strategy with and without colour, on the same pictures.

    Parameters
    ----------
    dataset, strategy : str
    rgb, gray : float
        Mean accuracies.
    p_value, p_holm : float
        McNemar's exact test on the answers of the first seed, as it is and with Holm's correction over all of them.
    """

    dataset: str
    strategy: str
    rgb: float
    gray: float
    p_value: float
    p_holm: float


def frozen_run(
    store: FeatureStore, dataset: str, specs: Sequence[FeatureSpec], strategy: str, split: str, seed: int
) -> Run:
    """Fit a head on stored features of the training pictures and measure it.

    Parameters
    ----------
    store : FeatureStore
        What has them.
    dataset, split : str
        The image set, and what to measure on.
    specs : sequence of FeatureSpec
        The features: one, or for ``head2toe`` those of every stage.
    strategy : str
        Of `FROZEN`.
    seed : int
        Of the folds and the head.
    """
    if strategy not in FROZEN:
        raise HeadError(f"{strategy!r} is no head on frozen features: use {', '.join(FROZEN)}")
    began = time.perf_counter()
    samples = store.load("train", dataset=dataset, spec=specs).labelled()
    measured = store.load(split, dataset=dataset, spec=specs).labelled()
    training = train(strategy, samples, seed=seed)
    answers = training.head.predict_proba(training.scaler.transform(measured.X)).argmax(axis=1)
    fitting = time.perf_counter() - began
    pictures = len(samples) + len(measured)
    held = store.features()
    extracting = [held[spec.fingerprint].extract_milliseconds for spec in specs]
    # layers of one pass share its time: the slowest of them is the pass
    known = [milliseconds for milliseconds in extracting if milliseconds is not None]
    notes = () if known else ("the time of extraction is not known: this store was made by an older Penult",)
    seconds = fitting + max(known, default=0.0) / 1000 * pictures
    return Run(strategy, seed, answers == measured.y, seconds, float(pictures), notes)


class Rivals(Protocol):
    """Gives a contest its features and its fine-tuned networks: `finetune.rivals.Rivals`."""

    def features(self, color: str, every_stage: bool) -> list[FeatureSpec]:
        """Return the specs of stored features, the penultimate ones first."""

    def train(self, mode: str, color: str, seed: int) -> Any:
        """Fine-tune; the result has `right`, `cost`, `seconds` and `saved_seconds`: those of earlier runs."""


def hold_contests(
    source: Source,
    rivals: Rivals,
    strategies: Sequence[str],
    colors: Sequence[str],
    split: str,
    seeds: Sequence[int],
    told: Callable[[str], None] | None = None,
) -> list[Contest]:
    """Run every strategy on one image set, in each colour mode, with every seed.

    Parameters
    ----------
    source : Source
        The image set and the network.
    rivals : Rivals
        What trains.
    strategies, colors : sequence of str
        Of `STRATEGIES`; colour modes.
    split : str
        To measure on.
    seeds : sequence of int
    told : callable, optional
        Told what begins, in words.

    Raises
    ------
    HeadError
        If no strategy could be run.
    """
    store, dataset = source.store, source.dataset
    contests = []
    for color in colors:
        specs = rivals.features(color, "head2toe" in strategies)
        runs: list[Run] = []
        refused: dict[str, str] = {}
        for seed, strategy in itertools.product(seeds, strategies):
            if told:
                told(f"{strategy} on {dataset}, {color}, seed {seed}")
            try:
                if strategy in FROZEN:
                    some = specs if strategy == "head2toe" else specs[:1]
                    runs.append(frozen_run(store, dataset, some, strategy, split, seed))
                else:
                    tuned = rivals.train(strategy, color, seed)
                    seconds = tuned.seconds + tuned.saved_seconds
                    runs.append(Run(strategy, seed, tuned.right, seconds, tuned.cost))
            except (HeadError, TrainingError) as error:
                refused[strategy] = str(error)
        kept = [run for run in runs if run.strategy not in refused]
        if not kept:
            raise HeadError(f"no strategy could be run on {dataset}: {next(iter(refused.values()), 'none was named')}")
        contests.append(
            Contest(
                dataset=dataset,
                color=color,
                backbone=source.info.spec.backbone,
                split=split,
                n=len(kept[0].right),
                n_train=store.splits(dataset)["train"],
                n_classes=len(store.view(dataset).classes),
                entries=rank_runs(kept),
                refused=refused,
            )
        )
    return contests


def rank_runs(runs: Sequence[Run]) -> list[Entry]:
    """Return the strategies, best first, from their runs on one image set in one colour mode."""
    strategies = list(dict.fromkeys(run.strategy for run in runs))
    of = {name: tuple(run for run in runs if run.strategy == name) for name in strategies}
    mean = {name: float(np.mean([run.accuracy for run in mine])) for name, mine in of.items()}
    order = sorted(strategies, key=lambda name: (-mean[name], STRATEGIES.index(name)))
    p_values = [mcnemar_exact(of[order[0]][0].right, of[name][0].right) for name in order[1:]]
    corrected = holm(p_values)
    seeds = {run.seed for run in runs}
    highest = {seed: max(run.accuracy for run in runs if run.seed == seed) for seed in seeds}
    n = len(runs[0].right)
    return [
        Entry(
            strategy=name,
            runs=of[name],
            interval=wilson_interval(round(mean[name] * n), n),
            p_value=p_values[i - 1] if i else None,
            p_holm=corrected[i - 1] if i else None,
            wins=sum(run.accuracy == highest[run.seed] for run in of[name]),
            behind=of[name][0].accuracy < of[order[0]][0].accuracy,
        )
        for i, name in enumerate(order)
    ]


def colour_differences(contests: Sequence[Contest]) -> list[Difference]:
    """Return what colour is worth to each strategy, where a set was measured with and without it."""
    found = []
    for one in contests:
        for other in contests:
            if (one.dataset, one.color, other.color) != (other.dataset, "rgb", "gray"):
                continue
            gray = {entry.strategy: entry for entry in other.entries}
            found += [
                Difference(
                    one.dataset,
                    entry.strategy,
                    entry.accuracy,
                    gray[entry.strategy].accuracy,
                    mcnemar_exact(entry.runs[0].right, gray[entry.strategy].runs[0].right),
                    1.0,
                )
                for entry in one.entries
                if entry.strategy in gray
            ]
    adjusted = holm([difference.p_value for difference in found])
    return [dataclasses.replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The advice for an image set, and what came of it.

    Parameters
    ----------
    dataset, strategy, sentence : str
        What `advise` says.
    expected : float
        Gain of fine-tuning that it expects, in accuracy points.
    interval : tuple of float
        Its 80% interval.
    measured : float or None
        The best fine-tuning less the best frozen head on penultimate features, in points; None where one is missing.
    kept : bool or None
        Whether that lies inside the interval.
    ties : bool or None
        Whether the strategy that was advised is the best here or ties with it; None where it was not run.
    """

    dataset: str
    strategy: str
    sentence: str
    expected: float
    interval: Interval
    measured: float | None
    kept: bool | None
    ties: bool | None


def judge_advice(advice: Advice, contest: Contest) -> Judgement:
    """Score what `classify.advise.advise` said before, from the training pictures alone."""
    frozen = contest.best_of(("lr", "svm", "mlp"))
    tuned = contest.best_of(("head", "partial", "full", "lp-ft"))
    measured = 100 * (tuned.accuracy - frozen.accuracy) if frozen and tuned else None
    low, high = advice.gain.interval
    names = ("lr", "svm", "mlp") if advice.strategy == "frozen" else (advice.strategy,)
    asked = contest.best_of(names)
    return Judgement(
        dataset=contest.dataset,
        strategy=advice.strategy,
        sentence=advice.sentence,
        expected=float(advice.gain.points),
        interval=(float(low), float(high)),
        measured=measured,
        kept=None if measured is None else bool(low <= measured <= high),
        ties=None if asked is None else asked.verdict != "worse",
    )
