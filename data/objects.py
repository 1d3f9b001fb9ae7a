"""Data set objects of Python: torchvision's, Hugging Face's, and any sequence of (picture, label).

They are known by what they can do, so that neither library is imported here. Where an object knows its files or their
bytes, these are used as they are; only pictures that exist as pixels alone are written, by `encode`.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any

from data.disks import disk_of
from data.errors import ImageSetError, first_line
from data.listing import OBJECT, SPLIT_NAMES, Content, Listing, Row
from data.pixels import encode
from data.places import Locations, Place


class ObjectPlace:
    """Pictures of Python data sets.

    Parameters
    ----------
    parts : mapping of str to sequence
        Data sets by the split that they are ('' for none). Items are ``(picture, label, ...)``, or mappings if `column`
        is given.
    column : str
        Which column of a Hugging Face data set holds the files.
    """

    def __init__(self, parts: Mapping[str, Any], column: str = "") -> None:
        self.parts = parts
        self.column = column
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ObjectPlace.__init__(self, state["parts"], state["column"])

    def read(self, path: str) -> Content:
        """Return a picture by ``split/number`` or ``number``; see `data.places.Place`."""
        split, _, number = path.rpartition("/")
        if split not in self.parts or not number.isdecimal():
            raise OSError("the data set holds no such picture")
        try:
            with self._lock:  # nobody promises that a data set may be asked by several threads at once
                item = self.parts[split][int(number)]
        except Exception as error:  # a stranger's code
            raise OSError(f"the data set raised {type(error).__name__}: {first_line(error)}") from error
        if not self.column:
            return Content(encode(item[0]), -1, -1)
        value = item[self.column] or {}
        if value.get("bytes") is not None:
            return Content(value["bytes"], -1, -1)
        if not value.get("path"):
            raise OSError("the row holds no picture")
        content = disk_of(value["path"]).read(value["path"])
        return Content(content.data, -1, -1)


def list_objects(source: Any, root: str = "") -> tuple[Listing, Place]:
    """List a data set object.

    Parameters
    ----------
    source : object
        A torchvision data set (one with ``samples`` or ``imgs`` is read from its files), a Hugging Face ``Dataset``,
        a sequence of (PIL image or array, label), or a mapping of split names to any of these, such as a
        ``DatasetDict``.
    root : str
        What the store shall call the source; by default the object's type, which cannot be opened again.

    Raises
    ------
    ImageSetError
        If it is none of these.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"": source}
    root = root or OBJECT + "+".join(sorted({_title(part) for part in parts.values()}))
    first = next(iter(parts.values()), None)
    name = root.rpartition(":")[2].rpartition("/")[2] or "the data set"
    for part in parts.values():
        if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
            raise ImageSetError(
                f"{type(part).__name__} has no length or no index: give a data set whose pictures can be counted, such "
                "as list(...) of it"
            )
    if not sum(len(part) for part in parts.values()):
        raise ImageSetError(f"{name} holds no pictures: give a data set that has some")
    if hasattr(first, "cast_column"):
        return _hugging_face(parts, root, name)
    files = {split: _files(part) for split, part in parts.items()}
    if all(found is not None for found in files.values()):
        return _file_rows(parts, {split: found or [] for split, found in files.items()}, name)
    rows = []
    for split, part in parts.items():
        labels = _labels(part)
        rows += [Row(_path(split, i), label, _split(split), -1, -1) for i, label in enumerate(labels)]
    return Listing(root, rows, name), ObjectPlace(parts)


def _hugging_face(parts: dict[str, Any], root: str, name: str) -> tuple[Listing, Place]:
    """Take the files' bytes out of a table, without decoding any."""
    features = next(iter(parts.values())).features
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    pictures = [column for column, kind in kinds.items() if kind == "Image"]
    if not pictures:
        raise ImageSetError(
            f"{name} has the columns {', '.join(kinds) or '(none)'}, and none of them is an Image: "
            "cast the pictures' column with cast_column(name, datasets.Image())"
        )
    column = "image" if "image" in pictures else pictures[0]
    labels = [c for c in ("label", "labels") if c in kinds] + [c for c, kind in kinds.items() if kind == "ClassLabel"]
    rows, undecoded = [], {}
    for split, part in parts.items():
        part = part.with_format(None)
        values = list(part.select_columns(labels[:1])[:][labels[0]]) if labels else [None] * len(part)
        names = getattr(features[labels[0]], "names", None) if labels else None
        rows += [Row(_path(split, i), _name(value, names), _split(split), -1, -1) for i, value in enumerate(values)]
        undecoded[split] = part.select_columns([column]).cast_column(column, type(features[column])(decode=False))
    return Listing(root, rows, name), ObjectPlace(undecoded, column)


def _files(part: Any) -> list[tuple[str, Any]] | None:
    """Return path and target of every picture, where a data set keeps such a list."""
    for attribute in ("samples", "imgs", "_samples"):
        found = getattr(part, attribute, None)
        if not isinstance(found, list) or len(found) != len(part):
            continue
        if found and all(len(pair) == 2 and isinstance(pair[0], str | os.PathLike) for pair in found):
            return [(os.path.abspath(pair[0]), pair[1]) for pair in found]
    return None


def _file_rows(parts: dict[str, Any], files: dict[str, list[tuple[str, Any]]], name: str) -> tuple[Listing, Place]:
    """List a data set that is a list of files: as good as the folder itself."""
    folders = [os.path.dirname(path) for found in files.values() for path, _ in found]
    root = os.path.commonpath(folders)
    rows = []
    for split, found in files.items():
        stats = disk_of(root).stats([path for path, _ in found])
        classes = getattr(parts[split], "classes", None)
        rows += [
            Row(os.path.relpath(path, root).replace(os.sep, "/"), _name(target, classes), _split(split), *stat)
            for (path, target), stat in zip(found, stats, strict=True)
        ]
    return Listing(root, rows, os.path.basename(root) or name), Locations(root)


def _labels(part: Any) -> list[str | None]:
    """Return the labels of a sequence of pictures; from a list of them where it has one, to load no picture."""
    targets = None
    for attribute in ("targets", "labels", "_labels"):
        found = getattr(part, attribute, None)
        if found is not None and hasattr(found, "__len__") and len(found) == len(part):
            targets = found.tolist() if hasattr(found, "tolist") else list(found)
            break
    if targets is None:
        targets = [_label_of(part, i) for i in range(len(part))]
    classes = getattr(part, "classes", None)
    return [_name(target, classes) for target in targets]


def _label_of(part: Any, index: int) -> Any:
    item = part[index]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ImageSetError(
            f"item {index} of {_title(part)} is {type(item).__name__}: each must be (picture, label), whose label "
            "may be None"
        )
    return item[1]


def _name(target: Any, classes: Any) -> str | None:
    """Return a label as text: the class's name where there are names."""
    if target is None or target == "":
        return None
    if isinstance(target, str):
        return target
    try:
        number = int(target)
        whole = bool(number == target)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor of several
        whole = False
    if not whole:
        raise ImageSetError(
            f"a label is {target!r:.60}, not one whole number or text: Penult learns one class for each picture"
        )
    if number < 0:
        return None
    names = list(classes) if isinstance(classes, list | tuple) else []
    name = names[number] if number < len(names) else number
    return ", ".join(name) if isinstance(name, tuple | list) else str(name)  # ImageNet's are several words each


def _path(split: str, index: int) -> str:
    return f"{split}/{index}" if split else str(index)


def _split(name: str) -> str:
    return SPLIT_NAMES.get(name.lower(), name)


def _title(part: Any) -> str:
    return type(part).__name__
