"""Bundles: the folder that `pack` makes to be carried away, read in place. Needs neither numpy nor h5py.

A bundle is a folder store as well, so that whatever reads a store reads a bundle; what else is in it is named by its
`bundle.json` (docs/format.md, "Bundles").
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import BundleError, MissingFile, first_line

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
FEATURES = "features.h5"
THUMBNAILS = "thumbnails.zip"
_KEY = "penult_bundle"
# What a bundle may name: a file of its own, or one in a folder of its own.
_MEMBER = re.compile(r"(?!\.)[^/\\\0]+(/(?!\.)[^/\\\0]+)?")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose `bundle.json` was read.

    Parameters
    ----------
    path : Path
        The folder.
    info : dict
        What `bundle.json` says.
    """

    path: Path
    info: dict[str, Any]

    @property
    def features(self) -> Path:
        """The one file of its store.

        Raises
        ------
        BundleError
            If it is gone.
        """
        if not (self.path / FEATURES).is_file():
            raise BundleError(f"{self.path / FEATURES} is not there: {_COPY}")
        return self.path / FEATURES

    @property
    def thumbnails(self) -> Path | None:
        """The file of thumbnails, see `data.thumbnails`; None where it has none."""
        return self.path / THUMBNAILS if THUMBNAILS in self.info["files"] else None

    def heads(self) -> dict[str, Path]:
        """Return the files of its heads by name, in the order in which they were named to `pack`."""
        return {head["name"]: self.path / head["file"] for head in self.info["heads"]}

    def head(self, name: str | None = None) -> dict[str, Any]:
        """Return what `bundle.json` says of one head, by default of the first.

        Raises
        ------
        BundleError
            If it has no such head, or none.
        """
        heads = {str(head["name"]): dict(head) for head in self.info["heads"]}
        if not heads:
            raise BundleError(f"{self.path} holds no head: fit one with `fit {self.path} --head lr -o lr.head`")
        if name is not None and name not in heads:
            raise BundleError(f"{self.path} holds no head {name!r}, only {', '.join(heads)}: name one of these")
        return next(iter(heads.values())) if name is None else heads[name]

    def model(self, name: str | None = None) -> Path | None:
        """Return the ONNX model of a head, by default of the first, once its bytes are checked; None without one.

        Raises
        ------
        BundleError
            If it has no such head, or the file is not what was packed.
        """
        file = self.head(name)["model"]
        if file is None:
            return None
        problem = self._problem(file)
        if problem:
            raise BundleError(problem)
        return self.path / str(file)

    def components(self, name: str) -> list[Path]:
        """Return the files of the principal components that a head's features are projected with."""
        files = {feature["fingerprint"]: feature["components"] for feature in self.info["features"]}
        return [self.path / files[one] for one in self.head(name)["features"] if files[one]]

    def problems(self) -> list[str]:
        """Return a sentence for each file that is not what was packed; none for a whole bundle."""
        return [problem for file in self.info["files"] if (problem := self._problem(file))]

    def strangers(self) -> list[str]:
        """Return the files in the folder that are not of the bundle; hidden ones do not count."""
        found = (file.relative_to(self.path) for file in self.path.rglob("*") if not file.is_dir())
        seen = [file.as_posix() for file in found if not any(part.startswith(".") for part in file.parts)]
        return sorted(set(seen) - {MANIFEST, *self.info["files"]})

    def _problem(self, file: str) -> str:
        path, listed = self.path / file, self.info["files"][file]
        if not path.is_file():
            return f"{path} is not there: {_COPY}"
        if path.stat().st_size != listed["bytes"] or sha256(path) != listed["sha256"]:
            return f"{path} is not what was packed (its SHA-256 differs): {_COPY}"
        return ""


_COPY = "copy the bundle again from where it was made, or pack it anew"


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle, by looking."""
    return (path / MANIFEST).is_file()


def read_bundle(path: Path) -> Bundle:
    """Read what a bundle says of itself; its files are checked by `Bundle.problems`.

    Raises
    ------
    MissingFile
        If there is none.
    BundleError
        If `bundle.json` is no bundle's, is damaged, or is of a newer format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise MissingFile(f"{path} is no bundle (it has no {MANIFEST}): make one with `pack STORE HEAD -o {path}`")
    try:
        info = json.loads(file.read_bytes())
        if _KEY not in info:
            raise BundleError(f"{file} is not a bundle's of Penult: name a folder that `pack` made")
        if int(info[_KEY]) > FORMAT_VERSION:
            raise BundleError(
                f"{path} has format {info[_KEY]}, this Penult reads up to {FORMAT_VERSION}: update Penult"
            )
        if info["digest"] != _digest(info):
            raise BundleError(f"{file} is not what was written: {_COPY}")
        named = [*info["files"], *(head["file"] for head in info["heads"])]
        named += [head["model"] for head in info["heads"]] + [feature["components"] for feature in info["features"]]
        for name in filter(None, named):
            if not can_hold(name) or name not in info["files"]:
                raise BundleError(f"{file} names {name!r}, which can be no file of a bundle: do not use this bundle")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BundleError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise BundleError(f"{file} cannot be read ({what}): {_COPY}") from None
    return Bundle(path, info)


def manifest(info: dict[str, Any]) -> bytes:
    """Return the bytes of a `bundle.json`: `info` with the format's version and a digest of it all."""
    info = {_KEY: FORMAT_VERSION, **info}
    return (json.dumps({**info, "digest": _digest(info)}, indent=1, allow_nan=False) + "\n").encode()


def members(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size in bytes and SHA-256 of each file in a folder and in its folders, by name."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in found
    }


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def can_hold(name: str) -> bool:
    """Whether a bundle may have a file of this name."""
    return _MEMBER.fullmatch(name) is not None


def refuse_bundle(path: Path) -> None:
    """Raise if something is about to be written into a bundle.

    Raises
    ------
    BundleError
        With what to do instead.
    """
    if is_bundle(path):
        raise BundleError(
            f"{path} is a bundle, which is read only: change the store that it was packed from and pack that again, or "
            "name another store"
        )


def refuse_inside(path: Path, option: str = "-o") -> None:
    """Raise if a file or folder is about to be written into a bundle.

    Parameters
    ----------
    path : Path
        What is to be written.
    option : str
        How its place is named on the command line.

    Raises
    ------
    BundleError
        With what to do instead.
    """
    around = next((folder for folder in Path(os.path.abspath(path)).parents if is_bundle(folder)), None)
    if around:
        what = f"{path} would be in the bundle {around}, which is read only"
        raise BundleError(f"{what}: name another place with {option}")


def named_heads(heads: Sequence[str | Path], store: Path) -> list[Path]:
    """Return the files of the heads that a command names: a bundle stands for its heads; each comes once.

    Parameters
    ----------
    heads : sequence of path
        Heads, checkpoints and bundles.
    store : Path
        The store that they are for; where no head is named and this is a bundle, its own.

    Raises
    ------
    BundleError
        If a bundle that is named holds no head.
    """
    found: list[Path] = []
    for path in [Path(head) for head in heads] or ([store] if is_bundle(store) else []):
        if is_bundle(path):
            bundle = read_bundle(path)
            bundle.head()
            found += bundle.heads().values()
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _digest(info: dict[str, Any]) -> str:
    """Return the SHA-256 of what a `bundle.json` says, without this digest, as sorted JSON without spaces."""
    rest = {key: value for key, value in info.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
