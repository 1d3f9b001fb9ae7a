"""How objects show themselves in a notebook: a title, and a line for each fact; as text and as HTML."""

import html
from typing import TYPE_CHECKING

import numpy as np

from data.errors import PenultError, first_line
from data.terminal import printable, size
from data.words import counted

if TYPE_CHECKING:
    from data.store import FeatureStore, Samples

Facts = list[tuple[str, str]]

# Of more classes the range of their sizes is told.
_CLASSES = 6


class Shown:
    """Shows itself by what `_shown` returns: its title, and facts by name."""

    def _shown(self) -> tuple[str, Facts]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, facts = self._shown()
        width = max((len(name) for name, _ in facts), default=0)
        return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in facts)])

    def _repr_html_(self) -> str:
        title, facts = self._shown()
        cell = '<td style="text-align: left">'
        rows = "".join(f"<tr><th>{html.escape(a)}</th>{cell}{html.escape(b)}</td></tr>" for a, b in facts)
        return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def show_samples(samples: "Samples") -> tuple[str, Facts]:
    """Return title and facts of the pictures of a split."""
    n, dim = samples.X.shape
    nbytes = samples.X.nbytes + sum(view.nbytes for view in samples.others)
    what = " + ".join(spec.title for spec in samples.specs)
    facts = [("X", f"{n:,} x {dim:,} {samples.X.dtype}, {size(nbytes)}: {what}")]
    if samples.others:
        facts.append(("others", f"{counted(len(samples.others), 'more view')} of the same pictures"))
    facts.append(("y", _classes(samples)))
    if n:
        facts.append(("paths", f"{printable(samples.paths[0])}" + (", ..." if n > 1 else "")))
    return f"Samples of {printable(samples.dataset)}, {printable(samples.split) or 'all pictures'}", facts


def show_store(store: "FeatureStore") -> tuple[str, Facts]:
    """Return title and facts of a store; what is wrong with it is a fact, since showing never fails."""
    title = f"FeatureStore({str(store.path)!r})"
    try:
        facts = [
            ("features", f"{f.rows:,} x {f.dim:,} {f.dtype}, {size(f.nbytes)}: {f.spec.title} ({fingerprint[:12]})")
            for fingerprint, f in sorted(store.features().items(), key=lambda held: held[1].spec.title)
        ]
        for name, view in store.views().items():
            splits = ", ".join(f"{printable(split) or 'no split'} {n:,}" for split, n in view.split_counts().items())
            what = f"{counted(len(view.paths), 'picture')}, {_named(view.classes)}; {splits}"
            facts.append(("image set", f"{printable(name)}: {what}"))
    except (PenultError, OSError) as error:
        return title, [("problem", first_line(error, 300))]
    return title, facts


def _classes(samples: "Samples") -> str:
    counts = np.bincount(samples.y[samples.y >= 0], minlength=len(samples.classes)).tolist()
    loose = int((samples.y < 0).sum())
    if len(counts) <= _CLASSES:
        parts = [f"{printable(name)} {count:,}" for name, count in zip(samples.classes, counts, strict=True)]
    else:
        parts = [f"{len(counts)} classes of {min(counts):,} to {max(counts):,} pictures"]
    return ", ".join([*parts, *([f"{loose:,} without a label"] if loose else [])]) or "no pictures"


def _named(classes: list[str]) -> str:
    if not classes:
        return "no labels"
    names = ", ".join(map(printable, classes[:3])) + (", ..." if len(classes) > 3 else "")
    return f"{counted(len(classes), 'class', 'classes')} ({names})"
