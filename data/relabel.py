"""Labels that a person corrected: a CSV, applied to pictures as they are read. The store itself is not changed."""

import csv
import dataclasses
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import ImageSetError, MissingFile, first_line
from data.terminal import printable
from data.views import View

if TYPE_CHECKING:
    from data.store import Samples

COLUMNS = ("path", "digest", "label", "corrected")
# What stands for a class where a picture is to be left out; the second where a class bears the name of the first.
DROP = ("drop", "(drop)")


@dataclasses.dataclass(frozen=True)
class Corrections:
    """Corrected labels by content, so that all copies of a picture move together.

    Parameters
    ----------
    path : str
        The CSV that they were read from.
    sha256 : str
        Of that file, in hex.
    names : dict of str to str
        What stands for each digest: a class, or one of `DROP`.
    """

    path: str
    sha256: str
    names: dict[str, str]

    def targets(self, view: View, where: str) -> dict[bytes, int | None]:
        """Return the right class of each digest as an index into the classes of an image set, None where it goes.

        Raises
        ------
        ImageSetError
            If a correction is of no picture of `view`, or of no class; with the next step.
        """
        held, index = set(view.digests.tolist()), {name: i for i, name in enumerate(view.classes)}
        found: dict[bytes, int | None] = {}
        for digest, name in self.names.items():
            if digest.encode() not in held:
                raise ImageSetError(
                    f"{self.path} corrects the picture {digest[:12]}, which {where} does not hold in {view.name!r}: "
                    "name the corrections that a report of this store exported"
                )
            if name not in index and name not in DROP:
                known = ", ".join(map(printable, view.classes[:5])) + (", ..." if len(view.classes) > 5 else "")
                raise ImageSetError(
                    f"{self.path} gives the picture {digest[:12]} the class {printable(name)!r}, and {view.name!r} has "
                    f"only {known}: write one of these, or {DROP[0]} to leave the picture out"
                )
            found[digest.encode()] = index.get(name)
        return found

    def apply(self, samples: "Samples", view: View, where: str) -> "Samples":
        """Return pictures of an image set with their corrected labels, without those that are dropped.

        Raises
        ------
        ImageSetError
            As `targets` does.
        """
        targets = self.targets(view, where)
        digests = samples.digests.tolist()
        right = [targets.get(digest, y) for digest, y in zip(digests, samples.y.tolist(), strict=True)]
        kept = np.flatnonzero([y is not None for y in right])
        y = np.array([-1 if y is None else y for y in right], dtype=np.int32)
        samples = dataclasses.replace(samples, y=y)
        return samples if len(kept) == len(samples) else samples.take(kept)

    def count(self, view: View, split: str, where: str) -> dict[str, Any]:
        """Return what they do to a split: how many labels they change, and how many pictures they leave out."""
        targets, part = self.targets(view, where), view.of_split(split)
        pairs = list(zip(part.digests.tolist(), part.targets.tolist(), strict=True))
        return {
            "sha256": self.sha256,
            "relabelled": sum(targets.get(digest, y) not in (None, y) for digest, y in pairs),
            "dropped": sum(digest in targets and targets[digest] is None for digest, _ in pairs),
        }


def read_corrections(file: str | Path | None) -> Corrections | None:
    """Read corrected labels from a CSV with the columns ``digest`` and ``corrected``; others are for the reader.

    Without a file there are none.

    Raises
    ------
    MissingFile
        If there is no such file.
    ImageSetError
        If it is no such CSV, or corrects one picture twice and differently.
    """
    if file is None:
        return None
    path = Path(file)
    if not path.is_file():
        raise MissingFile(f"{path} does not exist: name the CSV of corrections that a report exported")
    content = path.read_bytes()
    try:
        # with newline="", since a path may hold characters at which `str.splitlines` would break it
        text = io.StringIO(content.decode("utf-8-sig", "surrogateescape"), newline="")
        rows = list(csv.reader(text, strict=True))
    except csv.Error as error:
        raise ImageSetError(f"{path} cannot be read as a CSV ({first_line(error)}): export it again") from None
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"digest", "corrected"} <= set(head):
        raise ImageSetError(
            f"{path} has the columns {', '.join(head[:6]) or 'none'}, and corrections need {', '.join(COLUMNS)}: name "
            "the CSV that a report exported"
        )
    digests, names = head.index("digest"), head.index("corrected")
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(head):
            raise ImageSetError(f"{path}, line {number}: {len(row)} columns, and the first line has {len(head)}")
        digest, name = row[digests].strip().lower(), row[names]
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ImageSetError(f"{path}, line {number}: {digest[:20]!r} is no digest of a picture (64 hex digits)")
        if not name:
            continue  # not corrected yet
        if found.setdefault(digest, name) != name:
            raise ImageSetError(
                f"{path}, line {number}: the picture {digest[:12]} is corrected to {printable(name)!r}, and above to "
                f"{printable(found[digest])!r}: its copies share one label, so keep one of the lines"
            )
    return Corrections(str(path), hashlib.sha256(content).hexdigest(), found)
