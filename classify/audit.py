"""What is wrong with a data set, answered from its stored features: copies, labels, classes, folders, splits.

The parts are in `duplicates`, `suspects` and `oddities`; here they are put together and given names.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.duplicates import Copies, Indices
from classify.leakage import accuracy_with_and_without, tell_splits_apart
from classify.oddities import classes_in_two, lookalike_classes, odd_folders, outliers
from classify.out_of_fold import kept_together, out_of_fold
from classify.selection import train
from classify.statistics import wilson_interval
from classify.suspects import Confusion, confused_classes, find_hard, find_suspects
from data.errors import StoreError
from data.store import Samples
from data.views import View

Report = Callable[[int, int], None]
Splits = npt.NDArray[np.str_]


@dataclasses.dataclass(frozen=True)
class Audit:
    """An image set under audit: its pictures, their splits and which of them are copies.

    Parameters
    ----------
    samples : Samples
        All pictures of the image set.
    splits : ndarray of shape (n,), str
        The split of each.
    copies : Copies
        What `classify.duplicates.find_copies` found in them.
    kind : str
        The head that judges, a key of `classify.heads.HEADS`.
    folds, seed : int
        Of what is held out.
    brief : bool
        Leave out what takes the most time: groups within classes, and whether splits differ.
    """

    samples: Samples
    splits: Splits
    copies: Copies
    kind: str = "lr"
    folds: int = 5
    seed: int = 0
    brief: bool = False

    def run(
        self,
        pair: tuple[str, str] | None = None,
        on_progress: Report | None = None,
        params: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Look at everything that these pictures allow.

        Parameters
        ----------
        pair : tuple of str, optional
            The split that trains and the one that measures; by itself ``train`` with ``test``, else with ``val``.
        on_progress : callable, optional
            Called with the number of fits done and in all, for each training anew.
        params : dict, optional
            Of the head; without them cross-validation chooses.

        Returns
        -------
        dict
            ``dataset, features, fingerprint, n, labelled, classes, splits, head, params, folds, seed``, and

            - ``duplicates``: ``copies`` (pictures whose file equals another's), ``near_pairs``, ``same_vector``,
              ``across_splits`` and ``under_two_labels`` (groups), ``fence``, ``pairs`` [{a, b, similarity, excess}],
              ``groups`` [{pictures: [{path, label, split}], exact, exact_copies, splits, labels, similarity}];
              ``exact`` groups are one file only, ``exact_copies`` counts the files that equal another of the group
            - ``leak``: ``train, test, n, copied, accuracy, accuracy_ci95, accuracy_without, accuracy_without_ci95,
              difference, difference_ci95``, or null
            - ``suspects`` and ``hard``: [{path, split, label, suggested, score, probability}]; the score is the
              margin of the label over the suggested class, the probability the label's
            - ``confident_joint`` and ``confusion_matrix``: rows are labels
            - ``confused``: [{a, b, n_a, n_b, a_as_b, b_as_a, rate_a_as_b, rate_b_as_a, their _ci95, rate, rate_ci95}]
            - ``classes_recall``: [{class, n, recall, recall_ci95}], the lowest first
            - ``lookalikes``: [{a, b, auc, auc_ci95}], classes that might be one
            - ``two_groups``: [{class, sizes, distance, examples: [[path], [path]]}], classes that might be two
            - ``folders``: [{folder, label, n, wrong, rest, rest_wrong, p_value, p_holm, suggested}]
            - ``outliers``: [{path, split, label, score, beyond_chance}], the ten least like any other and all beyond
              chance; the score is in deviations
            - ``split_shift``: ``{train, test, auc, auc_ci95, differ}``, or null
            - ``notes``: what could not be looked at, and why

        Raises
        ------
        StoreError
            If a split of `pair` does not exist.
        HeadError
            If the head cannot be trained.
        """
        notes: list[str] = []
        chosen = self._pair(pair, notes)
        result: dict[str, Any] = {
            "dataset": self.samples.dataset,
            "features": self.samples.spec.title,
            "fingerprint": self.samples.spec.fingerprint,
            "n": len(self.samples),
            "labelled": int((self.samples.y >= 0).sum()),
            "classes": self.samples.classes,
            "splits": {str(s): int((self.splits == s).sum()) for s in np.unique(self.splits)},
            "head": self.kind,
            "params": None,
            "folds": self.folds,
            "seed": self.seed,
            "duplicates": self._duplicates(),
            "leak": None,
            "outliers": self._outliers(),
            "split_shift": self._shift(chosen, notes, on_progress),
        }
        labelled = self._labelled(notes)
        if labelled is not None:
            if chosen:
                result["leak"], params = labelled._leak(chosen, params, notes, on_progress)
            if params is None:
                params = train(self.kind, labelled.samples, seed=self.seed, on_progress=on_progress).params
            result["params"] = params
            result.update(labelled._labels(params, notes, on_progress))
        else:
            empty = ("suspects", "hard", "confident_joint", "confusion_matrix", "confused", "classes_recall")
            result.update({key: [] for key in (*empty, "lookalikes", "two_groups", "folders")})
        return {**result, "notes": notes}

    def _pair(self, pair: tuple[str, str] | None, notes: list[str]) -> tuple[str, str] | None:
        held = set(self.splits.tolist())
        if pair is not None:
            for split in pair:
                if split not in held:
                    names = ", ".join(sorted(filter(None, held))) or "none"
                    raise StoreError(
                        f"the image set {self.samples.dataset!r} has no split {split!r}, its splits are: {names}; name "
                        "two of these with --split-pair"
                    )
            if pair[0] == pair[1]:
                raise StoreError(f"--split-pair compares two splits, got {pair[0]!r} twice: name another")
            return pair
        for test in ("test", "val"):
            if {"train", test} <= held:
                return ("train", test)
        named = ", ".join(sorted(filter(None, held)))
        notes.append(
            f"{f'the splits are {named}' if named else 'there are no splits'}, without train and test: what copies "
            "do to the accuracy and whether splits differ was not measured; name two with --split-pair"
        )
        return None

    def _labelled(self, notes: list[str]) -> "Audit | None":
        """Return the audit of the labelled pictures, near duplicates kept together, without classes that are empty."""
        rows = np.flatnonzero(self.samples.y >= 0)
        present = np.unique(self.samples.y[rows])
        if len(present) < 2:
            have = f"one class ({self.samples.classes[present[0]]})" if len(present) else "no labels"
            notes.append(f"{have}: labels, classes and folders need at least two classes and were not looked at")
            return None
        absent = [name for i, name in enumerate(self.samples.classes) if i not in present]
        if absent:
            notes.append(f"no picture of {_some(absent)}: {'they are' if len(absent) > 1 else 'it is'} left out")
        samples = self.samples.labelled()
        samples = dataclasses.replace(
            samples,
            y=np.searchsorted(present, samples.y).astype(np.int32),
            classes=[self.samples.classes[i] for i in present],
        )
        copies = dataclasses.replace(self.copies, group=self.copies.group[rows], exact=self.copies.exact[rows])
        kept = kept_together(samples, copies.group)
        return dataclasses.replace(self, samples=kept, splits=self.splits[rows], copies=copies)

    def _picture(self, row: int) -> dict[str, Any]:
        label = int(self.samples.y[row])
        return {
            "path": self.samples.paths[row],
            "split": str(self.splits[row]),
            "label": self.samples.classes[label] if label >= 0 else None,
        }

    def _duplicates(self) -> dict[str, Any]:
        copies = self.copies
        order = np.argsort(copies.group, kind="stable")
        starts = np.flatnonzero(np.diff(copies.group[order], prepend=-1))
        of_group: dict[int, float] = {}
        for (a, _), similarity in zip(copies.pairs.tolist(), copies.similarity.tolist(), strict=True):
            number = int(copies.group[a])
            of_group[number] = min(of_group.get(number, 1.0), similarity)
        groups: list[dict[str, Any]] = []
        for rows in np.split(order, starts[1:]) if len(order) else []:
            if len(rows) < 2:
                continue
            pictures = [self._picture(int(row)) for row in rows]
            contents = len(np.unique(copies.exact[rows]))
            groups.append(
                {
                    "pictures": pictures,
                    "exact": contents == 1,
                    "exact_copies": len(rows) - contents,
                    "splits": sorted({p["split"] for p in pictures}),
                    "labels": sorted({p["label"] for p in pictures if p["label"] is not None}),
                    "similarity": of_group.get(int(copies.group[rows[0]]), 1.0),
                }
            )
        # what does harm comes first
        groups.sort(key=lambda g: (-len(g["labels"]), -len(g["splits"]), -g["similarity"], g["pictures"][0]["path"]))
        return {
            "copies": len(copies.exact) - len(np.unique(copies.exact)),
            "near_pairs": len(copies.pairs),
            "same_vector": copies.same_vector,
            "across_splits": sum(len(g["splits"]) > 1 for g in groups),
            "under_two_labels": sum(len(g["labels"]) > 1 for g in groups),
            "fence": copies.fence,
            "pairs": [
                {
                    "a": self.samples.paths[a],
                    "b": self.samples.paths[b],
                    "similarity": similarity,
                    "excess": excess,
                }
                for (a, b), similarity, excess in zip(
                    copies.pairs.tolist(), copies.similarity.tolist(), copies.excess.tolist(), strict=True
                )
            ],
            "groups": groups,
        }

    def _outliers(self) -> list[dict[str, Any]]:
        rows, far, beyond = outliers(self.copies.neighbours)
        return [
            {**self._picture(int(self.copies.first[row])), "score": float(f), "beyond_chance": rank < beyond}
            for rank, (row, f) in enumerate(zip(rows, far, strict=True))
        ]

    def _labels(self, params: dict[str, Any], notes: list[str], on_progress: Report | None) -> dict[str, Any]:
        samples, y = self.samples, self.samples.y
        p = out_of_fold(samples, self.kind, folds=self.folds, seed=self.seed, params=params, on_progress=on_progress)
        alone = int(np.isnan(p[:, 0]).sum())
        if alone:
            notes.append(
                f"{alone} {'picture' if alone == 1 else 'pictures'} could not be held out, being the only "
                f"{'one of its' if alone == 1 else 'ones of their'} class: nothing is said of "
                f"{'its label' if alone == 1 else 'their labels'}"
            )
        suspects = find_suspects(p, y)
        matrix, confused = confused_classes(p, y)
        names = samples.classes

        def judged(row: int, suggested: int) -> dict[str, Any]:
            score, own = float(p[row, y[row]] - p[row, suggested]), float(p[row, y[row]])
            return {**self._picture(row), "suggested": names[suggested], "score": score, "probability": own}

        pairs = zip(suspects.rows.tolist(), suspects.suggested.tolist(), strict=True)
        return {
            "suspects": [judged(row, suggested) for row, suggested in pairs],
            "hard": [judged(row, int(p[row].argmax())) for row in find_hard(p, y, suspects).tolist()],
            "confident_joint": suspects.joint.tolist(),
            "confusion_matrix": matrix.tolist(),
            "confused": [_confused(c, names) for c in confused],
            "classes_recall": _recalls(matrix, names),
            "lookalikes": [{**vars(m), "a": names[m.a], "b": names[m.b]} for m in lookalike_classes(p, y, matrix)],
            "two_groups": [] if self.brief else self._two_groups(),
            "folders": [
                {**vars(f), "label": names[f.label], "suggested": names[f.suggested]}
                for f in odd_folders(samples.paths, p, y)
            ],
        }

    def _two_groups(self) -> list[dict[str, Any]]:
        return [
            {
                "class": self.samples.classes[found.label],
                "sizes": [len(rows) for rows in found.groups],
                "distance": found.distance,
                "examples": [[self.samples.paths[row] for row in rows[:5].tolist()] for rows in found.groups],
            }
            for found in classes_in_two(self.samples.X, self.samples.y, self.seed)
        ]

    def _leak(
        self, pair: tuple[str, str], params: dict[str, Any] | None, notes: list[str], on_progress: Report | None
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        inside, outside = (np.flatnonzero(self.splits == split) for split in pair)
        absent = [name for i, name in enumerate(self.samples.classes) if i not in self.samples.y[inside]]
        if absent or not len(outside):
            why = f"{pair[0]} has no picture of {_some(absent)}" if absent else f"{pair[1]} has no labels"
            notes.append(f"{why}: the accuracy with and without copies was not measured")
            return None, params
        training = train(
            self.kind,
            self.samples.take(inside),
            tune="cv" if params is None else "none",
            params=params,
            seed=self.seed,
            measure=params is None,
            on_progress=on_progress,
        )
        copied = np.isin(self.copies.group[outside], self.copies.group[inside])
        leak = accuracy_with_and_without(training, self.samples.take(outside), copied)
        return {"train": pair[0], "test": pair[1], **leak}, training.params

    def _shift(
        self, pair: tuple[str, str] | None, notes: list[str], on_progress: Report | None
    ) -> dict[str, Any] | None:
        if pair is None or self.brief:
            return None
        sides = (self.splits == pair[0], self.splits == pair[1])
        shift = tell_splits_apart(
            self.samples, sides, self.copies.group, folds=self.folds, seed=self.seed, on_progress=on_progress
        )
        if shift is None:
            notes.append(f"{pair[0]} or {pair[1]} has too few pictures of its own: whether they differ was not asked")
            return None
        return {"train": pair[0], "test": pair[1], **shift}


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def splits_of(samples: Samples, view: View) -> Splits:
    """Return the split of each picture, some of which may have been left out of the image set."""
    of_path = dict(zip(view.paths, view.splits.tolist(), strict=True))
    return np.array([of_path[path] for path in samples.paths], dtype=np.str_)


def _confused(found: Confusion, names: list[str]) -> dict[str, Any]:
    """Return two classes that are taken for each other, by name and with their rates."""
    return {
        **vars(found),
        "a": names[found.a],
        "b": names[found.b],
        "rate_a_as_b": found.a_as_b / found.n_a if found.n_a else None,
        "rate_b_as_a": found.b_as_a / found.n_b if found.n_b else None,
    }


def _recalls(matrix: Indices, names: list[str]) -> list[dict[str, Any]]:
    """Return each class's recall with Wilson's interval, the lowest first."""
    rows = [
        {
            "class": name,
            "n": n,
            "recall": right / n if n else None,
            "recall_ci95": wilson_interval(right, n) if n else None,
        }
        for name, n, right in zip(names, matrix.sum(axis=1).tolist(), matrix.diagonal().tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (2.0 if row["recall"] is None else row["recall"], row["class"]))
