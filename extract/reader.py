"""From files to inputs: one picture is read, hashed, decoded and made into what every network wants of it."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from data.errors import why_unread
from data.images import Pictures
from extract.decode import Pixels, UndecodableError, decode
from extract.preprocess import Recipe, to_inputs

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
    inputs : mapping of Recipe to ndarray of shape (height, width, channels), uint8
        Empty if nothing was wanted of it, or if it was skipped.
    reason : str
        Why it was skipped; empty if it was not.
    size, mtime : int
        Bytes, and nanoseconds since 1970; -1 where the file must be looked at again.
    read_seconds, decode_seconds : float
        Wall time of reading and hashing; time on a core of decoding and resizing.
    """

    index: int
    digest: bytes
    inputs: Mapping[Recipe, Pixels]
    reason: str
    size: int
    mtime: int
    read_seconds: float
    decode_seconds: float


def read_picture(pictures: Pictures, index: int, wanted: Callable[[bytes], Iterable[Recipe]]) -> Picture:
    """Read, hash and decode one file; to be called within `extract.decode.pillow_settings`.

    Parameters
    ----------
    pictures : Pictures
        Where the file is.
    index : int
        Which it is.
    wanted : callable
        From a digest to the recipes that must be made of this content; none if its features are known.

    Returns
    -------
    Picture
        What goes wrong becomes its reason.
    """
    start = time.perf_counter()
    try:
        content = pictures.read(index)
    except (OSError, ValueError) as error:  # another try may succeed, so no time is remembered
        reason = f"cannot be read: {why_unread(error).lower()}"
        return Picture(index, b"", {}, reason, -1, -1, time.perf_counter() - start, 0.0)
    digest = hashlib.sha256(content.data).hexdigest().encode()
    mtime = content.mtime if settled(content.mtime) else -1
    read_seconds = time.perf_counter() - start
    start = time.thread_time()
    inputs: Mapping[Recipe, Pixels] = {}
    reason = ""
    try:
        inputs = _make(content.data, tuple(wanted(digest)), digest)
    except UndecodableError as error:
        reason = str(error)
    except MemoryError:
        reason, mtime = "too little memory to decode it", -1
    return Picture(index, digest, inputs, reason, content.size, mtime, read_seconds, time.thread_time() - start)


def read_some(pictures: Pictures, count: int, wanted: Sequence[Recipe]) -> list[Mapping[Recipe, Pixels]]:
    """Return the inputs of up to `count` pictures, evenly over all, those left out that cannot be read.

    To be called within `extract.decode.pillow_settings`.
    """
    n = min(count, len(pictures))
    chosen = [round(i * (len(pictures) - 1) / max(n - 1, 1)) for i in range(n)]
    read = [read_picture(pictures, i, lambda _: wanted) for i in chosen]
    return [picture.inputs for picture in read if picture.inputs]


def settled(mtime: int) -> bool:
    """Whether a file of this modification time, in ns, can have changed since only if its size or time did."""
    return time.time_ns() - mtime > _SETTLED_NS


def _make(content: bytes, wanted: tuple[Recipe, ...], digest: bytes) -> dict[Recipe, Pixels]:
    """Decode once for each way of decoding, which is one way unless drafts or opacity are asked for."""
    inputs: dict[Recipe, Pixels] = {}
    for alpha, shorter in dict.fromkeys(recipe.decoding for recipe in wanted):
        alike = tuple(recipe for recipe in wanted if recipe.decoding == (alpha, shorter))
        pixels = decode(content, alpha=alpha, shorter=shorter)
        inputs.update(zip(alike, to_inputs(pixels, alike, digest), strict=True))
    return inputs
