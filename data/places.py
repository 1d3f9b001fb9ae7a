"""Places that give pictures by their paths."""

import re
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from data.archives import Archive
from data.disks import disk_of
from data.errors import ImageSetError
from data.listing import Content, Reader, extension, join
from data.parquet import ParquetFile

# The end of a container's name within a location: the rest is the path inside.
_INSIDE = re.compile(r"(?<=\.zip|\.tar)/|(?<=\.parquet)/", re.IGNORECASE)


class Place(Protocol):
    """Gives pictures by their paths. Threads share it, and it can be sent to another process."""

    def read(self, path: str) -> Content:
        """Return a picture.

        Raises
        ------
        OSError, ValueError
            If it cannot be read; another try may succeed.
        """


class Locations:
    """Pictures by their location: a local file, an address, or a file inside an archive on either.

    Parameters
    ----------
    root : str
        What paths are relative to; may be an archive, or empty where each path is a whole location.
    readers : mapping of str to callable, optional
        What reads the archives that are open already; others are opened when first needed.
    """

    def __init__(self, root: str = "", readers: Mapping[str, Reader] | None = None) -> None:
        self.root = root
        self._readers: dict[str, Reader | None] = dict(readers or {})
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "readers": self._readers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Locations.__init__(self, **state)

    def read(self, path: str) -> Content:
        """Return a picture; see `Place`."""
        location = join(self.root, path)
        for end in _INSIDE.finditer(location):
            reader = self._container(location[: end.start()])
            if reader is not None:
                return reader(location[end.end() :])
        return disk_of(location).read(location)

    def _container(self, location: str) -> Reader | None:
        """Return what reads an archive; None if that is only a folder's name."""
        with self._lock:  # an index is read once
            if location not in self._readers:
                reader: Reader | None = None
                if disk_of(location).kind(location) == "file":
                    reader = _open(location)
                self._readers[location] = reader
            return self._readers[location]


def _open(location: str) -> Reader:
    if extension(location) == ".parquet":
        return ParquetFile(location).read
    archive = Archive(location)
    try:
        archive.index()
    except ImageSetError as error:
        raise OSError(str(error)) from None
    return archive.read
