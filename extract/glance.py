"""Headers of some pictures of a set, in a moment."""

import dataclasses
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.cores import available_cores
from data.images import ImageSet
from extract.decode import pillow_settings
from extract.survey import Header, read_header

# Headers are parsed for so long, and of so many pictures, at most.
_HEADERS, _HEADER_SECONDS = 1000, 2.0


@dataclasses.dataclass(frozen=True)
class Glance:
    """Headers of some pictures of a set, evenly spread over it.

    Parameters
    ----------
    looked_at : int
        How many.
    formats : dict of str to int
    width, height : int or None
        Medians in pixels.
    nbytes : int
        Of the files that were looked at.
    unreadable : int
        Files whose header says nothing.
    """

    looked_at: int
    formats: dict[str, int]
    width: int | None
    height: int | None
    nbytes: int
    unreadable: int


def glance(images: ImageSet, seed: int = 0) -> Glance:
    """Parse the headers of up to 1,000 pictures, for two seconds at most."""
    order = np.random.default_rng(seed).permutation(len(images))[:_HEADERS]
    until = time.monotonic() + _HEADER_SECONDS

    def look(index: int) -> tuple[Header | None, int] | None:
        if time.monotonic() > until:
            return None
        try:
            data = images.read(index).data
        except (OSError, ValueError):
            return None, 0
        return read_header(data), len(data)

    with pillow_settings(), ThreadPoolExecutor(available_cores()) as pool:
        found = [item for item in pool.map(look, order.tolist()) if item is not None]
    headers = [header for header, _ in found if header is not None]
    formats = [header.format for header in headers]
    return Glance(
        len(found),
        {name: formats.count(name) for name in sorted(set(formats), key=formats.count, reverse=True)},
        int(statistics.median(header.width for header in headers)) if headers else None,
        int(statistics.median(header.height for header in headers)) if headers else None,
        sum(nbytes for _, nbytes in found),
        len(found) - len(headers),
    )
