"""Data sets named on the command line that other libraries keep on this disk: ``hf:`` and ``torchvision:``."""

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ImageSetError, MissingDependency, MissingFile, StoreError, first_line, how_to_install
from data.images import ImageSet, make_set, open_images
from data.listing import OBJECT, is_address
from data.objects import list_objects
from data.places import Locations

if TYPE_CHECKING:
    from data.views import View

# These unpickle a file that lies beside the pictures, unchecked; CIFAR's are compared with known checksums first.
_UNSAFE = ("LSUN", "LSUNClass")
# Of torchvision's data sets with a `split`, those that are for measuring classifiers.
_SPLITS = ("train", "val", "test")


def open_source(source: str | os.PathLike[str], name: str | None = None) -> ImageSet:
    """List the pictures of anything that the command line can name.

    Parameters
    ----------
    source : path or text
        ``hf:FOLDER`` (as `datasets.Dataset.save_to_disk` wrote it), ``hf:NAME`` (in the cache of `datasets`),
        ``torchvision:CLASS:FOLDER`` (such as ``torchvision:CIFAR10:data``), or what `data.images.open_images` takes.
    name : str, optional
        The name of the set.

    Raises
    ------
    MissingFile, ImageSetError
        If it is not on this disk, or no usable image set. Nothing is downloaded.
    MissingDependency
        If the library is not installed.
    """
    text = os.fspath(source)
    opener = None if is_address(text) else NAMED.get(text.partition(":")[0])
    return opener(text, name) if opener else open_images(source, name)


def image_set_of(view: "View") -> ImageSet:
    """Return the pictures of a store's image set as it lists them, to compute other features of them.

    Raises
    ------
    StoreError
        If it was read from a Python object.
    PenultError
        If its root cannot be opened.
    """
    if view.root.startswith(OBJECT):
        raise StoreError(f"the pictures of {view.name!r} came from a Python object: only Python can open them again")
    named = None if is_address(view.root) else NAMED.get(view.root.partition(":")[0])
    return ImageSet(
        name=view.name,
        root=view.root,
        paths=list(view.paths),
        targets=view.targets,
        splits=view.splits,
        classes=view.classes,
        sizes=view.sizes,
        mtimes=view.mtimes,
        notes=(),
        place=named(view.root).place if named else Locations(view.root),
    )


def _open_hf(source: str, name: str | None = None) -> ImageSet:
    try:
        import datasets
    except ImportError:
        raise MissingDependency(f"{source} needs datasets: {how_to_install('hub')}") from None
    where = source.removeprefix("hf:")
    root = source
    try:
        if Path(where).is_dir():
            root = f"hf:{os.path.abspath(where)}"
            found = datasets.load_from_disk(where)
        else:
            with _offline(datasets):
                found = datasets.load_dataset(where)
    except (OSError, ValueError) as error:
        raise MissingFile(
            f"{source} is neither a folder that save_to_disk wrote nor in the cache of datasets ({first_line(error)}): "
            f"download it first, with datasets.load_dataset({where!r}) in Python"
        ) from None
    listing, place = list_objects(found, root)
    listing.name = os.path.basename(where.rstrip("/"))
    return make_set(listing, place, name)


def _open_torchvision(source: str, name: str | None = None) -> ImageSet:
    _, _, rest = source.partition(":")
    kind, colon, folder = rest.partition(":")
    if not colon or not folder:
        raise ImageSetError(f"{source} names no folder: write torchvision:CLASS:FOLDER, as in torchvision:CIFAR10:data")
    if kind in _UNSAFE:
        raise ImageSetError(
            f"{source} is not opened: torchvision's {kind} runs what its cache file says; export it first"
        )
    if not Path(folder).is_dir():
        raise MissingFile(f"{folder} does not exist: name the folder that holds torchvision's {kind}")
    try:
        import torchvision.datasets
    except ImportError:
        raise MissingDependency(f"{source} needs torchvision: {how_to_install('extract')}") from None
    known = getattr(torchvision.datasets, kind, None) if kind in torchvision.datasets.__all__ else None
    if known is None or "root" not in inspect.signature(known).parameters:
        raise ImageSetError(
            f"torchvision {torchvision.__version__} has no data set {kind!r}: name one of torchvision.datasets, as in "
            "torchvision:CIFAR10:data"
        )
    listing, place = list_objects(
        _torchvision_parts(known, folder, source), f"torchvision:{kind}:{os.path.abspath(folder)}"
    )
    listing.name = kind
    return make_set(listing, place, name)


def _torchvision_parts(known: Callable[..., Any], folder: str, source: str) -> dict[str, Any]:
    """Open every split that is there."""
    takes = inspect.signature(known).parameters
    download: dict[str, Any] = {"download": False} if "download" in takes else {}
    if "train" in takes:
        choices: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes:
        choices = {split: {"split": split} for split in _SPLITS}
    else:
        choices = {"": {}}
    parts, problem = {}, ""
    for split, choice in choices.items():
        try:
            parts[split] = known(folder, **choice, **download)
        except (RuntimeError, OSError, ValueError) as error:  # a split that it lacks, or files that are not there
            problem = problem or first_line(error)
        except (TypeError, ImportError) as error:
            raise ImageSetError(f"{source} cannot be opened by name ({first_line(error)}): open it in Python") from None
    if not parts:
        raise MissingFile(
            f"{source} is not on this disk ({problem}): put the data set's files there; Penult downloads none"
        )
    return parts


@contextlib.contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Let `datasets` look into its cache alone."""
    import huggingface_hub.constants as hub

    places = ((datasets.config, "HF_HUB_OFFLINE"), (datasets.config, "HF_DATASETS_OFFLINE"), (hub, "HF_HUB_OFFLINE"))
    before = [(module, key, getattr(module, key)) for module, key in places]
    for module, key in places:
        setattr(module, key, True)
    try:
        yield
    finally:
        for module, key, value in before:
            setattr(module, key, value)


NAMED: dict[str, Callable[..., ImageSet]] = {"hf": _open_hf, "torchvision": _open_torchvision}
