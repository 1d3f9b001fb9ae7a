"""Everything that a report says, measured: heads, labels, copies, a learning curve, a map, the advice."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from classify.advise import Advice, advise
from classify.artifact import TrainedHead
from classify.audit import Audit, splits_of
from classify.duplicates import find_copies
from classify.evaluate import Asked, Pair, Scores, ask, compare_pairs, rank
from classify.extrapolate import Extrapolation, extrapolate
from classify.heads import GIVEN, HEADS
from classify.page.feature_map import FeatureMap, check_maps, draw_maps
from classify.probing import Original
from classify.protocols import Protocol, learning_curve
from classify.statistics import Separation, separation
from data.errors import PenultError
from data.spec import Source
from data.store import FeatureStore, Samples

# Kinds that are fitted in a moment, and so may be fitted twenty times for a curve or an audit.
_QUICK = ("lr", "svm", "ridge", "lda", "centroid")
# More pictures than these are not compared with each other: the search takes the square of their number.
_AUDIT_MOST = 30_000
# More pictures are not drawn on a map; which ones, a seed decides, and mistakes are always among them.
MAP_MOST = {"pca": 5000, "tsne": 3000, "umap": 5000}
# Of the learning curve; a short one needs more sizes to be led on.
_SIZES, _SIZES_OF_FEW, _FEW, _REPEATS = 6, 7, 1000, 3

# Bytes; vectors that take more than half stay in the store until some are drawn, and no learning curve is measured and
# no label looked at.
_MEMORY = 1 << 30

OnStage = Callable[[str], None]
OnProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Question:
    """What a report is asked about.

    Parameters
    ----------
    store : FeatureStore
        The pictures; its corrections count.
    heads : list of TrainedHead
        Of the same classes.
    originals : callable
        As `classify.advise.advise` takes it.
    split, dataset : str, optional
        What to measure on; see `classify.evaluate.evaluate`.
    maps : list of str
        Keys of `classify.page.feature_map.MAPS`.
    quick : bool
        Leave out audit, learning curve and advice.
    seed : int
        Of the bootstrap, folds, draws and maps.
    """

    store: FeatureStore
    heads: list[TrainedHead]
    originals: Callable[[Source, Sequence[str]], Original]
    split: str | None = None
    dataset: str | None = None
    maps: list[str] = dataclasses.field(default_factory=lambda: ["pca"])
    quick: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was found; what was not looked at is None, and `notes` say why.

    Parameters
    ----------
    asked : Asked
        The heads' answers, in the order of `scores`.
    scores : list of Scores
        The best first.
    pairs : list of Pair
        Every two heads.
    separation : Separation or None
        What it takes to tell the two best apart.
    audit : dict or None
        See `classify.audit.Audit.run`.
    curve : tuple or None
        Number of the head, its learning curve, and where that leads.
    maps : list of tuple of FeatureMap and list of str
        With the paths of their pictures.
    advice : Advice or None
    notes : list of str
        What qualifies all of it.
    """

    asked: Asked
    scores: list[Scores]
    pairs: list[Pair]
    separation: Separation | None
    audit: dict[str, Any] | None
    curve: tuple[int, Protocol, Extrapolation] | None
    maps: list[tuple[FeatureMap, list[str]]]
    advice: Advice | None
    notes: list[str]

    @property
    def dataset(self) -> str:
        """Name of the image set."""
        return self.asked.samples.dataset


def find(question: Question, on_stage: OnStage, on_progress: OnProgress) -> Findings:
    """Measure everything.

    Parameters
    ----------
    question : Question
    on_stage : callable
        Called with what is counted next.
    on_progress : callable
        Called with the number done and in all.

    Raises
    ------
    PenultError
        If the heads cannot be measured; what else cannot be done is left out, with a note.
    """
    check_maps(question.maps)
    on_stage("heads")
    asked = ask(question.heads, question.store, question.split, dataset=question.dataset)
    scores = rank(asked.measured, seed=question.seed)
    order = [[m.head.name for m in asked.measured].index(s.head) for s in scores]
    asked = dataclasses.replace(asked, measured=[asked.measured[i] for i in order])
    heads = [m.head for m in asked.measured]
    notes = list(asked.notes)
    whole, params, kind = _whole(question, asked, heads)
    audit = curve = advice = None
    if not question.quick:
        audit = _audited(question, whole, kind, params, notes, on_stage, on_progress)
        curve = _curve(question, asked, heads, notes, on_stage, on_progress)
        advice = _advised(question, asked, notes, on_stage, on_progress)
    on_stage("maps")
    missed = set(np.flatnonzero(~scores[0].correct).tolist())
    missed_paths = {path for i, path in enumerate(asked.samples.paths) if i in missed}
    return Findings(
        asked=asked,
        scores=scores,
        pairs=compare_pairs(scores),
        separation=separation(scores[0].correct, scores[1].correct) if len(scores) > 1 else None,
        audit=audit,
        curve=curve,
        maps=[_map(whole, kind_of_map, missed_paths, question.seed) for kind_of_map in dict.fromkeys(question.maps)],
        advice=advice,
        notes=notes,
    )


def settings(head: TrainedHead) -> dict[str, Any]:
    """Return the parameters of a head that may be set, as it was trained with."""
    params = {k: tuple(v) if isinstance(v, list) else v for k, v in head.info["params"].items()}
    return {k: v for k, v in params.items() if k not in GIVEN}


def _whole(question: Question, asked: Asked, heads: list[TrainedHead]) -> tuple[Samples, dict[str, Any] | None, str]:
    """Return all pictures with one kind of features, and the kind and parameters of a quick head on these.

    They are those of the best head whose features every picture has; else the measured pictures alone.
    """
    for head in sorted(heads, key=lambda h: h.kind not in _QUICK or len(h.specs) > 1):
        try:
            samples = question.store.load(dataset=asked.samples.dataset, spec=head.specs[-1:], memory=_MEMORY)
        except PenultError:  # a fine-tuned network has seen the measured pictures alone
            continue
        known = head.kind in _QUICK and len(head.specs) == 1 and head.classes == samples.classes
        return samples, settings(head) if known else None, head.kind if known else "ridge"
    return heads[-1].samples(question.store, asked.samples.split, asked.samples.dataset), None, "ridge"


def _audited(
    question: Question,
    whole: Samples,
    kind: str,
    params: dict[str, Any] | None,
    notes: list[str],
    on_stage: OnStage,
    on_progress: OnProgress,
) -> dict[str, Any] | None:
    if len(whole) > _AUDIT_MOST or not whole.held:
        notes.append(f"labels and copies of {len(whole):,} pictures were not looked at here: `audit` does")
        return None
    whole = dataclasses.replace(whole, widths=(whole.X.shape[1],), specs=whole.specs[-1:])
    on_stage("pictures compared")
    copies = find_copies(whole.X, whole.digests, on_progress)
    splits = splits_of(whole, question.store.view(whole.dataset))
    on_stage("fits of the audit")
    try:
        return Audit(whole, splits, copies, kind, seed=question.seed, brief=True).run(None, on_progress, params)
    except PenultError as error:
        notes.append(f"labels and copies were not looked at: {error}")
        return None


def _curve(
    question: Question,
    asked: Asked,
    heads: list[TrainedHead],
    notes: list[str],
    on_stage: OnStage,
    on_progress: OnProgress,
) -> tuple[int, Protocol, Extrapolation] | None:
    """Train one head, the best that is trained in a moment, on growing parts of what it was trained on."""
    fitted = [i for i, head in enumerate(heads) if head.kind in HEADS]
    quick = [i for i in fitted if heads[i].kind in _QUICK] or fitted
    if not quick:
        notes.append("a learning curve needs a head that `fit` trained")
        return None
    head = heads[quick[0]]
    trained = head.info["trained_on"]
    on_stage("trainings of the learning curve")
    try:
        samples = question.store.load(
            trained["split"], dataset=trained["dataset"], spec=head.specs, memory=_MEMORY
        ).labelled()
        if not samples.held:
            notes.append(f"no learning curve of {len(samples):,} pictures here: `fit --curve` measures it")
            return None
        measured = head.samples(question.store, asked.samples.split, asked.samples.dataset)
        protocol = learning_curve(
            head.kind,
            samples,
            measured,
            sizes=_SIZES_OF_FEW if len(samples) < _FEW else _SIZES,
            repeats=_REPEATS,
            tune="none",
            params=settings(head),
            class_weight=head.info["params"].get("class_weight"),
            seed=question.seed,
            on_progress=on_progress,
        )
    except PenultError as error:
        notes.append(f"no learning curve: {error}")
        return None
    found = extrapolate([p.n_train for p in protocol.points], [p.right for p in protocol.points], seed=question.seed)
    return quick[0], protocol, found


def _advised(
    question: Question, asked: Asked, notes: list[str], on_stage: OnStage, on_progress: OnProgress
) -> Advice | None:
    on_stage("measurements for the advice")
    try:
        return advise(
            question.store,
            question.originals,
            dataset=asked.samples.dataset,
            seed=question.seed,
            on_progress=on_progress,
        )
    except PenultError as error:
        notes.append(f"no advice: {error}")
        return None


def _map(whole: Samples, kind: str, missed: set[str], seed: int) -> tuple[FeatureMap, list[str]]:
    """Lay pictures out on a plane: all, or as many as the kind allows, those that were missed among them."""
    paths, most = list(whole.paths), MAP_MOST[kind]
    rows = np.random.default_rng(seed).permutation(len(whole))
    first = np.array([paths[i] in missed for i in rows.tolist()], dtype=bool)
    rows = np.sort(np.concatenate([rows[first], rows[~first]])[:most])
    (found,) = draw_maps(whole.take(rows).X[:], [kind], seed)
    return found, [paths[i] for i in rows.tolist()]
