"""What makes the store crash-safe: whole-file atomic writes, the publish lock, and staged blocks.

A block is written under a temporary name, flushed to disk and renamed, and never touched again until a publish
has taken its rows into the store. Names order blocks by the time their run began and by their number in the run.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from data.errors import DiskFull, StoreBusy
from data.terminal import size

_TEMPORARY = ".writing"
# In the name of a temporary file, so that another machine's process numbers are not taken for ours.
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
# A temporary file younger than this may belong to a writer that has opened but not yet locked it.
_GRACE_SECONDS = 60.0
_DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})


def staging_folder(store: Path) -> Path:
    """Return the folder of the blocks that wait to be published into `store`."""
    return store / ".staging" if store.is_dir() else store.with_name(store.name + ".staging")


def new_run_id() -> str:
    """Return a name that no other run on any machine has, and that sorts by time."""
    return f"{time.time_ns():020d}-{os.urandom(4).hex()}"


def staged_blocks(store: Path) -> list[Path]:
    """Return the complete blocks beside `store`, in the order in which they are to be published."""
    return sorted(staging_folder(store).glob("block-*.h5"))


def block_name(run_id: str, number: int) -> str:
    """Return the file name of a run's block; names sort in the order in which blocks are to be published."""
    return f"block-{run_id}-{number:08d}.h5"


def stage_block(store: Path, run_id: str, number: int, image: bytes) -> Path:
    """Write one immutable block beside `store`.

    Raises
    ------
    DiskFull
        If it does not fit; nothing else is touched.
    """
    name = block_name(run_id, number)
    with disk_full_hint(store, len(image)), new_block(store, name) as file:
        write_all(file, image)
    return staging_folder(store) / name


@contextlib.contextmanager
def new_block(store: Path, name: str) -> Iterator[IO[bytes]]:
    """Yield a file that becomes a block of this name beside `store`; see `atomic_file`."""
    path = staging_folder(store) / name
    with contextlib.ExitStack() as stack:
        for attempt in range(3):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = stack.enter_context(atomic_file(path))
                break
            except FileNotFoundError:  # another run has published and removed the empty folder just now
                if attempt == 2:
                    raise
        yield file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file so that a crash at any moment leaves the old one or the new one."""
    with atomic_file(path) as file:
        write_all(file, content)


def write_all(file: IO[bytes], content: Any) -> None:
    """Write all of a buffer to an unbuffered file, which may take it in pieces: a full disk takes a first part."""
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield an unbuffered file (see `write_all`) that becomes `path` when all ends well, and disappears otherwise."""
    temporary = temporary_of(path)
    try:
        with open(temporary, "x+b", buffering=0) as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            os.fsync(file.fileno())
            # still none to be swept, and whoever opens it from now on may read: HDF5 asks for a lock of its own
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.rename(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_of(path: Path) -> Path:
    """Return a name beside `path` that says who is writing it."""
    return path.with_name(f"{path.name}.{_HOST}-{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # of blocks: published and removed by another run, so flushed already
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_blocks(store: Path, published: list[Path]) -> None:
    """Remove blocks whose rows are in the store, and what dead writers left behind."""
    folder = staging_folder(store)
    for block in published:
        block.unlink(missing_ok=True)
    if folder.is_dir():
        sweep(folder.iterdir())
        with contextlib.suppress(OSError):  # not empty: another run is staging
            folder.rmdir()


def temporaries(store: Path) -> list[Path]:
    """Return the unfinished files of publishes into `store`."""
    if store.is_dir():
        return list(store.glob(f"*{_TEMPORARY}"))
    # `features` must not take those of `features.h5` for its own: what follows its name is host, pid and a random part
    mine = re.compile(re.escape(store.name) + r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}" + re.escape(_TEMPORARY))
    return [path for path in store.parent.iterdir() if mine.fullmatch(path.name)]


def sweep(files: Iterable[Path], grace: float = _GRACE_SECONDS) -> None:
    """Remove those of some files that a writer left half written, `grace` seconds ago or more, when it died."""
    for file in files:
        if file.name.endswith(_TEMPORARY) and _abandoned(file, grace):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_lock(store: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the right to publish into `store`; the kernel gives it back if this process dies.

    Parameters
    ----------
    store : Path
        The store's file or folder.
    timeout : float
        Seconds to wait for another publisher.

    Raises
    ------
    StoreBusy
        If another process holds it for longer than that.
    """
    path = store / ".lock" if store.is_dir() else store.with_name(f".{store.name}.lock")
    deadline = time.monotonic() + timeout
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115  (closed below or by the next round)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = (file.read(64) or b"").decode(errors="replace").strip() or "unknown"
            file.close()
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"{store} is being written by another process (pid {holder}) for more than {timeout:g} s: "
                    "what was extracted is kept beside it; run the same command again when that one is done"
                ) from None
            time.sleep(0.05)
            continue
        # The holder removes the file on leaving: make sure that we have not locked a removed one.
        try:
            same = os.fstat(file.fileno()).st_ino == os.stat(path).st_ino
        except FileNotFoundError:
            same = False
        if same:
            break
        file.close()
    with file:
        with contextlib.suppress(OSError):  # only a hint for others, and a full disk must not stop a publish here
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_hint(store: Path, needed: int) -> Iterator[None]:
    """Turn a write that did not fit into one clear message.

    Parameters
    ----------
    store : Path
        What was being written to, for the message.
    needed : int
        Bytes that the write takes in all.
    """
    try:
        yield
    except OSError as error:
        code = 0 if isinstance(error, DiskFull) else _disk_full_code(error)
        if not code:
            raise
        free = shutil.disk_usage(store.parent).free
        raise DiskFull(
            f"no room to write {store}: this step takes {size(needed)} and {size(free)} are free "
            f"({os.strerror(code).lower()}). Nothing is lost: free some space and run the same command again"
        ) from error


def _disk_full_code(error: OSError) -> int:
    """Return the errno if an error says that the disk, the quota or the allowed file size is used up, else 0.

    h5py passes the system's error on only as text, so that is searched too.
    """
    if error.errno in _DISK_FULL:
        return error.errno
    return next((code for code in _DISK_FULL if f"errno = {code}," in str(error)), 0)


def _abandoned(path: Path, grace: float) -> bool:
    """Whether the writer of a temporary file is dead: it holds a lock while it lives, and its number is in the name."""
    dead = writer_is_dead(path)
    try:
        if not dead and time.time() - path.stat().st_mtime < grace:
            return False
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def writer_is_dead(path: Path) -> bool:
    """Whether the process in the name of a temporary file or folder was one of this machine, and lives no more."""
    host, _, rest = path.name.removesuffix(_TEMPORARY).rpartition(".")[2].partition("-")
    pid = rest.partition("-")[0]
    return host == _HOST and pid.isdigit() and not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
