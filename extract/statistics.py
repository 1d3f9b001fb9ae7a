"""What a survey of pictures amounts to: counts, sizes, formats, copies and what is odd, as `info --json` has it."""

import collections
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from extract.survey import Survey

# Names of one format for a reader who asks whether an extension tells the truth.
_SAME = {"MPO": "JPEG", "DIB": "BMP"}
_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}
_QUARTILES = {"min": 0, "quarter": 25, "median": 50, "three_quarters": 75, "max": 100}

Indices = npt.NDArray[np.int64]


def describe(survey: Survey) -> dict[str, Any]:
    """Return the statistics of an image set, all of them.

    Parameters
    ----------
    survey : Survey
        What its files showed.

    Returns
    -------
    dict
        As JSON can say it. Paths are relative to `root`; an empty split or a null label stands for none.
    """
    images = survey.images
    return {
        "name": images.name,
        "root": str(images.root),
        "pictures": len(images),
        "bytes": int(survey.nbytes.sum()),
        "decoded": survey.decoded,
        "seconds": round(survey.seconds, 3),
        "notes": list(images.notes),
        **_counts(survey),
        **_sizes(survey),
        "formats": _tally(survey.formats),
        "modes": _tally(survey.modes),
        "mismatches": _mismatches(survey),
        "orientations": {o: n for o, n in _tally(map(str, survey.orientations.tolist())).items() if o != "1"},
        "animated": [images.paths[i] for i in np.flatnonzero(survey.frames > 1).tolist()],
        "duplicates": _duplicates(survey),
        "unreadable": [{"path": images.paths[i], "reason": reason} for i, reason in sorted(survey.reasons.items())],
    }


def _counts(survey: Survey) -> dict[str, Any]:
    images = survey.images
    splits = sorted(set(images.splits.tolist()), key=lambda name: (_SPLIT_ORDER.get(name, 3), name))
    order = np.argsort(splits)
    column = order[np.searchsorted(splits, images.splits, sorter=order)]
    counts = np.zeros((len(images.classes) + 1, len(splits)), dtype=np.int64)  # the last row: no label, target -1
    np.add.at(counts, (images.targets, column), 1)
    unreadable = np.zeros(len(images.classes) + 1, dtype=np.int64)
    np.add.at(unreadable, images.targets[~survey.usable], 1)

    def row(target: int) -> dict[str, Any]:
        by_split = dict(zip(splits, counts[target].tolist(), strict=True))
        return {"pictures": int(counts[target].sum()), "unreadable": int(unreadable[target]), "splits": by_split}

    classes = [{"name": name, **row(target)} for target, name in enumerate(images.classes)]
    return {
        "splits": dict(zip(splits, counts.sum(axis=0).tolist(), strict=True)),
        "classes": classes,
        "unlabelled": row(-1),
        "imbalance": _imbalance(classes),
    }


def _imbalance(classes: list[dict[str, Any]]) -> dict[str, Any] | None:
    if len(classes) < 2:
        return None
    largest, smallest = (choose(classes, key=lambda c: c["pictures"]) for choose in (max, min))
    return {
        "ratio": round(largest["pictures"] / smallest["pictures"], 2),
        "largest": largest["name"],
        "smallest": smallest["name"],
    }


def _sizes(survey: Survey) -> dict[str, Any]:
    known = np.flatnonzero((survey.widths > 0) & survey.usable)
    if not len(known):
        return {"width": None, "height": None, "extremes": {}}
    widths, heights = survey.widths[known], survey.heights[known]
    area, aspect = widths.astype(np.int64) * heights, widths / heights

    def one(at: np.integer[Any]) -> dict[str, Any]:
        return {"path": survey.images.paths[known[at]], "width": int(widths[at]), "height": int(heights[at])}

    return {
        "width": _quartiles(widths),
        "height": _quartiles(heights),
        "extremes": {
            "largest": one(area.argmax()),
            "smallest": one(area.argmin()),
            "widest": one(aspect.argmax()),
            "tallest": one(aspect.argmin()),
        },
    }


def _quartiles(values: npt.NDArray[np.int32]) -> dict[str, int]:
    """Return sizes that pictures have, not means of two of them."""
    found = np.percentile(values, list(_QUARTILES.values()), method="nearest")
    return dict(zip(_QUARTILES, map(int, found), strict=True))


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(name for name in names if name).most_common())


def _mismatches(survey: Survey) -> list[dict[str, str]]:
    """Return the files whose extension names another format than their content has."""
    promised = Image.registered_extensions()
    lies = []
    for path, actual in zip(survey.images.paths, survey.formats, strict=True):
        name = promised.get(os.path.splitext(path)[1].lower(), "")
        if actual and name and _SAME.get(name, name) != _SAME.get(actual, actual):
            lies.append({"path": path, "format": actual})
    return lies


def _duplicates(survey: Survey) -> dict[str, Any]:
    """Return the groups of files with one content; those in two splits or under two labels first."""
    usable = np.flatnonzero(survey.usable)
    contents, content, counts = np.unique(survey.digests[usable], return_inverse=True, return_counts=True)
    ordered, ends = usable[np.argsort(content, kind="stable")], np.cumsum(counts)
    groups = [_group(survey, ordered[end - n : end]) for end, n in zip(ends, counts, strict=True) if n > 1]
    groups.sort(key=lambda g: (-len(g["labels"]), -len(g["splits"]), g["paths"]))
    return {
        "copies": len(usable) - len(contents),
        "across_splits": sum(len(g["splits"]) > 1 for g in groups),
        "under_two_labels": sum(len(g["labels"]) > 1 for g in groups),
        "groups": groups,
    }


def _group(survey: Survey, members: Indices) -> dict[str, Any]:
    images = survey.images
    return {
        "sha256": survey.digests[members[0]].decode(),
        "paths": [images.paths[i] for i in members.tolist()],
        "splits": sorted(set(images.splits[members].tolist())),
        "labels": [images.classes[t] for t in sorted(set(images.targets[members].tolist())) if t >= 0],
    }
