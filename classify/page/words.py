"""A report in sentences: which head is best, by how much, whether that is real, and what to look at next."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from classify.calibration import error_by_chance
from classify.evaluate import Pair, Scores, optimism
from classify.head import Floats
from classify.page.findings import Findings
from classify.statistics import ALPHA

# A calibration error beyond this, and beyond chance, is worth a sentence: probabilities are then wrong by three points
# on average.
_TRUSTED = 0.03
# So is what the choice among several heads owes to the measured pictures, from a tenth of a point on.
_FLATTERED = 0.001


def headline(found: Findings, names: Sequence[str]) -> list[str]:
    """Return the result in one sentence or a few.

    Parameters
    ----------
    found : Findings
    names : sequence of str
        Of the heads, the best first.
    """
    best = found.scores[0]
    n = len(best.correct)
    low, high = best.accuracy_ci95
    split = found.asked.samples.split or "all"
    lines = [
        f"{names[0]} is right on {best.accuracy:.1%} of {n:,} {split} pictures; with other pictures like these, "
        f"between {low:.1%} and {high:.1%}."
    ]
    if len(found.scores) > 1:
        lines += _against_others(found, names)
    flattery = optimism(found.scores)
    if flattery >= _FLATTERED:
        lines.append(
            f"Being the best of {len(found.scores)} heads on these very pictures flatters it by about "
            f"{100 * flattery:.1f} points."
        )
    return lines


def _against_others(found: Findings, names: Sequence[str]) -> list[str]:
    best, others = found.scores[0], found.scores[1:]
    ties = [names[i] for i, s in enumerate(others, 1) if tied(found.pairs, best.head, s.head)]
    second = names[1]
    gap = 100 * (best.accuracy - others[0].accuracy)
    ahead = f"{gap:.1f} points ahead of {second}" if gap else f"as often right as {second}"
    p = next(pair.p_holm for pair in found.pairs if {pair.a, pair.b} == {best.head, others[0].head})
    if not ties:
        return [f"It is {ahead}, and the difference is real (McNemar's exact test, {_p(p)})."]
    needed = found.separation.pictures if found.separation else None
    more = f" About {_round(needed):,} test pictures would tell the two apart." if needed and gap else ""
    if len(ties) == len(others):
        every = f"all {len(others) + 1} heads tie" if len(others) > 1 else "the two tie"
        chance = f", which chance could do ({_p(p)})" if gap else ""
        return [f"It is {ahead}{chance}: {every}.{more}"]
    tell = f"it ties with {_listed(ties)}, and is better than the other {_number(len(others) - len(ties))}"
    chance = f" ({_p(p)})" if gap else ""
    return [f"It is {ahead}{chance}: {tell}.{more}"]


def tied(pairs: Sequence[Pair], a: str, b: str) -> bool:
    """Whether the test cannot tell two heads apart."""
    return next(pair.p_holm for pair in pairs if {pair.a, pair.b} == {a, b}) >= ALPHA


def next_steps(found: Findings, gone: int) -> list[dict[str, str]]:
    """Return what is worth a look, each with the section that shows it, the most useful first."""
    best = found.scores[0]
    steps = [
        *_audit_steps(found.audit),
        *_class_steps(best, found.asked.classes),
        *_curve_steps(found),
        *_calibration_step(best, found.asked.measured[0].probabilities),
    ]
    if found.advice:
        steps.append(_step(found.advice.sentence.replace("`", ""), "advice"))
    if gone:
        steps.append(_step(f"{gone:,} pictures are gone or have changed since, and have no thumbnail here.", "data"))
    return steps


def _step(text: str, section: str) -> dict[str, str]:
    return {"text": text, "section": section}


def _audit_steps(audit: dict[str, Any] | None) -> list[dict[str, str]]:
    if audit is None:
        return []
    steps, copies = [], audit["duplicates"]
    across, two = copies["across_splits"], copies["under_two_labels"]
    if across:
        leak = audit["leak"]
        without = leak["accuracy_without"] if leak else None
        cost = ""
        if without is not None:
            gain = 100 * (leak["accuracy"] - without)
            cost = (
                f" Without them the accuracy is {without:.1%}."
                if abs(gain) >= 0.1
                else " They change the accuracy little."
            )
        groups = f"{across} groups of copies stand" if across > 1 else "One picture and its copy stand"
        steps.append(_step(f"{groups} in more than one split: the test has seen some of its answers.{cost}", "copies"))
    if two:
        groups = f"{two} groups of copies bear" if two > 1 else "One picture and its copy bear"
        steps.append(_step(f"{groups} two different labels.", "copies"))
    if audit["suspects"]:
        worst = audit["suspects"][0]
        n = len(audit["suspects"])
        are = f"{n} labels look" if n > 1 else "One label looks"
        steps.append(
            _step(
                f"{are} wrong, judged by {audit['head']} on {audit['features']}, trained without them; the surest: "
                f"{worst['path']} is labelled {worst['label']} and looks like {worst['suggested']}.",
                "suspects",
            )
        )
    return steps


def _class_steps(best: Scores, classes: Sequence[str]) -> list[dict[str, str]]:
    steps = []
    rows = [row for row in best.per_class if row["support"]]
    if len(rows) > 2:
        worst = min(rows, key=lambda row: row["recall"])
        if worst["recall"] < 1:
            text = f"Hardest class: {worst['class']}; of {worst['support']} pictures {worst['recall']:.0%} are found."
            steps.append(_step(text, "classes"))
    matrix = np.array(best.confusion_matrix)
    np.fill_diagonal(matrix, 0)
    if matrix.any():
        i, j = (int(k) for k in np.unravel_index(matrix.argmax(), matrix.shape))
        n = int(matrix[i, j])
        of = sum(best.confusion_matrix[i])
        verb = "are" if n > 1 else "is"
        text = f"Most frequent mistake: {n} of {of} pictures of {classes[i]} {verb} taken for {classes[j]}."
        steps.append(_step(text, "confusion"))
    return steps


def _curve_steps(found: Findings) -> list[dict[str, str]]:
    steps = []
    if found.advice and found.advice.slope:
        steps.append(_step(f"Training pictures left out in turn: {found.advice.slope.sentence}", "advice"))
    if found.curve and found.curve[2].forecasts:
        _, protocol, law = found.curve
        forecast = law.forecasts[0]
        low, high = forecast.accuracy_ci95
        now = protocol.points[-1].mean
        text = (
            f"With {forecast.factor} times the training pictures expect {forecast.accuracy:.1%} [{low:.1%}, "
            f"{high:.1%}], where {now:.1%} was measured."
        )
        steps.append(_step(text, "curve"))
    return steps


def _calibration_step(best: Scores, probabilities: Floats) -> list[dict[str, str]]:
    if best.ece < max(_TRUSTED, error_by_chance(probabilities)):
        return []
    text = f"Its probabilities are off by {100 * best.ece:.0f} points on average: do not take them at face value."
    return [_step(text, "calibration")]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _round(number: int) -> int:
    """Return a number to two digits, as precisely as it is known."""
    scale = int(10 ** max(int(math.log10(max(number, 1))) - 1, 0))
    return -(-number // scale) * scale


def _number(n: int) -> str:
    return "one" if n == 1 else str(n)


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
