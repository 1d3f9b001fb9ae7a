"""Small JPEGs of pictures by content, in one zip file that a person can open too: ``DIGEST.jpg``, uncompressed.

Making them of pictures is for `extract.thumbnails`.
"""

import contextlib
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from data.bundle import is_bundle, read_bundle
from data.errors import DamagedStore

# Zip's own beginning of time: the same thumbnails give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
# No thumbnail of ours is a tenth as large; a stranger's file might hold anything.
_LARGEST = 1 << 20


class Thumbnails(contextlib.AbstractContextManager["Thumbnails"]):
    """The thumbnails of a bundle, to be looked up by digest.

    Parameters
    ----------
    path : Path
        The zip file; opened when the first one is looked up. Threads may look up at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        self._lock = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._opened().namelist())

    def digests(self) -> set[str]:
        """Return the digests of the pictures that have one, in hex."""
        return {name.removesuffix(".jpg") for name in self._opened().namelist()}

    def get(self, digest: bytes | str) -> bytes | None:
        """Return the JPEG of a content, or None where it has none.

        Raises
        ------
        DamagedStore
            If the bytes are not those that were written.
        """
        name = digest.decode("ascii") if isinstance(digest, bytes) else digest
        opened = self._opened()
        try:
            listed = opened.getinfo(f"{name}.jpg")
        except KeyError:
            return None
        try:
            if listed.compress_type != zipfile.ZIP_STORED or listed.file_size > _LARGEST:
                raise zipfile.BadZipFile("no thumbnail of Penult's")
            return opened.read(listed)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
            raise DamagedStore(
                f"{self.path}: the thumbnail of {name[:12]} cannot be read ({error}): {_AGAIN}"
            ) from None

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> zipfile.ZipFile:
        with self._lock:  # opened once, whoever looks first
            if self._file is None:
                try:
                    self._file = zipfile.ZipFile(self.path)
                except FileNotFoundError:
                    raise DamagedStore(f"{self.path} is not there: {_AGAIN}") from None
                except zipfile.BadZipFile as error:
                    raise DamagedStore(f"{self.path} is no file of thumbnails ({error}): {_AGAIN}") from None
            return self._file


_AGAIN = "copy the bundle again, or pack it anew"


def thumbnails_of(store: Path) -> Thumbnails | None:
    """Return the thumbnails of a bundle; None where `store` is none, or has none."""
    found = read_bundle(store).thumbnails if is_bundle(store) else None
    return Thumbnails(found) if found else None


def write_thumbnails(path: Path, thumbnails: Iterable[tuple[bytes, bytes]], most: int) -> tuple[int, bool]:
    """Write digests with their JPEGs until the file has `most` bytes.

    Parameters
    ----------
    path : Path
        A new file.
    thumbnails : iterable of (bytes, bytes)
        Digest in hex and JPEG, the most wanted first, each digest once.
    most : int
        Bytes.

    Returns
    -------
    tuple of int and bool
        How many were written, and whether there were more.
    """
    count, taken = 0, 22  # the end of an empty zip
    with open(path, "xb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as file:
        for digest, jpeg in thumbnails:
            taken += len(jpeg) + 2 * 68 + 76  # the name twice, a local and a central header
            if taken > most:
                return count, True
            file.writestr(zipfile.ZipInfo(f"{digest.decode('ascii')}.jpg", _DATE), jpeg)
            count += 1
    return count, False
