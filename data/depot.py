"""Blocks at an address (``s3://``, ``gs://``, ``file://`` and the like), of machines that share no disk.

Who publishes brings them from there to the store's own staging folder. An address is for one store.
"""

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data.errors import DamagedStore, MissingDependency, StagingError, StoreError, first_line, how_to_install
from data.layout import Part
from data.staging import block_name, disk_full_hint, new_block, write_all, write_atomically

# Where a file appears only when all of it has arrived.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})
_UNFINISHED = ".writing"
# Blocks fetched beside each other: the wait is the network's, and so many lie in memory at once.
_REQUESTS = 8


def put_block(address: str, run_id: str, number: int, image: bytes) -> str:
    """Write one immutable block at an address, and return its name.

    Raises
    ------
    MissingDependency
        If fsspec, or what it needs for this address, is not installed.
    StagingError
        If it cannot be written.
    """
    name = block_name(run_id, number)
    with _plain_errors(address):
        system, folder = _resolve(address)
        target = f"{folder}/{name}"
        protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        if "file" in protocols:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(target), image)
        elif protocols & _WHOLE:
            system.pipe_file(target, image)
        else:
            system.makedirs(folder, exist_ok=True)
            unfinished = f"{target}.{os.urandom(4).hex()}{_UNFINISHED}"
            system.pipe_file(unfinished, image)
            system.mv(unfinished, target)
    return name


def has_block(address: str, name: str) -> bool:
    """Whether a block is at an address."""
    with _plain_errors(address):
        system, folder = _resolve(address)
        return bool(system.exists(f"{folder}/{name}"))


def bring_blocks(address: str, store: Path) -> int:
    """Move the blocks at an address to the staging folder of a store, each checked; return how many came.

    Raises
    ------
    DamagedStore
        If a block is not what was written; it stays where it is.
    StagingError, DiskFull
        If the address cannot be read, or the disk is full; what was not brought stays where it is.
    """
    with _plain_errors(address):
        system, folder = _resolve(address)
        try:
            listed = system.ls(folder, detail=False)
        except FileNotFoundError:  # nobody has staged anything yet
            return 0
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in listed)
    blocks = [name for name in names if name.startswith("block-") and name.endswith(".h5")]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return sum(pool.map(functools.partial(_bring, address, store), blocks))


def _bring(address: str, store: Path, name: str) -> bool:
    with _plain_errors(address):
        system, folder = _resolve(address)
        try:
            content = system.cat_file(f"{folder}/{name}")
        except FileNotFoundError:  # another run has brought it meanwhile
            return False
    with disk_full_hint(store, len(content)), new_block(store, name) as file:
        write_all(file, content)
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)  # HDF5 takes a lock of its own to read
        try:
            _check(Path(file.name))
        except (DamagedStore, StoreError) as error:
            raise DamagedStore(
                f"{address}/{name} is damaged ({first_line(error)}): remove it and run the same command again, which "
                "computes its rows anew"
            ) from error
    with _plain_errors(address), contextlib.suppress(FileNotFoundError):
        system.rm_file(f"{folder}/{name}")
    return True


def _check(block: Path) -> None:
    """Read all of a block, whose checksums are compared on the way."""
    with Part(block) as part:
        for group in part.features().values():
            _ = group.spec, group.digests
            for index in range(len(group.checksums)):
                group.read_block(index)
        part.views()


def _resolve(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the folder in it."""
    try:
        import fsspec
    except ImportError:
        raise MissingDependency(f"staging at {address} needs fsspec: {how_to_install('sources')}") from None
    try:
        system, folder = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise MissingDependency(
            f"staging at {address} needs another package ({first_line(error)}): for a common cloud "
            f"{how_to_install('sources,cloud')}"
        ) from None
    return system, folder.rstrip("/")


@contextlib.contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """Turn what a cloud's client raises into one error: each has exceptions of its own."""
    try:
        yield
    except MissingDependency:
        raise
    except Exception as error:
        raise StagingError(
            f"the staging address {address} cannot be used ({type(error).__name__}: {first_line(error)}): check the "
            "address and the credentials, and run the same command again; no block is lost"
        ) from error
