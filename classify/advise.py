"""Which strategy suits an image set: stay frozen, take earlier layers, or fine-tune; from the training split alone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from classify.extrapolate import Slope
from classify.probing import FOLDS, PENULTIMATE, TOGETHER, Backbone, Original, draw, measure, slope_of
from classify.prospects import COVERAGE, MACS, Gain, Price, expected_gain, price
from classify.protocols import distinct
from classify.similarity import FAR, NEAR, UNCLEAR, Evidence, judge, verdict
from classify.sources import covering
from classify.statistics import ALPHA
from data.choice import family_of, layer_order
from data.errors import HeadError, StoreError
from data.spec import FeatureSpec, Source
from data.store import FeatureStore, Samples

# Pictures of each class. ImageNet-1k, on which the networks were made, has 732 to 1,300 of each.
FEW, MANY = 100, 1000
_MEMORY = 1 << 30  # bytes; vectors that take more than half stay in the store until some are drawn
_LAST_OVER_EARLIER = "last layer over the best earlier, points"
_WORTH_IT = 1.0  # percentage points; where even the upper end is less, a training is not worth its time


@dataclasses.dataclass(frozen=True)
class Advice:
    """Everything that `advise` says of one image set.

    Parameters
    ----------
    dataset : str
        Its name.
    pictures, measured_on : int
        Training pictures, and on how many of them things were measured.
    per_class : dict of str to int
        Distinct training pictures of each class.
    size : str
        ``few``, ``medium`` or ``many`` pictures of the median class.
    similarity : str
        ``near``, ``far`` or ``unclear``.
    case : str
        Of the four, in words.
    evidence : list of Evidence
        For the similarity, of the best network.
    backbones : list of Backbone
        The best first, by accuracy on pictures left out.
    slope : Slope or None
        Of the learning curve; None where there are too few pictures.
    strategy : str
        ``frozen``, ``head2toe``, ``lp-ft``, ``partial`` or ``full``.
    sentence, why : str
        The advice, and its reason.
    gain : Gain
        What fine-tuning may add.
    price : Price or None
        What it costs; None where the network's size is not known.
    unknown : list of str
        What this does not know.
    """

    dataset: str
    pictures: int
    measured_on: int
    per_class: dict[str, int]
    size: str
    similarity: str
    case: str
    evidence: list[Evidence]
    backbones: list[Backbone]
    slope: Slope | None
    strategy: str
    sentence: str
    why: str
    gain: Gain
    price: Price | None
    unknown: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the advice as `advise --json` prints it."""
        return dataclasses.asdict(self)


def advise(
    store: FeatureStore,
    originals: Callable[[Source, Sequence[str]], Original],
    *,
    dataset: str | None = None,
    features: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Advice:
    """Say which strategy suits an image set, by what its training split shows; no other split is read.

    Parameters
    ----------
    store : FeatureStore
        With the penultimate features of one network or several, and best with all their stages.
    originals : callable
        Takes a source of penultimate features and the classes, and returns what is known of the network.
    dataset : str, optional
        Name of the image set, where the store has several.
    features : str, optional
        A network, or a fingerprint; without it all networks are compared, and the best one is advised on.
    seed : int
        Of the draw of pictures and of the folds.
    on_progress : callable, optional
        Called with the number of measurements done and in all.

    Raises
    ------
    StoreError
        If the store has no such image set or features, no training split, or no penultimate features.
    HeadError
        If the training split has fewer than two classes.
    """
    families = _families(store, dataset, features)
    steps = sum(len(specs) + (len(specs) > 1) for specs in families) + FOLDS
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, steps)

    found, every = [], None
    for specs in families:
        samples = store.load("train", dataset=dataset, spec=specs, memory=_MEMORY).labelled()
        every = every or samples
        if len(np.unique(samples.y)) < 2:
            raise HeadError(
                f"the training split of {samples.dataset!r} has {len(np.unique(samples.y))} class: a strategy is for "
                "telling two or more apart"
            )
        drawn = draw(samples, seed)
        source = store.features()[specs[-1].fingerprint].source
        found.append(measure(drawn, originals(source, samples.classes), report))
    assert every is not None
    found.sort(key=lambda one: (-one[0].penultimate.accuracy, -one[0].scores.log_me))
    _, last, alpha = found[0]
    slope = slope_of(last, alpha, seed, report)
    return _decide(every, [backbone for backbone, *_ in found], len(last), slope)


def _families(store: FeatureStore, dataset: str | None, features: str | None) -> list[list[FeatureSpec]]:
    """Return the layers of each network that every picture has, the penultimate one last."""
    view = store.view(dataset)
    families: dict[FeatureSpec, list[FeatureSpec]] = {}
    wanted = set()
    for source in covering([store], view.name, kept=True):
        info = source.info
        if info.spec.is_activations:
            continue
        family = family_of(info.spec)
        families.setdefault(family, []).append(info.spec)
        if not info.kept and (features is None or info.is_called(features)):  # what is kept adds layers, no network
            wanted.add(family)
    whole = [sorted(f, key=layer_order) for f in families.values() if any(s.layer == PENULTIMATE for s in f)]
    chosen = [specs for specs in whole if family_of(specs[-1]) in wanted]
    centre = [specs for specs in chosen if specs[-1].view == "center"] or chosen
    if centre:
        return centre
    held = ", ".join(sorted({specs[-1].title for specs in whole})) or "none"
    raise StoreError(
        f"{store.path} holds no penultimate features{f' {features!r}' if features else ''} of every picture of "
        f"{view.name!r} (it holds: {held}), and advice starts from them: extract them, best with --layers all-stages "
        "penultimate"
    )


def _decide(samples: Samples, backbones: list[Backbone], measured_on: int, slope: Slope | None) -> Advice:
    """Put together what was measured, and say what to do."""
    best = backbones[0]
    counts = np.bincount(samples.y[distinct(samples)], minlength=len(samples.classes))
    median = float(np.median(counts))
    size = "few" if median < FEW else "medium" if median < MANY else "many"
    evidence = [*_layer_evidence(best), *judge(best.answers, len(samples.classes))]
    similarity = verdict(evidence)
    right = round(best.penultimate.accuracy * measured_on)
    gain = expected_gain(right, measured_on, None if similarity == UNCLEAR else similarity == NEAR)
    macs = best.macs or MACS.get(best.network)
    strategy, sentence, why = _strategy(size, similarity, best, gain)
    return Advice(
        dataset=samples.dataset,
        pictures=len(samples),
        measured_on=measured_on,
        per_class=dict(zip(samples.classes, counts.tolist(), strict=True)),
        size=size,
        similarity=similarity,
        case=_case(size, similarity),
        evidence=evidence,
        backbones=backbones,
        slope=slope,
        strategy=strategy,
        sentence=sentence,
        why=why,
        gain=gain,
        price=price(len(samples), macs) if macs else None,
        unknown=_unknown(best, len(backbones), size, slope, evidence, bool(macs)),
    )


def _layer_evidence(backbone: Backbone) -> list[Evidence]:
    """Return what the layers say: features are near where the last ones are the best, and far where more help."""
    what, rule = _LAST_OVER_EARLIER, f"near if better, p < {ALPHA}"
    others = [layer for layer in backbone.layers if layer.name not in (PENULTIMATE, TOGETHER)]
    if not others:
        return [Evidence(what, None, UNCLEAR, "not known: extract --layers all-stages penultimate")]
    last, earlier = backbone.penultimate, max(others, key=lambda layer: layer.accuracy)
    together = next(layer for layer in backbone.layers if layer.name == TOGETHER)
    gap, more = (100 * (a - b) for a, b in ((last.accuracy, earlier.accuracy), (together.accuracy, last.accuracy)))
    sure, sure_more = (p is not None and p < ALPHA for p in (earlier.p_value, together.p_value))
    return [
        Evidence(what, gap, NEAR if sure and gap > 0 else FAR if sure else UNCLEAR, f"{rule}; far if worse"),
        Evidence(
            "all layers over the last, points",
            more,
            FAR if sure_more and more > 0 else UNCLEAR,
            f"far if better, p < {ALPHA}",
        ),
    ]


def _case(size: str, similarity: str) -> str:
    """Return the case of the rule of four, by size and similarity."""
    pictures = {"few": "a small set", "medium": "a set of medium size", "many": "a large set"}[size]
    distance = {NEAR: "near to the pretraining data", FAR: "far from the pretraining data"}
    return (
        f"{pictures}, {distance.get(similarity, 'neither clearly near to nor clearly far from the pretraining data')}"
    )


def _strategy(size: str, similarity: str, best: Backbone, gain: Gain) -> tuple[str, str, str]:
    """Return the strategy, the advice in a sentence, and why."""
    together = next((layer for layer in best.layers if layer.name == TOGETHER), None)
    more = together and together.p_value is not None and together.p_value < ALPHA
    more = bool(more and together and together.accuracy > best.penultimate.accuracy)
    if gain.interval[1] < _WORTH_IT:
        return (
            "frozen",
            "Stay frozen: `fit --head lr` is enough, and fine-tuning has next to nothing to win.",
            f"even the upper end of what it may add is {gain.interval[1]:.1f} points",
        )
    if similarity == NEAR and size != "many":
        return (
            "frozen",
            "Stay frozen: `fit --head lr`; if a point matters, try `finetune --mode lp-ft` and let `eval` compare.",
            "the pictures are like those the network was made on, and few pictures are soon overfitted",
        )
    if similarity == NEAR:
        return (
            "lp-ft",
            "Fine-tune from the frozen head: `finetune --mode lp-ft`.",
            "the set is large enough to fine-tune, and its pictures so like ImageNet's that the features should bend "
            "little: a fitted head protects them (Kumar et al. 2022)",
        )
    if similarity == FAR and size != "many":
        network = best.network.split("/")[-1]
        cheap = f"`fit --head head2toe --features {network}/all-stages` first, then "
        why = "the last features were made for other pictures"
        if together is None:
            cheap = f"`extract --layers all-stages penultimate` and {cheap}"
        elif more:
            why = f"all layers side by side give {100 * (together.accuracy - best.penultimate.accuracy):+.1f} points"
        else:
            cheap = ""
        return (
            "head2toe" if more else "partial",
            f"Go back to earlier layers: {cheap}`finetune --mode partial`, with the first stages frozen.",
            f"{why}, and the set is too small to train everything",
        )
    if similarity == FAR:
        return (
            "full",
            "Fine-tune everything: `finetune --mode full`; `--mode scratch` is worth a comparison.",
            "the set is large, and its pictures are unlike those the network was made on",
        )
    if size == "many":
        return (
            "lp-ft",
            "Fine-tune from the frozen head: `finetune --mode lp-ft`.",
            "the set is large enough, whatever its similarity",
        )
    return (
        "frozen",
        "Start frozen with `fit --head lr`, then let `finetune --mode partial` show whether more is to be had.",
        "the set is small, and how near it is to the pretraining data could not be told",
    )


def _unknown(
    best: Backbone, n_networks: int, size: str, slope: Slope | None, evidence: Sequence[Evidence], priced: bool
) -> list[str]:
    """Return what a reader must not take from this, the most important first."""
    lines = [
        "Whether fine-tuning pays here: no network was trained. The gain is what it was for others, with larger "
        f"networks and well-chosen learning rates; one set in {round(1 / (1 - COVERAGE))} at least falls outside the "
        "interval."
    ]
    if size == "many":
        lines.append("The published pairs have about 1,000 training pictures; with more, fine-tuning gains more.")
    if any(e.what == _LAST_OVER_EARLIER and e.value is None for e in evidence):
        lines.append(
            "Whether earlier layers would do better: the store has the penultimate one alone; `extract IMAGES -o STORE "
            "--layers all-stages penultimate` tells."
        )
    if best.answers is None:
        lines.append("What the original classifier makes of the pictures: its last layer is not at hand.")
    else:
        lines.append(
            "Similarity itself: confidence, entropy and nearest class come from one classifier and err together; small "
            "or blurred pictures of familiar things look far."
        )
        if best.network != "timm/tf_efficientnet_lite0":
            lines.append(
                f"Whether the thresholds suit {best.network}: they were measured with efficientnet_lite0, and networks "
                "trained with label smoothing are less sure of everything."
            )
    if slope is None:
        lines.append("What more pictures would give: there are too few to leave some out.")
    if n_networks == 1:
        lines.append(
            "Whether another network would do better: the store has one, and LogME, H-score, LEEP and NCE rank "
            "several; `extract IMAGES -o STORE --backbone NAME` adds one."
        )
    if not priced:
        lines.append("The price: the network's multiply-adds are not known here; the extra `extract` counts them.")
    lines.append("The test split: it was not read. Measure the choice there once, with `eval`.")
    return lines
