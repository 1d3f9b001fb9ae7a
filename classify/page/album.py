"""Which pictures a page shows, the most useful first, and what it says of each."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from classify.page.findings import Findings
from data.relabel import DROP
from data.store import FeatureStore
from data.views import View

# Pictures that a page names at all: their paths and digests are a hundred bytes each.
MOST = 6000
# Of each list on the page.
_LISTED = 120
_GROUPS, _OF_GROUP = 60, 8


@dataclasses.dataclass(frozen=True)
class Album:
    """The pictures of a page.

    Parameters
    ----------
    rows : list of int
        Of the image set, the most useful first.
    large : int
        How many of the first are seen on cards.
    names : list of str
        Of the classes: the heads', then those that the image set has beside.
    """

    rows: list[int]
    large: int
    names: list[str]
    places: dict[str, int]

    def at(self, path: str) -> int:
        """Return the place of a picture on the page, -1 where it is not."""
        return self.places.get(path, -1)

    def at_all(self, paths: Iterable[str]) -> list[int]:
        """Return the places of those pictures that are on the page."""
        return [place for path in paths if (place := self.at(path)) >= 0]


def choose(found: Findings, view: View, seed: int) -> Album:
    """Choose what is shown: mistakes, suspects, copies and outliers, then some of every cell, then those on maps."""
    row_of = {path: i for i, path in enumerate(view.paths)}
    cards = [path for turn in _in_turn(_mistakes(found), *_audited(found)) for path in turn]
    others = [*_of_cells(found, seed), *(path for _, paths in found.maps for path in paths)]
    large = len(dict.fromkeys(cards))
    chosen = list(dict.fromkeys([*cards, *others]))[:MOST]
    names = [*found.asked.classes, *(name for name in view.classes if name not in found.asked.classes)]
    return Album([row_of[path] for path in chosen], large, names, {path: i for i, path in enumerate(chosen)})


def _mistakes(found: Findings) -> list[list[str]]:
    """Return the paths that any head is most sure of and wrong about, the surest first."""
    paths = found.asked.samples.paths
    sure: dict[int, float] = {}
    for measured in found.asked.measured:
        p = measured.probabilities.max(axis=1)
        for i in np.flatnonzero(measured.answers != measured.y).tolist():
            sure[i] = max(sure.get(i, 0.0), float(p[i]))
    return [[paths[i]] for i in sorted(sure, key=lambda i: -sure[i])][: 3 * _LISTED]


def _audited(found: Findings) -> tuple[list[list[str]], ...]:
    if found.audit is None:
        return ()
    suspects = [[row["path"]] for row in found.audit["suspects"][:_LISTED]]
    outliers = [[row["path"]] for row in found.audit["outliers"][:_LISTED]]
    groups = [
        [picture["path"] for picture in group["pictures"][:_OF_GROUP]]
        for group in found.audit["duplicates"]["groups"][:_GROUPS]
    ]
    return suspects, groups, outliers


def _in_turn(*lists: list[list[str]]) -> list[list[str]]:
    """Return the items of several lists in turn: first the first of each, then the second of each."""
    longest = max((len(items) for items in lists), default=0)
    return [items[i] for i in range(longest) for items in lists if i < len(items)]


def _of_cells(found: Findings, seed: int) -> list[str]:
    """Return the measured pictures, so that every cell of the best head's confusion matrix has some early on."""
    best = found.asked.measured[0]
    cell = best.y.astype(np.int64) * len(best.classes) + best.answers
    order = np.random.default_rng(seed).permutation(len(cell))
    place = np.empty(len(cell), dtype=np.int64)  # within its cell
    for number in np.unique(cell):
        mine = order[cell[order] == number]
        place[mine] = np.arange(len(mine))
    paths = list(found.asked.samples.paths)
    return [paths[i] for i in order[np.argsort(place[order], kind="stable")].tolist()]


def picture_table(album: Album, targets: Any, view: View, splits: list[str]) -> dict[str, Any]:
    """Return path, digest, label (of `targets_of`) and split of each picture on the page."""
    rows = np.array(album.rows, dtype=np.int64)
    names = list(view.paths)
    to_page = np.array([*(album.names.index(name) for name in view.classes), -1])
    return {
        "path": [names[row] for row in album.rows],
        "digest": [digest.decode() for digest in view.digests[rows].tolist()],
        "label": to_page[targets[rows]].tolist(),
        "split": [splits.index(split) for split in view.splits[rows].tolist()],
    }


def targets_of(store: FeatureStore, view: View) -> Any:
    """Return the label of every picture as the store is read, -1 where there is none or the picture is dropped."""
    if store.corrections is None:
        return view.targets
    right = store.corrections.targets(view, str(store.path))
    pairs = zip(view.digests.tolist(), view.targets.tolist(), strict=True)
    return np.array([-1 if (t := right.get(d, y)) is None else t for d, y in pairs], dtype=np.int32)


def corrections_of(store: FeatureStore, view: View) -> list[list[str]]:
    """Return the corrections that the store is read with, as rows of their CSV: path, digest, label, corrected."""
    names = store.corrections.names if store.corrections else {}
    row_of = {digest.decode(): row for row, digest in reversed(list(enumerate(view.digests.tolist())))}
    labels = [*view.classes, ""]  # the last: no label, target -1
    rows = ((row_of[digest], digest, name) for digest, name in names.items())
    return [[view.paths[row], digest, labels[view.targets[row]], name] for row, digest, name in rows]


def identity(view: View, targets: Any) -> str:
    """Return the SHA-256 of the classes, and of the content and label of each picture: a set, wherever it lies."""
    digest = hashlib.sha256(json.dumps(view.classes).encode())
    for content, target in zip(view.digests.tolist(), targets.tolist(), strict=True):
        digest.update(b"%s %d\n" % (content, target))
    return digest.hexdigest()


def answer_table(found: Findings, album: Album) -> dict[str, Any]:
    """Return what each head says of those measured pictures that are on the page."""
    paths = list(found.asked.samples.paths)
    shown = [(i, place) for i, path in enumerate(paths) if (place := album.at(path)) >= 0]
    rows = np.array([i for i, _ in shown], dtype=np.int64)
    return {
        "pictures": [place for _, place in shown],
        "truth": found.asked.measured[0].y[rows].tolist(),
        "heads": [
            {
                "answer": m.answers[rows].tolist(),
                "confidence": m.probabilities[rows].max(axis=1).round(4).tolist(),
                "own": m.probabilities[rows, m.y[rows]].round(4).tolist(),
            }
            for m in found.asked.measured
        ],
    }


def map_table(found: Findings, album: Album) -> list[dict[str, Any]]:
    """Return the maps, with those of their pictures that are on the page."""
    tables = []
    for drawn, paths in found.maps:
        kept = [i for i, path in enumerate(paths) if album.at(path) >= 0]
        xy = drawn.xy[kept].round(4)
        tables.append(
            {
                "kind": drawn.kind,
                "title": drawn.title,
                "note": drawn.note,
                "pictures": [album.at(paths[i]) for i in kept],
                "x": xy[:, 0].tolist(),
                "y": xy[:, 1].tolist(),
            }
        )
    return tables


def audit_table(found: Findings, album: Album) -> dict[str, Any] | None:
    """Return what the audit says, its pictures by their place on the page."""
    audit = found.audit
    if audit is None:
        return None
    groups = [
        {
            "pictures": album.at_all(picture["path"] for picture in group["pictures"][:_OF_GROUP]),
            "n": len(group["pictures"]),
            "exact": group["exact"],
            "splits": group["splits"],
            "labels": group["labels"],
            "similarity": group["similarity"],
        }
        for group in audit["duplicates"]["groups"][:_GROUPS]
    ]
    kept = ("copies", "near_pairs", "across_splits", "under_two_labels")
    return {
        "head": audit["head"],
        "features": audit["features"],
        "folds": audit["folds"],
        "suspects": _judged(audit["suspects"], album),
        "n_suspects": len(audit["suspects"]),
        "n_hard": len(audit["hard"]),
        "outliers": _placed(audit["outliers"], album),
        "duplicates": {
            **{key: audit["duplicates"][key] for key in kept},
            "n_groups": len(audit["duplicates"]["groups"]),
            "groups": groups,
        },
        **{key: audit[key] for key in ("leak", "lookalikes", "folders", "notes")},
    }


def _placed(rows: list[dict[str, Any]], album: Album) -> list[dict[str, Any]]:
    return [{"picture": album.at(r["path"]), "score": r["score"]} for r in rows[:_LISTED] if album.at(r["path"]) >= 0]


def _judged(rows: list[dict[str, Any]], album: Album) -> list[dict[str, Any]]:
    return [
        {
            "picture": album.at(row["path"]),
            "suggested": album.names.index(row["suggested"]),
            "score": round(row["score"], 4),
            "probability": round(row["probability"], 4),
        }
        for row in rows[:_LISTED]
        if album.at(row["path"]) >= 0
    ]


def choices(album: Album, view: View) -> dict[str, Any]:
    """Return what a correction may say: the classes that the image set has, and what drops a picture."""
    return {
        "classes": [album.names.index(name) for name in view.classes],
        "drop": DROP[1] if DROP[0] in view.classes else DROP[0],
    }
