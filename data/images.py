"""Image sets: which pictures there are, with their labels and splits, and how to read them. Decodes no picture."""

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data.disks import CONTAINERS, disk_of, read_file, refuse_large
from data.errors import ImageSetError, MissingFile, PenultError, first_line
from data.folders import class_rows
from data.kinds import mistaken
from data.listing import (
    EXTENSIONS,
    OBJECT,
    SPLIT_NAMES,
    Content,
    Listing,
    Row,
    above,
    extension,
    is_address,
    is_picture,
    join,
)
from data.manifests import MANIFESTS, manifest_rows
from data.places import Locations, Place
from data.shards import is_pattern, list_one, list_pattern, list_shards, shards_of
from data.words import counted

__all__ = [
    "EXTENSIONS",
    "SPLIT_NAMES",
    "UNLABELLED",
    "Content",
    "ImageSet",
    "PictureList",
    "Pictures",
    "Selection",
    "Subset",
    "open_images",
    "read_file",
]

UNLABELLED = -1
# Archives that cannot be read from the middle, or that Python cannot read.
_PACKED = (".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")


class Pictures(Protocol):
    """Pictures in an order, whose bytes can be had."""

    def __len__(self) -> int: ...

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""

    def read(self, index: int) -> Content:
        """Return the file of picture `index`. Threads may do so at once.

        Raises
        ------
        OSError, ValueError
            If it cannot be read; another try may succeed.
        """


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """An ordered list of pictures with labels, classes and splits.

    It can be pickled and read in another process: what is open is opened again there.

    Parameters
    ----------
    name : str
        What the store calls it.
    root : str
        What `paths` are relative to: an absolute folder or archive, an address, or the name of a Python data set.
    paths : list of str
        One for each picture, with forward slashes; absolute or an address where a manifest says so.
    targets : ndarray of shape (n,), int32
        Index into `classes`, or -1 where there is no label.
    splits : ndarray of shape (n,), str
        ``train``, ``val``, ``test``, another name from a manifest, or empty where there is no split.
    classes : list of str
        One list for all splits, sorted.
    sizes, mtimes : ndarray of shape (n,), int64
        Bytes and nanoseconds since 1970 of each file when it was listed; -1 where that is not known.
    notes : tuple of str
        What a user would want to know about how the source was read.
    place : Place
        What reads the pictures.
    source : str
        What was named to list them, such as a manifest; empty where that is `root`.
    named : bool
        Whether `name` was chosen rather than taken from the source.
    """

    name: str
    root: str
    paths: list[str]
    targets: npt.NDArray[np.int32]
    splits: npt.NDArray[np.str_]
    classes: list[str]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    notes: tuple[str, ...]
    place: Place
    source: str = ""
    named: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the path of picture `index` of a set of local files."""
        return Path(self.title(index))

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        return join(self.root, self.paths[index])

    def take(self, rows: npt.NDArray[np.int64]) -> "ImageSet":
        """Return some of the pictures, in the order of `rows`; the classes stay."""
        return dataclasses.replace(
            self,
            paths=[self.paths[row] for row in rows.tolist()],
            targets=self.targets[rows],
            splits=self.splits[rows],
            sizes=self.sizes[rows],
            mtimes=self.mtimes[rows],
        )

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        listed = int(self.sizes[index])
        refuse_large(listed)
        content = self.place.read(self.paths[index])
        if content.mtime < 0 and content.size == listed:  # clouds give the time with a listing, not with the file
            return dataclasses.replace(content, mtime=int(self.mtimes[index]))
        return content


class Subset:
    """Some of other pictures.

    Parameters
    ----------
    pictures : Pictures
        All of them.
    rows : sequence of int
        Which, in which order.
    """

    def __init__(self, pictures: Pictures, rows: Sequence[int]) -> None:
        self._pictures = pictures
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        return self._pictures.title(int(self._rows[index]))

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        return self._pictures.read(int(self._rows[index]))


class PictureList:
    """Pictures from anywhere, each named by a root and a path as an image set names them.

    Parameters
    ----------
    places : sequence of (str, str)
        Root and path of each picture.
    named : mapping of str to callable, optional
        What opens a root such as ``hf:digits``, by the word before the colon.
    """

    def __init__(
        self, places: Sequence[tuple[str, str]], named: Mapping[str, Callable[[str], ImageSet]] | None = None
    ) -> None:
        self.places = places
        self.named = named or {}
        self._files = Locations()
        self._opened: dict[str, Place] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.places)

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        return join(*self.places[index])

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        root, path = self.places[index]
        if root.startswith(OBJECT):
            raise OSError(
                f"it came from a Python object ({root.removeprefix(OBJECT)}), which only Python can open again"
            )
        opener = None if is_address(root) else self.named.get(root.partition(":")[0])
        if opener is None:
            return self._files.read(join(root, path))
        with self._lock:  # opened once
            if root not in self._opened:
                try:
                    self._opened[root] = opener(root).place
                except PenultError as error:
                    raise OSError(str(error)) from None
            place = self._opened[root]
        return place.read(path)


class Selection:
    """Pictures of several image sets, one set after another, titled as the user named the sources.

    Parameters
    ----------
    sets : sequence of (str, ImageSet)
        Each source as it was named, and what it was opened as.
    """

    def __init__(self, sets: Sequence[tuple[str, ImageSet]]) -> None:
        self.sets = [images for _, images in sets]
        self.roots = [_as_named(source, images.root) for source, images in sets]
        self._starts = np.cumsum([0, *(len(images) for images in self.sets)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        which, i = self._find(index)
        return join(self.roots[which], self.sets[which].paths[i])

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        which, i = self._find(index)
        return self.sets[which].read(i)

    def _find(self, index: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return which, index - int(self._starts[which])


def open_images(source: Any, name: str | None = None) -> ImageSet:
    """List the pictures of a source.

    Parameters
    ----------
    source : path, address or object
        A folder with one folder for each class, with or without ``train/ val/ test/`` above them; a folder of
        unlabelled pictures; a manifest (CSV, JSON lines, Parquet) with ``path,label[,split]``; a Parquet file that
        holds the pictures; a zip or tar of such a folder; WebDataset shards as a folder or a pattern
        (``train-{0000..0009}.tar``, ``*.tar``); one picture; any of these at an fsspec address (``s3://`` and the
        like); or a data set object (see `data.objects.list_objects`).
    name : str, optional
        The name of the set; by default the last part of `source`.

    Returns
    -------
    ImageSet

    Raises
    ------
    MissingFile
        If `source` does not exist.
    ImageSetError
        If it holds no pictures or is malformed.
    MissingDependency
        If this kind of source needs a package that is not installed.

    Examples
    --------
    >>> images = open_images("pictures")
    >>> len(images), images.classes, images.splits[:2].tolist()
    (36, ['bird', 'cat', 'dog'], ['test', 'test'])
    >>> images.paths[0], images.classes[images.targets[0]]
    ('test/bird/0.png', 'bird')
    """
    if not isinstance(source, str | os.PathLike):
        from data.objects import list_objects  # which needs Pillow

        return make_set(*list_objects(source), name)
    text = os.fspath(source).removeprefix("file://")
    try:
        listing = _list(text)
    except PenultError:
        raise
    except OSError as error:
        if not is_address(text):
            raise
        raise ImageSetError(f"{text} cannot be read ({first_line(error)}): check address and credentials") from None
    named_as = text if is_address(text) else os.path.abspath(text)
    return make_set(listing, Locations(listing.root, listing.readers), name, named_as)


def make_set(listing: Listing, place: Place, name: str | None = None, source: str = "") -> ImageSet:
    """Return an image set of listed pictures; `source` is what was named to list them."""
    rows, notes = listing.rows, listing.notes
    classes = sorted({row.label for row in rows if row.label is not None})
    index = {label: i for i, label in enumerate(classes)}
    targets = [UNLABELLED if row.label is None else index[row.label] for row in rows]
    loose = targets.count(UNLABELLED)
    if classes and loose:
        have = counted(loose, "picture has", "pictures have")
        notes.append(f"{have} no label: they lie outside the class folders or their label is empty")
    return ImageSet(
        name=_checked_name(name) if name else _printable(listing.name),
        root=listing.root,
        paths=[row.path for row in rows],
        targets=np.array(targets, dtype=np.int32),
        splits=np.array([row.split for row in rows], dtype=np.str_),
        classes=classes,
        sizes=np.array([row.size for row in rows], dtype=np.int64),
        mtimes=np.array([row.mtime for row in rows], dtype=np.int64),
        notes=tuple(notes),
        place=place,
        source=source,
        named=bool(name),
    )


def _list(text: str) -> Listing:
    location = text.rstrip("/") if is_address(text) else os.path.abspath(text)
    disk = disk_of(location)
    # a web server has no folders; a page of links is one where the user says so
    kind = "folder" if text.endswith("/") and text.startswith(("http://", "https://")) else disk.kind(location)
    if not kind:
        if is_pattern(text):
            return list_pattern(location)
        raise MissingFile(f"{text} does not exist: name a folder of pictures, a manifest, an archive or a picture")
    base = os.path.basename(location)
    name, ending = os.path.splitext(base)[0], extension(base)
    if kind == "folder":
        listing = _folder(location, base)
        hint = f"pictures end in {', '.join(sorted(EXTENSIONS)[:6])} and the like"
    elif ending in MANIFESTS:
        listing = Listing(above(location), manifest_rows(location, ending), name)
        hint = "the manifest has no rows"
    elif ending in CONTAINERS:
        listing = list_one(location, name)
        hint = "the file has no rows" if ending == ".parquet" else "the archive holds no file that is named like one"
    elif is_picture(base):
        listing = Listing(above(location), [Row(base, None, "", *disk.stats([location])[0])], base)
        hint = ""
    elif ending in _PACKED:
        raise ImageSetError(
            f"{text} is compressed, so its pictures cannot be read in place: unpack it, or decompress it to a .tar"
        )
    else:
        raise ImageSetError(
            mistaken(Path(text), "pictures")
            or f"{text} is neither a folder, a .csv manifest nor a picture, nor another source that Penult knows "
            f"({', '.join(sorted({*MANIFESTS, *CONTAINERS} - {'.csv'}))}): name one of these"
        )
    if not listing.rows:
        none = f"{text} holds no pictures ({hint}): name the folder above the class folders"
        raise ImageSetError(mistaken(Path(text), "pictures") or none)
    return listing


def _folder(location: str, name: str) -> Listing:
    tree = disk_of(location).tree(location)
    shards = shards_of(location, tree)
    if shards:
        return list_shards(shards, location, name)
    notes: list[str] = []
    rows = class_rows(tree, location, notes)
    if tree.containers:
        some = ", ".join(sorted(tree.containers)[:3]) + (", ..." if len(tree.containers) > 3 else "")
        notes.append(f"passed over, beside the pictures: {some}")
    return Listing(location, rows, name, notes)


def _as_named(source: str, root: str) -> str:
    """Return the beginning of `source` that stands for `root`, as a user would recognise it."""
    if not is_address(root):
        for place in (Path(source), *Path(source).parents):
            if os.path.abspath(place) == root:
                return str(place)
    return root


def _checked_name(name: str) -> str:
    """Return a name that can stand in the store's `/datasets/<name>`."""
    if name in (".", "..") or "/" in name or not name.isprintable():
        raise ImageSetError(f"an image set cannot be called {name!r}: choose a name without / and control characters")
    return name


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "_" for c in name) or "images"
