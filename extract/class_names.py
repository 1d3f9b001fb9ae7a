"""The classes of a user that a pretrained network knows already: by name or synonym, and never by guessing."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence

# WordNet's number at the beginning of a name, as ImageNet's own folders and Stanford Dogs have it.
_WORDNET = re.compile(r"(n\d{8})(?!\d)")
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class ClassMatch:
    """One class of the user and the outputs of the original network that bear its name.

    Parameters
    ----------
    name : str
        The user's.
    rows : tuple of int
        Numbers of the outputs, ascending; several where a name means several things; empty where none matches.
    by : str
        ``name``, ``plural`` (the user's name is the plural of the network's), ``wordnet``, or empty.
    """

    name: str
    rows: tuple[int, ...]
    by: str


def match_classes(classes: Sequence[str], names: Sequence[Sequence[str]]) -> list[ClassMatch]:
    """Find each class among the names of a network's outputs.

    Case, accents and whatever is neither letter nor digit do not matter; a plural is understood where nothing
    bears the name itself. Parts of names and similar spellings are no match, nor are names without a letter.

    Parameters
    ----------
    classes : sequence of str
        The user's.
    names : sequence of sequence of str
        Synonyms of each output (`extract.original.OriginalLayer.names`).

    Returns
    -------
    list of ClassMatch
        One for each class, in order.

    Examples
    --------
    >>> outputs = [("ant", "emmet", "n02219486"), ("hotdog", "hot dog"), ("crane",), ("crane",)]
    >>> [match.rows for match in match_classes(["Ants", "hot_dog", "not_hot_dog", "crane", "7"], outputs)]
    [(0,), (1,), (), (2, 3), ()]
    """
    rows: dict[str, set[int]] = {}
    for row, synonyms in enumerate(names):
        for synonym in synonyms:
            rows.setdefault(_key(synonym), set()).add(row)
    return [_match(name, rows) for name in classes]


def describe_matches(matches: Sequence[ClassMatch], names: Sequence[Sequence[str]]) -> list[str]:
    """Return what a user should see of the matches, a line each: every synonym, since a name may mean another thing.

    Parameters
    ----------
    matches : sequence of ClassMatch
        As `match_classes` gives them.
    names : sequence of sequence of str
        The same as there.

    Examples
    --------
    >>> outputs = [("ant", "emmet", "n02219486")]
    >>> for line in describe_matches(match_classes(["ants", "bees"], outputs), outputs):
    ...     print(line)
    ants: output 0 (ant, emmet)
    no output bears the name of 1 of the 2 classes: bees
    """
    lines = []
    for match in matches:
        outputs = [f"{row} ({', '.join(n for n in names[row] if not _WORDNET.match(n))})" for row in match.rows]
        if outputs:
            several = "; several bear the name" if len(outputs) > 1 else ""
            lines.append(f"{match.name}: output{'s' if several else ''} {' and '.join(outputs)}{several}")
    lacking = [match.name for match in matches if not match.rows]
    if lacking:
        shown = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
        lines.append(f"no output bears the name of {len(lacking)} of the {len(matches)} classes: {shown}")
    return lines


def _match(name: str, rows: dict[str, set[int]]) -> ClassMatch:
    number = _WORDNET.match(name)
    if number:
        return _found(name, rows.get(number[1], ()), "wordnet")
    key = _key(name)
    if not re.search(r"[^\W\d_]", key):
        return ClassMatch(name, (), "")
    if key in rows:
        return _found(name, rows[key], "name")
    return _found(name, {row for one in _singulars(key) for row in rows.get(one, ())}, "plural")


def _found(name: str, rows: Iterable[int], by: str) -> ClassMatch:
    found = tuple(sorted(rows))
    return ClassMatch(name, found, by if found else "")


def _key(name: str) -> str:
    """Return a name's letters and digits, without case and accents."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in decomposed if c.isalnum())


def _singulars(key: str) -> list[str]:
    """Return what a name may be the regular plural of; most are no words, and match nothing."""
    if key.endswith("ss") or not key.endswith("s") or len(key) < 4:
        return []
    found = [key[:-1]]
    if key.endswith("es"):
        found.append(key[:-2])
    if key.endswith("ies"):
        found.append(key[:-3] + "y")
    if key.endswith("ves"):
        found += [key[:-3] + "f", key[:-3] + "fe"]
    return found
