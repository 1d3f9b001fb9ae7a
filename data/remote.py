"""Files behind an address (``s3://``, ``gs://``, ``https://`` and the like), read through fsspec.

Credentials and endpoints are those of the environment, as every other tool of a cloud reads them (for S3
``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, profiles and so on).
"""

import contextlib
import datetime
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from data.disks import CONTAINERS, refuse_large
from data.errors import MissingDependency, first_line, how_to_install
from data.listing import Content, Tree, above, extension, is_picture, is_visible

# Requests beside each other when a manifest's files are looked up: the wait is the network's, not the processor's.
_REQUESTS = 16
# A folder is listed whole where a manifest names more of its files than this; otherwise each is asked for.
_FEW = 8
# Of what an archive's index is read in; a tar is walked header by header.
_BLOCK = 1 << 20
_NOT_FOUND = 404
# What file systems call the time of the last change.
_TIMES = ("LastModified", "last_modified", "mtime", "updated")


class RemoteDisk:
    """Files behind addresses; see `data.disks.Disk`. fsspec keeps the connections, shared by all threads."""

    def kind(self, location: str) -> str:
        """Return ``folder``, ``file`` or an empty text."""
        with _plain_errors():
            system, path = _resolve(location)
            try:
                info = system.info(path)
            except FileNotFoundError as error:
                cause = error.__cause__  # of web servers fsspec says so of every failure
                if isinstance(cause, OSError) or getattr(cause, "status", _NOT_FOUND) != _NOT_FOUND:
                    raise OSError(first_line(cause or error)) from None
                return ""
            return "folder" if info["type"] == "directory" else "file"

    def tree(self, location: str) -> Tree:
        """Return what lies below a folder."""
        found = Tree([], set(), [])
        with _plain_errors():
            system, path = _resolve(location)
            base = path.rstrip("/") + "/"
            files = system.find(base, detail=True)
        for name, info in files.items():
            relative = name.removeprefix(base)
            parts = relative.split("/")
            if not all(is_visible(part) for part in parts):
                continue
            found.folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
            if is_picture(relative):
                found.pictures.append((relative, *_stat(info)))
            elif extension(relative) in CONTAINERS:
                found.containers.append(relative)
        return found

    def glob(self, pattern: str) -> list[str]:
        """Return the files that a pattern fits."""
        with _plain_errors():
            system, path = _resolve(pattern)
            return sorted(system.unstrip_protocol(name) for name in system.glob(path))

    def stats(self, locations: Sequence[str]) -> list[tuple[int, int]]:
        """Return size and mtime of files; folders that hold many of them are listed once."""
        folders: defaultdict[str, list[str]] = defaultdict(list)
        for location in locations:
            folders[above(location)].append(location)
        with ThreadPoolExecutor(_REQUESTS) as pool, _plain_errors():
            known = dict(pair for pairs in pool.map(_stats_in, folders, folders.values()) for pair in pairs)
        return [known[location] for location in locations]

    def open(self, location: str) -> BinaryIO:
        """Open a file."""
        with _plain_errors():
            system, path = _resolve(location)
            return cast("BinaryIO", system.open(path, "rb", block_size=_BLOCK))

    def read(self, location: str) -> Content:
        """Return a whole file, by one request; its time is what its listing says."""
        with _plain_errors():
            system, path = _resolve(location)
            data = system.cat_file(path)
        return Content(data, len(data), -1)

    def slice(self, location: str, start: int, size: int, unchanged: tuple[int, int]) -> bytes:
        """Return a part of a file, by one request. Whether the file has changed is not asked again."""
        refuse_large(size)
        if not size:  # of no bytes there is no range
            return b""
        with _plain_errors():
            system, path = _resolve(location)
            return bytes(system.cat_file(path, start=start, end=start + size))


def _resolve(location: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise MissingDependency(f"reading {location} needs fsspec: {how_to_install('sources')}") from None
    try:
        system, path = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError as error:
        raise MissingDependency(
            f"reading {location} needs another package ({first_line(error)}): for a common cloud "
            f"{how_to_install('sources,cloud')}"
        ) from None
    return system, path


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a cloud's client raises into OSError: each has exceptions of its own."""
    try:
        yield
    except (OSError, MissingDependency):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error


def _stats_in(folder: str, locations: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """Return size and mtime of some files of one folder."""
    system, path = _resolve(folder)
    if folder.startswith(("http://", "https://")):  # servers give no time that could be compared
        return [(location, (-1, -1)) for location in locations]
    found: dict[str, tuple[int, int]] = {}
    with contextlib.suppress(FileNotFoundError):
        if len(locations) > _FEW:
            found = {info["name"]: _stat(info) for info in system.ls(path, detail=True)}
    stats = []
    for location in locations:
        name = system._strip_protocol(location)
        if len(locations) <= _FEW:
            with contextlib.suppress(FileNotFoundError):
                found[name] = _stat(system.info(name))
        stats.append((location, found.get(name, (-1, -1))))
    return stats


def _stat(info: dict[str, Any]) -> tuple[int, int]:
    """Return size and mtime in ns of a file that a listing describes; -1 where it does not say."""
    size = info.get("size")
    value = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    with contextlib.suppress(ValueError):
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        since = aware - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        mtime = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    else:
        mtime = -1
    return int(size) if size is not None else -1, mtime
