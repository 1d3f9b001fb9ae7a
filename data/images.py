"""Image sets: which pictures there are, with their labels and splits. Opens no picture."""

import csv
import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.errors import ImageSetError, MissingFile

# What Pillow reads without plugins and people keep photographs in.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .ico".split()  # noqa: SIM905
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Left behind by archivers; hidden files and folders are passed over as well.
_NO_CLASS = frozenset({"__MACOSX", "@eaDir"})

UNLABELLED = -1
# No picture file is larger than this.
MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Content:
    """A picture file as it was read: its bytes, their number, and the modification time in ns since 1970 or -1."""

    data: bytes
    size: int
    mtime: int


class Pictures(Protocol):
    """Pictures in an order, whose bytes can be had."""

    def __len__(self) -> int: ...

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""

    def read(self, index: int) -> Content:
        """Return the file of picture `index`.

        Raises
        ------
        OSError, ValueError
            If it cannot be read; another try may succeed.
        """


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """An ordered list of pictures with labels, classes and splits.

    Parameters
    ----------
    name : str
        What the store calls it.
    root : Path
        Absolute folder that `paths` are relative to.
    paths : list of str
        One for each picture, with forward slashes; absolute where a manifest says so.
    targets : ndarray of shape (n,), int32
        Index into `classes`, or -1 where there is no label.
    splits : ndarray of shape (n,), str
        ``train``, ``val``, ``test``, another name from a manifest, or empty where there is no split.
    classes : list of str
        One list for all splits, sorted.
    sizes, mtimes : ndarray of shape (n,), int64
        Bytes and nanoseconds since 1970 of each file when it was listed; -1 where it could not be found.
    notes : tuple of str
        What a user would want to know about how the folder was read.
    """

    name: str
    root: Path
    paths: list[str]
    targets: npt.NDArray[np.int32]
    splits: npt.NDArray[np.str_]
    classes: list[str]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the path of picture `index` as it can be opened."""
        return self.root / self.paths[index]

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        return str(self.file(index))

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        return read_file(self.file(index))


class PictureList:
    """Pictures from anywhere, each named by a root and a path as an image set names them.

    Parameters
    ----------
    places : sequence of (str, str)
        Root and path of each picture.
    """

    def __init__(self, places: Sequence[tuple[str, str]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def title(self, index: int) -> str:
        """Return how messages name picture `index`."""
        root, path = self.places[index]
        return str(Path(root) / path)

    def read(self, index: int) -> Content:
        """Return the file of picture `index`; see `Pictures`."""
        return read_file(Path(self.title(index)))


def read_file(path: Path) -> Content:
    """Read a regular file.

    Raises
    ------
    OSError, ValueError
        If it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size > MAX_BYTES:
            raise OSError(f"it has {status.st_size:,} bytes, the limit is {MAX_BYTES:,}")
        return Content(file.read(), status.st_size, status.st_mtime_ns)


@dataclasses.dataclass
class _Row:
    path: str
    label: str | None
    split: str
    size: int
    mtime: int


def open_images(source: str | os.PathLike[str], name: str | None = None) -> ImageSet:
    """List the pictures of a folder, a CSV manifest or a single file.

    Parameters
    ----------
    source : path
        A folder with one folder for each class, with or without ``train/ val/ test/`` above them; a folder of
        unlabelled pictures; a CSV file with the columns ``path,label[,split]`` (paths relative to the file);
        or one picture.
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
        If it holds no pictures or the manifest is malformed.
    """
    path = Path(source)
    if not path.exists():
        raise MissingFile(f"{path} does not exist: name a folder of pictures or a CSV manifest")
    absolute = Path(os.path.abspath(path))
    notes: list[str] = []
    if path.is_dir():
        root = absolute
        rows = list(_folder_rows(root, notes))
        hint = f"pictures end in {', '.join(sorted(EXTENSIONS)[:6])} and the like"
    elif path.suffix.lower() == ".csv":
        root = absolute.parent
        rows = list(_csv_rows(absolute))
        hint = "the manifest has no rows"
    elif path.suffix.lower() in EXTENSIONS:
        root = absolute.parent
        rows = [_Row(absolute.name, None, "", *_stat(absolute))]
        hint = ""
    else:
        raise ImageSetError(f"{path} is neither a folder, a .csv manifest nor a picture: name one of these")
    if not rows:
        raise ImageSetError(f"{path} holds no pictures ({hint}): name the folder above the class folders")
    classes = sorted({row.label for row in rows if row.label is not None})
    index = {label: i for i, label in enumerate(classes)}
    targets = [UNLABELLED if row.label is None else index[row.label] for row in rows]
    loose = targets.count(UNLABELLED)
    if classes and loose:
        notes.append(f"{loose} pictures have no label: they lie outside the class folders or their label is empty")
    return ImageSet(
        name=_checked_name(name) if name else _default_name(absolute),
        root=root,
        paths=[row.path for row in rows],
        targets=np.array(targets, dtype=np.int32),
        splits=np.array([row.split for row in rows], dtype=np.str_),
        classes=classes,
        sizes=np.array([row.size for row in rows], dtype=np.int64),
        mtimes=np.array([row.mtime for row in rows], dtype=np.int64),
        notes=tuple(notes),
    )


def _folder_rows(root: Path, notes: list[str]) -> Iterator[_Row]:
    top = [name for name in sorted(os.listdir(root)) if _visible(name)]
    folders = [name for name in top if (root / name).is_dir()]
    # `train` may also be a class of vehicles: a split folder holds folders, or is not the only kind around.
    splits = [f for f in folders if f.lower() in SPLIT_NAMES]
    if splits and (len(splits) == len(folders) or any(_has_folders(root / f) for f in splits)):
        doubled = {SPLIT_NAMES[f.lower()] for f in splits}
        if len(doubled) < len(splits):
            raise ImageSetError(
                f"{root} has several folders for one split ({', '.join(splits)}): keep one name for each"
            )
        others = [f for f in folders if f not in splits and any(_files(root / f, f))]
        if others:
            notes.append(f"passed over, beside the split folders: {', '.join(others)}")
        for folder in splits:
            yield from _class_rows(root / folder, f"{folder}/", SPLIT_NAMES[folder.lower()])
    else:
        yield from _class_rows(root, "", "")


def _class_rows(folder: Path, prefix: str, split: str) -> Iterator[_Row]:
    for name in sorted(os.listdir(folder)):
        if not _visible(name):
            continue
        if (folder / name).is_dir():
            for path, size, mtime in _files(folder / name, prefix + name):
                yield _Row(path, name, split, size, mtime)
        elif os.path.splitext(name)[1].lower() in EXTENSIONS:
            yield _Row(prefix + name, None, split, *_stat(folder / name))


def _files(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and mtime of every picture below `folder`, sorted; links to a folder above are cut."""
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in above:
        return
    above = above | {(here.st_dev, here.st_ino)}
    with os.scandir(folder) as entries:
        ordered = sorted((e for e in entries if _visible(e.name)), key=lambda e: e.name)
    for entry in ordered:
        path = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _files(Path(entry.path), path, above)
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            try:
                status = entry.stat()
                yield path, status.st_size, status.st_mtime_ns
            except OSError:  # a dangling link: the reader lists it with its reason
                yield path, -1, -1


def _csv_rows(manifest: Path) -> Iterator[_Row]:
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(c or "").strip().lower() for c in reader.fieldnames or []]
            if "path" not in columns:
                raise ImageSetError(
                    f"{manifest} has the columns {', '.join(columns) or '(none)'}: "
                    "its first line must name path,label and perhaps split"
                )
            reader.fieldnames = columns
            for row in reader:
                path = (row["path"] or "").strip()
                if not path:
                    raise ImageSetError(f"{manifest}, line {reader.line_num}: the path is empty")
                label = (row.get("label") or "").strip() or None
                split = (row.get("split") or "").strip()
                path = path.replace("\\", "/") if os.sep == "\\" else path
                yield _Row(path, label, SPLIT_NAMES.get(split.lower(), split), *_stat(manifest.parent / path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"{manifest} is no CSV file in UTF-8 ({error}): save it as one") from None


def _checked_name(name: str) -> str:
    """Return a name that can stand in the store's `/datasets/<name>`."""
    if name in (".", "..") or "/" in name or not name.isprintable():
        raise ImageSetError(f"an image set cannot be called {name!r}: choose a name without / and control characters")
    return name


def _default_name(path: Path) -> str:
    name = path.stem if path.suffix.lower() == ".csv" else path.name
    return "".join(c if c.isprintable() else "_" for c in name) or "images"


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the latter of a zero byte in a manifest's path
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_CLASS


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and _visible(entry.name) for entry in entries)
