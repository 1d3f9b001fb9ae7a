"""From paths to pixels: files are read, hashed and decoded in threads ahead of the network, in order."""

import collections
import dataclasses
import hashlib
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from data.errors import first_line
from data.images import Pictures
from data.spec import FeatureSpec
from extract.preprocess import Pixels, UndecodableError, decode, to_input

# A file changed less than this before it was read may change again within its clock's tick: look again next time.
_SETTLED_NS = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Picture:
    """What became of one file.

    Parameters
    ----------
    index : int
        Its position in the pictures that it is one of.
    digest : bytes
        SHA-256 of its bytes in hex; empty if it could not be read.
    pixels : ndarray of shape (height, width, 3), uint8, or None
        None if its features are known already, or if it was skipped.
    reason : str
        Why it was skipped; empty if it was not.
    size, mtime : int
        Bytes, and nanoseconds since 1970; -1 where the file must be looked at again.
    read_seconds, decode_seconds : float
        Time spent in this picture's thread.
    """

    index: int
    digest: bytes
    pixels: Pixels | None
    reason: str
    size: int
    mtime: int
    read_seconds: float
    decode_seconds: float


def read_pictures(
    pictures: Pictures,
    indices: Iterable[int],
    spec: FeatureSpec,
    known: Collection[bytes],
    *,
    workers: int,
    ahead: int,
) -> Iterator[Picture]:
    """Read pictures in threads and yield them in the order given; to be called within `pillow_settings`.

    Parameters
    ----------
    pictures : Pictures
        Where the files are.
    indices : iterable of int
        Which of them, in which order.
    spec : FeatureSpec
        How to make pixels of it.
    known : collection of bytes
        Digests whose features exist: these are hashed, not decoded. It may grow while this runs.
    workers : int
        Threads.
    ahead : int
        How many pictures may be read before they are asked for; bounds the memory.

    Yields
    ------
    Picture
    """
    queue: collections.deque[Future[Picture]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="penult-reader")
    try:
        for index in indices:
            queue.append(pool.submit(read_picture, pictures, index, spec, known))
            if len(queue) > ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_picture(pictures: Pictures, index: int, spec: FeatureSpec, known: Collection[bytes] = ()) -> Picture:
    """Read, hash and, unless its features are known, decode one file; what goes wrong becomes its reason."""
    start = time.perf_counter()
    try:
        content = pictures.read(index)
    except (OSError, ValueError) as error:  # another try may succeed, so no time is remembered
        words = getattr(error, "strerror", None) or first_line(error)
        reason = f"cannot be read: {words.lower()}"
        return Picture(index, b"", None, reason, -1, -1, time.perf_counter() - start, 0.0)
    digest = hashlib.sha256(content.data).hexdigest().encode()
    settled = time.time_ns() - content.mtime > _SETTLED_NS
    mtime = content.mtime if settled else -1
    read_seconds = time.perf_counter() - start
    pixels, reason = None, ""
    if digest not in known:
        try:
            pixels = to_input(decode(content.data), spec)
        except UndecodableError as error:
            reason = str(error)
        except MemoryError:
            reason, mtime = "too little memory to decode it", -1
    decode_seconds = time.perf_counter() - start - read_seconds
    return Picture(index, digest, pixels, reason, content.size, mtime, read_seconds, decode_seconds)
