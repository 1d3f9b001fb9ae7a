"""A look at every picture of a set: its content, its header, and whether it can be decoded. Imports no torch."""

import collections
import dataclasses
import functools
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.cores import available_cores
from data.errors import why_unread
from data.images import Content, ImageSet
from data.views import DIGEST_DTYPE, Digests
from extract.decode import UndecodableError, decode, orientation_of, pillow_settings

# Formats whose further frames are other pictures; those of an MPO (a camera's JPEG) are previews and depths.
_FRAMED = frozenset({"GIF", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"})
# Files read ahead of the one that is counted, for each thread; bounds the memory.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself before a pixel is decoded.

    Parameters
    ----------
    format : str
        Pillow's name of the format, by content: ``JPEG``, ``PNG``, ...
    mode : str
        Pillow's name of the colours: ``RGB``, ``L``, ``P``, ``CMYK``, ``I;16``, ...
    width, height : int
        Pixels, as shown upright.
    orientation : int
        EXIF's, as it stands there; 1 is upright, 2 to 8 are not, and anything else says nothing.
    frames : int
        1, or more in an animation.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the files of an image set showed, in the set's order.

    Parameters
    ----------
    images : ImageSet
        The set.
    digests : ndarray of shape (n,), S64
        SHA-256 of each file in hex; empty where it could not be read.
    nbytes : ndarray of shape (n,), int64
        Bytes of each file as read.
    widths, heights : ndarray of shape (n,), int32
        Pixels, as shown upright; 0 where the header told nothing.
    orientations : ndarray of shape (n,), int64
        EXIF's, as it stands there; 1 where there is none.
    frames : ndarray of shape (n,), int32
        How many pictures each file holds.
    formats, modes : list of str
        Pillow's names, by content; empty where the header told nothing.
    reasons : dict of int to str
        Why pictures cannot be used, by index.
    decoded : bool
        Whether every file was decoded in full, or its header parsed alone.
    seconds : float
        Time that it took.
    """

    images: ImageSet
    digests: Digests
    nbytes: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    orientations: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int32]
    formats: list[str]
    modes: list[str]
    reasons: dict[int, str]
    decoded: bool
    seconds: float

    @functools.cached_property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Which pictures can be read, as far as was tried, (n,)."""
        usable = np.ones(len(self.images), dtype=np.bool_)
        usable[list(self.reasons)] = False
        return usable


@dataclasses.dataclass(frozen=True)
class _Look:
    digest: bytes
    nbytes: int
    header: Header | None
    reason: str


def survey(
    images: ImageSet,
    *,
    quick: bool = False,
    workers: int = 0,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Survey:
    """Read, hash and parse every file of a set, and decode it as an extraction would.

    Memory holds some hundred bytes a picture, and the files that are being read.

    Parameters
    ----------
    images : ImageSet
        The set.
    quick : bool
        Parse headers alone; files that are damaged further in are then not noticed.
    workers : int
        Threads; 0 is one a core, up to 8.
    on_progress : callable, optional
        Called with pictures done, in all, and unreadable.

    Returns
    -------
    Survey
    """
    start = time.perf_counter()
    n = len(images)
    found = Survey(
        images,
        digests=np.zeros(n, DIGEST_DTYPE),
        nbytes=np.zeros(n, np.int64),
        widths=np.zeros(n, np.int32),
        heights=np.zeros(n, np.int32),
        orientations=np.ones(n, np.int64),
        frames=np.ones(n, np.int32),
        formats=[""] * n,
        modes=[""] * n,
        reasons={},
        decoded=not quick,
        seconds=0.0,
    )
    done = 0
    try:
        with pillow_settings():
            for index, look in enumerate(_looks(images, quick, workers or min(available_cores(), 8))):
                _enter(found, index, look)
                done = index + 1
                if on_progress:
                    on_progress(done, n, len(found.reasons))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {done} of {n} pictures: nothing was written") from None
    return dataclasses.replace(found, seconds=time.perf_counter() - start)


def read_header(data: bytes) -> Header | None:
    """Return what a file's header says, whatever its name; None if Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = _orientation(image, data)
            width, height = image.size
            if 5 <= orientation <= 8 and image.format != "TIFF":  # of a TIFF Pillow gives the upright size
                width, height = height, width
            return Header(image.format or "", image.mode, width, height, orientation, _frames(image))
    except Exception:  # Pillow's plugins raise nearly anything on broken bytes; `decode` has the reason
        return None


def _looks(images: ImageSet, quick: bool, workers: int) -> Iterator[_Look]:
    queue: collections.deque[Future[_Look]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="penult-survey")
    try:
        for index in range(len(images)):
            queue.append(pool.submit(_look, images, index, quick))
            if len(queue) > _AHEAD * workers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _look(images: ImageSet, index: int, quick: bool) -> _Look:
    try:
        content: Content = images.read(index)
    except (OSError, ValueError) as error:
        return _Look(b"", 0, None, f"cannot be read: {why_unread(error).lower()}")
    header = read_header(content.data)
    # without a header decoding fails at once, and has the reason
    reason = _undecodable(content.data) if header is None or not quick else ""
    return _Look(hashlib.sha256(content.data).hexdigest().encode(), len(content.data), header, reason)


def _undecodable(data: bytes) -> str:
    """Return why a file cannot be decoded; empty if it can."""
    try:
        decode(data)
    except UndecodableError as error:
        return str(error)
    except MemoryError:
        return "too little memory to decode it"
    return ""


def _enter(found: Survey, index: int, look: _Look) -> None:
    found.digests[index] = look.digest
    found.nbytes[index] = look.nbytes
    if look.reason:
        found.reasons[index] = look.reason
    if look.header is not None:
        header = look.header
        found.widths[index], found.heights[index] = header.width, header.height
        found.orientations[index], found.frames[index] = header.orientation, header.frames
        found.formats[index], found.modes[index] = header.format, header.mode


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and b"eXIf" not in data:
        return 1  # to look for a chunk that is not there, Pillow would decode the whole picture
    return orientation_of(image)


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1)) if image.format in _FRAMED else 1
    except Exception:  # a later frame is broken, and the first alone is used
        return 1
