"""Where files are: the local file system, or an address that `data.remote` reads."""

import glob
import io
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from data.listing import MAX_BYTES, Content, Tree, extension, is_address, is_picture, is_visible

# Files that hold pictures inside.
CONTAINERS = frozenset({".zip", ".tar", ".parquet"})


class Disk(Protocol):
    """Files by their location. Holds no open file: every method may be called from several threads at once."""

    def kind(self, location: str) -> str:
        """Return ``folder``, ``file`` or, where there is nothing, an empty text."""

    def tree(self, location: str) -> Tree:
        """Return what lies below a folder, in any order."""

    def glob(self, pattern: str) -> list[str]:
        """Return the locations of the files that a pattern with ``*``, ``?`` or ``[ ]`` fits, sorted."""

    def stats(self, locations: Sequence[str]) -> list[tuple[int, int]]:
        """Return size and mtime of files; -1 where they cannot be known."""

    def open(self, location: str) -> BinaryIO:
        """Open a file to be read from any position."""

    def read(self, location: str) -> Content:
        """Return a whole file."""

    def slice(self, location: str, start: int, size: int, unchanged: tuple[int, int]) -> bytes:
        """Return `size` bytes from `start`, or raise OSError if the file's size and mtime are not `unchanged`."""


class LocalDisk:
    """Files of this machine; locations are paths."""

    def kind(self, location: str) -> str:
        """Return ``folder``, ``file`` or an empty text; see `Disk`."""
        return "folder" if os.path.isdir(location) else "file" if os.path.exists(location) else ""

    def tree(self, location: str) -> Tree:
        """Return what lies below a folder; links are followed, but not in circles."""
        found = Tree([], set(), [])
        _walk(location, "", found, frozenset())
        return found

    def glob(self, pattern: str) -> list[str]:
        """Return the files that a pattern fits; see `Disk`."""
        return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))

    def stats(self, locations: Sequence[str]) -> list[tuple[int, int]]:
        """Return size and mtime of files; see `Disk`."""
        return [_stat(location) for location in locations]

    def open(self, location: str) -> BinaryIO:
        """Open a file; see `Disk`."""
        return open(location, "rb")

    def read(self, location: str) -> Content:
        """Return a whole file; see `Disk`."""
        return read_file(location)

    def slice(self, location: str, start: int, size: int, unchanged: tuple[int, int]) -> bytes:
        """Return a part of a file; see `Disk`. Opening costs 4 us, and a handle that is not kept needs no closing."""
        descriptor = os.open(location, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != unchanged:
                raise OSError("its archive has changed since it was listed")
            return os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)


def disk_of(location: str) -> Disk:
    """Return the disk that a location is on."""
    if not is_address(location):
        return _LOCAL
    from data.remote import RemoteDisk

    return RemoteDisk()


def read_file(path: str | os.PathLike[str]) -> Content:
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
        refuse_large(status.st_size)
        return Content(file.read(), status.st_size, status.st_mtime_ns)


def read_all(location: str) -> io.BytesIO:
    """Return a file that is read whole and at once, such as a manifest's text."""
    with disk_of(location).open(location) as file:
        return io.BytesIO(file.read())


def refuse_large(size: int) -> None:
    """Raise OSError for more bytes than a picture can have."""
    if size > MAX_BYTES:
        raise OSError(f"it has {size:,} bytes, the limit is {MAX_BYTES:,}")


_LOCAL = LocalDisk()


def _walk(folder: str, prefix: str, found: Tree, seen: frozenset[tuple[int, int]]) -> None:
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in seen:  # a link to a folder above
        return
    seen = seen | {(here.st_dev, here.st_ino)}
    for entry in _entries(folder):
        path = prefix + entry.name
        if entry.is_dir():
            found.folders.add(path)
            _walk(entry.path, path + "/", found, seen)
        elif is_picture(entry.name):
            try:
                status = entry.stat()
                found.pictures.append((path, status.st_size, status.st_mtime_ns))
            except OSError:  # a dangling link: the reader lists it with its reason
                found.pictures.append((path, -1, -1))
        elif extension(entry.name) in CONTAINERS:
            found.containers.append(path)


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        yield from [entry for entry in entries if is_visible(entry.name)]


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the latter of a zero byte in a manifest's path
        return -1, -1
    return status.st_size, status.st_mtime_ns
