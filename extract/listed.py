"""More features of pictures that a store lists already; it is left as it was where some of them have gone."""

from collections.abc import Callable
from pathlib import Path

from data.errors import ImageSetError, StoreError, first_line
from data.splits import SplitRule
from data.views import View
from extract.datasets import image_set_of
from extract.extractor import Extractor
from extract.networks import Setup
from extract.results import Extraction, Progress
from extract.wanted import Wanted


def extract_listed(
    store: Path,
    view: View,
    wanted: Wanted,
    setup: Setup,
    on_progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Add to a store what a network gives for pictures of one of its image sets.

    Parameters
    ----------
    store : Path
        Which is not written in place: a new file replaces it.
    view : View
        The pictures: an image set of the store, or some of it.
    wanted : Wanted
        The network, and the vectors wanted of it.
    setup : Setup
        How it is run.
    on_progress : callable, optional
        Called with an `extract.results.Progress` after every picture.

    Raises
    ------
    StoreError
        If a picture that must be read has gone: published without it, the image set would forget it.
    """
    job = Extractor(
        image_set_of(view),
        store,
        [wanted],
        engine=setup.engine,
        device=setup.device,
        batch_size=setup.batch_size,
        precision=setup.precision,
        compile=setup.compile,
        split=SplitRule(**view.split_rule) if view.split_rule else None,
        strict=True,
        keep=True,
        on_progress=on_progress,
    )
    try:
        return job.run()
    except ImageSetError as error:
        where = first_line(error, 400).removesuffix(": mend or remove it, or run without --strict")
        raise StoreError(
            f"{store} lists pictures that it lacks these features of and that cannot be read now ({where}): put them "
            "back, or extract them from where they are; the store was left as it was"
        ) from None
