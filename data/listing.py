"""What every kind of source has in common: names of pictures and splits, rows of a listing, and texts for places."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

# What people keep photographs in; what can be decoded is for `extract.decode` to say.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .ico "  # noqa: SIM905
    ".heic .heif .hif .avif .avifs".split()
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

# The root of a set made of a Python object begins so; what follows is its type.
OBJECT = "object:"
# No picture file is larger than this.
MAX_BYTES = 1 << 30
# One letter before the colon is a drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclasses.dataclass(frozen=True)
class Content:
    """A picture as it was read.

    Parameters
    ----------
    data : bytes
        Its file.
    size : int
        Number of bytes as a listing gives it; -1 where listings of this source give none.
    mtime : int
        Modification time in ns since 1970 of the file, or of the archive that it lies in; -1 where it is not known.
    """

    data: bytes
    size: int
    mtime: int


@dataclasses.dataclass(slots=True)
class Row:
    """One picture of a listing; size and mtime as in `Content`, -1 where it could not be found."""

    path: str
    label: str | None
    split: str
    size: int
    mtime: int


@dataclasses.dataclass(slots=True)
class Tree:
    """What lies below a folder or in an archive, hidden things left out; paths relative, with forward slashes.

    Parameters
    ----------
    pictures : list of (str, int, int)
        Path, size and mtime.
    folders : set of str
        Every folder, with or without pictures.
    containers : list of str
        Files that may hold pictures: archives and Parquet files.
    """

    pictures: list[tuple[str, int, int]]
    folders: set[str]
    containers: list[str]


# Reads a picture of an archive or the like by its path inside.
Reader = Callable[[str], Content]


@dataclasses.dataclass
class Listing:
    """What a source holds.

    Parameters
    ----------
    root : str
        What the rows' paths are relative to.
    rows : list of Row
    name : str
        For the set, where the user names none.
    notes : list of str
        What a user would want to know.
    readers : dict of str to callable
        Of the archives that were opened to list them, by location.
    """

    root: str
    rows: list[Row]
    name: str
    notes: list[str] = dataclasses.field(default_factory=list)
    readers: dict[str, Reader] = dataclasses.field(default_factory=dict)


def is_picture(name: str) -> bool:
    """Whether a name ends like a picture's."""
    return extension(name) in EXTENSIONS


def extension(name: str) -> str:
    """Return the ending of a name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name counts."""
    return not name.startswith(".") and name not in _NO_CLASS


def is_address(text: str) -> bool:
    """Whether a text is an address such as ``s3://bucket/folder``, not a local path."""
    return _ADDRESS.match(text) is not None


def join(root: str, path: str) -> str:
    """Return the place of `path` seen from `root`: an absolute path or an address stands for itself."""
    if is_address(path) or os.path.isabs(path) or not root:
        return path
    if is_address(root):
        return f"{root.rstrip('/')}/{path}"
    return str(Path(root) / path)


def above(location: str) -> str:
    """Return the folder that a location lies in."""
    return location.rpartition("/")[0] if is_address(location) else os.path.dirname(location)


def split_words(path: str) -> str:
    """Return the split that a word of a file's path names, such as ``train`` of ``imagenet-train-0001.tar``, or ''."""
    words = re.split(r"[^a-z]+", path.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
