"""Files that hold many pictures (zip, tar, Parquet): one alone, or a folder or pattern of them."""

import glob
import os
import re

from data.archives import Archive, archive_rows
from data.disks import CONTAINERS, disk_of
from data.errors import ImageSetError, MissingFile
from data.listing import Listing, Reader, Row, Tree, above, extension, is_address, join, split_words
from data.manifests import rows_of
from data.parquet import ParquetFile

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(text: str) -> bool:
    """Whether a text has ``{ }``, ``*``, ``?`` or ``[ ]`` in it; a ``?`` in an address begins its query."""
    return glob.has_magic(text.replace("?", "") if is_address(text) else text) or _BRACES.search(text) is not None


def expand(pattern: str) -> list[str]:
    """Write out ``{000000..000003}`` and ``{a,b}``, and find the files of ``*``.

    Raises
    ------
    MissingFile
        If a file that the pattern names is not there, or no file fits.
    """
    braces = _BRACES.search(pattern)
    if braces:
        written = _RANGE.fullmatch(braces[1])
        if written:
            first, last = int(written[1]), int(written[2])
            words = [str(n).zfill(len(written[1])) for n in range(first, last + 1)]
        else:
            words = braces[1].split(",")
        return [file for word in words for file in expand(pattern[: braces.start()] + word + pattern[braces.end() :])]
    disk = disk_of(pattern)
    found = disk.glob(pattern) if glob.has_magic(pattern) else [pattern] if disk.kind(pattern) == "file" else []
    if not found:
        raise MissingFile(f"{pattern} names no file: check the pattern and its numbers")
    return found


def list_container(location: str, notes: list[str]) -> tuple[list[Row], Reader]:
    """List one file of the kinds in `CONTAINERS` that holds the pictures themselves, with what reads them.

    Raises
    ------
    ImageSetError
        If it is damaged, or a Parquet manifest.
    """
    if extension(location) != ".parquet":
        archive = Archive(location)
        return archive_rows(archive, notes), archive.read
    file = ParquetFile(location)
    paths, labels, splits, mtime = file.table()
    if paths is not None:
        raise ImageSetError(f"{location} is a manifest, and one of several files: name it alone")
    return [Row(str(i), *both, -1, mtime) for i, both in enumerate(zip(labels, splits, strict=True))], file.read


def list_one(location: str, name: str) -> Listing:
    """List one container, or the files that a Parquet manifest names."""
    notes: list[str] = []
    if extension(location) == ".parquet":
        paths, labels, splits, _ = ParquetFile(location).table()
        if paths is not None:
            if not all(paths):
                raise ImageSetError(f"{location}, row {paths.index('')}: the path is empty")
            lines = [(path, label or "", split) for path, label, split in zip(paths, labels, splits, strict=True)]
            return Listing(above(location), rows_of(location, lines), name)
    rows, reader = list_container(location, notes)
    return Listing(location, rows, name, notes, {location: reader})


def list_shards(locations: list[str], root: str, name: str) -> Listing:
    """List several containers as one set; a split that a shard's path names counts where its rows name none."""
    notes: list[str] = []
    rows, readers = [], {}
    for location in locations:
        inside = location[len(root) :].lstrip("/" + os.sep) if root else location
        if extension(location) not in CONTAINERS:
            raise ImageSetError(f"{location} is no shard: a pattern names .tar, .zip or .parquet files")
        split = split_words(inside)
        found, readers[location] = list_container(location, notes)
        for row in found:
            row.path, row.split = f"{inside}/{row.path}", row.split or split
            rows.append(row)
    return Listing(root, rows, name, list(dict.fromkeys(notes)), readers)


def list_pattern(pattern: str) -> Listing:
    """List the containers that a pattern names."""
    files = expand(pattern)
    scheme, mark, _ = pattern.partition("://") if is_address(pattern) else ("", "", "")
    root = scheme + mark + os.path.commonpath([above(file).removeprefix(scheme + mark) for file in files])
    return list_shards(files, root, root.rsplit("/", 1)[-1])


def shards_of(root: str, tree: Tree) -> list[str]:
    """Return the containers of a folder that holds no pictures of its own."""
    return [] if tree.pictures else [join(root, path) for path in sorted(tree.containers)]
