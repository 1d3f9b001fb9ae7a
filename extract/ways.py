"""Ways to preprocess pictures for a network, one thing at a time changed from its own, and their features."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.cores import available_cores
from data.errors import BackboneError, EngineError, SpecError, first_line
from data.images import ImageSet
from data.spec import FeatureSpec
from data.store import FeatureStore
from extract.extractor import Extractor
from extract.networks import Setup
from extract.options import FITS, Options
from extract.results import Extraction
from extract.wanted import Wanted

OWN = "own"
# Sides to try, of a network for 224; for another in proportion, as multiples of what networks halve five times.
_SIDES, _USUAL, _MULTIPLE = (160, 224, 288), 224, 32
_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to preprocess.

    Parameters
    ----------
    factor : str
        What is changed: ``fit``, ``size``, ``interpolation`` or ``colour``; ``own`` where nothing is.
    name : str
        To what: ``squash``, ``160 px``, ...
    changes : dict of str to value
        Of `extract.options.Options`.
    flags : str
        The same as options of `extract`.
    """

    factor: str
    name: str
    changes: dict[str, Any]
    flags: str


@dataclasses.dataclass(frozen=True)
class Tried:
    """A way whose features are in the store.

    Parameters
    ----------
    factor, name, flags : str
        As of `Way`.
    fingerprint : str
        Of its features.
    milliseconds : float or None
        Of a picture, decoding and network, with all cores at work; None where the store had the features already.
    extracted, reused : int
        Pictures that were computed now, and those that the store had.
    """

    factor: str
    name: str
    flags: str
    fingerprint: str
    milliseconds: float | None
    extracted: int
    reused: int


def ways(own: FeatureSpec) -> list[Way]:
    """Return a network's own preprocessing and everything else to try, one factor at a time.

    Examples
    --------
    >>> [way.name for way in ways(FeatureSpec("torchvision/resnet18", "sha256:00"))]
    ['own', 'squash', 'pad', '160 px', '288 px', 'bicubic', 'grey']
    """
    found = [Way(OWN, OWN, {}, "")]
    found += [Way("fit", name, {"fit": fit}, f"--fit {name}") for name, fit in FITS.items() if fit != own.fit]
    for side in dict.fromkeys(_side(own, of_usual) for of_usual in _SIDES):
        if side != own.crop[0]:
            found.append(Way("size", f"{side} px", {"input_size": side}, f"--input-size {side}"))
    for name in _INTERPOLATIONS:
        if name != own.interpolation:
            found.append(Way("interpolation", name, {"interpolation": name}, f"--interpolation {name}"))
    colour = {"rgb": ("grey", "gray", "--gray"), "gray": ("colour", "rgb", "--color rgb")}.get(own.color)
    if colour:
        found.append(Way("colour", colour[0], {"color": colour[1]}, colour[2]))
    return found


def described(own: FeatureSpec) -> str:
    """Return a network's own preprocessing in words."""
    height, width = own.crop
    side = f"{height}" if height == width else f"{height} x {width}"
    fit = {
        "shorter": f"crop of {side} px from a shorter side of {own.resize}",
        "squash": f"squashed to {own.resize} px, crop of {side}",
        "pad": f"padded to {side} px from a longer side of {own.resize}",
    }[own.fit]
    return f"{fit}, {own.interpolation}, {'colour' if own.color == 'rgb' else own.color}"


@dataclasses.dataclass
class Tryout:
    """Extracts one sample of pictures in every way into one store.

    Parameters
    ----------
    images : ImageSet
        The sample.
    store : Path
        What it holds already is reused.
    wanted : Wanted
        The network; its options are what it is compared with.
    setup : Setup
        How it is run.
    on_progress : callable, optional
        Called with the pictures done and in all, over all ways.
    on_way : callable, optional
        Told the name of the way that begins.

    Attributes
    ----------
    own : str
        The preprocessing that others are compared with, in words; known once `run` has begun.
    refused : dict of str to str
        Why the network does not take some ways.
    notes : list of str
        What the user should know of the extractions.
    skipped : list of Skipped
        Pictures that gave no features.
    """

    images: ImageSet
    store: Path
    wanted: Wanted
    setup: Setup = dataclasses.field(default_factory=Setup)
    on_progress: Callable[[int, int], None] | None = None
    on_way: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.own = ""
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self.skipped: list[Any] = []

    def run(self) -> list[Tried]:
        """Return the ways that the network takes, its own first.

        Raises
        ------
        PenultError
            If its own preprocessing cannot be extracted.
        """
        spec = self.wanted.open().spec
        self.own = described(spec)
        every, tried = ways(spec), []
        for i, way in enumerate(every):
            if self.on_way:
                self.on_way(way.name)
            try:
                tried.append(self._extract(way, i, len(every)))
            except (BackboneError, EngineError, SpecError) as error:  # such as another size for a transformer
                if way.factor == OWN:
                    raise
                self.refused[way.name] = first_line(error, 200)
        return tried

    def _extract(self, way: Way, number: int, ways: int) -> Tried:
        options: Options = dataclasses.replace(self.wanted.options, **way.changes)
        n = len(self.images)
        done = Extractor(
            self.images,
            self.store,
            [dataclasses.replace(self.wanted, options=options)],
            engine=self.setup.engine,
            device=self.setup.device,
            batch_size=self.setup.batch_size,
            on_progress=lambda p: self.on_progress(number * n + p.done, ways * n) if self.on_progress else None,
        ).run()
        self.notes += [note for note in done.notes if note not in self.notes]
        self.skipped = done.skipped
        return Tried(
            way.factor, way.name, way.flags, done.fingerprint, self._milliseconds(done), done.extracted, done.reused
        )

    def _milliseconds(self, done: Extraction) -> float | None:
        """Return what a picture took: on a CPU the time on its cores, which other processes do not make longer."""
        if not done.extracted:
            return None
        if done.engine.endswith("/cpu"):
            work = done.stage_seconds["decode"] + done.stage_seconds["forward"]
            return 1000 * work / done.extracted / available_cores()
        return FeatureStore(self.store).features()[done.fingerprint].extract_milliseconds


def _side(own: FeatureSpec, of_usual: int) -> int:
    """Return what a side is for a network of another size than 224."""
    if own.crop[0] == _USUAL:
        return of_usual
    if of_usual == _USUAL:
        return own.crop[0]
    return max(round(own.crop[0] * of_usual / _USUAL / _MULTIPLE), 1) * _MULTIPLE
