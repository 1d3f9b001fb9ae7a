"""Exported graphs on the disk: a folder that several processes share, and that stays within its size."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from data.staging import sweep, write_atomically
from extract.at_hand import graph_folder, graph_limit


def kept_graph(key: str) -> bytes | None:
    """Return a graph, which from now on counts as used last; None where there is none, or none that is whole."""
    path = _graph_file(key)
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        digest, graph = content[:32], content[32:]
        if hashlib.sha256(graph).digest() == digest:
            with contextlib.suppress(OSError):  # a cache of somebody else's
                os.utime(path)
            return graph
    return None


def keep_graph(key: str, graph: bytes) -> None:
    """Keep a graph, whose file is the graph behind its SHA-256; those that were used longest ago make room for it.

    Raises
    ------
    EngineError
        If ``$PENULT_CACHE_SIZE`` is no size.
    """
    path, limit = _graph_file(key), graph_limit()
    with contextlib.suppress(OSError):  # the cache may be full or read-only: the next run exports again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(graph).digest() + graph)
        _make_room(path, limit)


def agreement_file(key: str) -> Path:
    """Return where it is noted that a graph agreed with PyTorch."""
    return graph_folder() / "onnx-agreed" / key


def _graph_file(key: str) -> Path:
    return graph_folder() / "onnx" / f"{key}.graph"


def _make_room(newest: Path, limit: int) -> None:
    """Remove what was used longest ago until the folder is within its limit, but never the newest."""
    sweep(newest.parent.iterdir())
    total = 0
    for _, nbytes, path in sorted(_held(newest.parent), reverse=True):
        total += nbytes
        if total > limit and path != newest:
            agreement_file(path.stem).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _held(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield when each graph was used last, its bytes and its file."""
    for path in folder.glob("*.graph"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            status = path.stat()
            yield status.st_mtime_ns, status.st_size, path
