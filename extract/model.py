"""An exported model: pictures in, probabilities out. Needs numpy, Pillow and onnxruntime, and no torch.

What the file says of itself is specified in docs/onnx.md.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.errors import EngineError, HeadError, MissingFile, first_line
from data.images import Pictures
from data.predictions import Prediction, Unread
from data.spec import FeatureSpec
from extract.decode import Pixels
from extract.flow import BATCH_ON_CPU, Batch, decoding, flow, share_cores
from extract.networks import Feature, Network
from extract.session import PIXELS, open_session

FORMAT_VERSION = 1
# Keys of the file's metadata; but for the licence, JSON.
ABOUT, CLASSES, PREPROCESSING, LICENCE = "penult", "classes", "preprocessing", "license"
PROBABILITIES = "probabilities"
# What the pixels are of which the graph takes a centre crop.
PREPARED = ("resize", "fit", "crop", "interpolation", "color", "alpha", "exif", "decoder")


class OnnxModel:
    """A file that `export` wrote. It is read when it is first asked.

    Parameters
    ----------
    path : str or Path
        The file.
    content : bytes, optional
        The graph, where it is not a file of its own; `path` is then what messages call it.
    batch_size : int
        Pictures in a batch; 0 chooses.
    """

    def __init__(self, path: str | Path, content: bytes | None = None, batch_size: int = 0) -> None:
        self.path = Path(path)
        self.content = content
        self.batch_size = batch_size

    @functools.cached_property
    def session(self) -> Any:
        """The session of ONNX Runtime.

        Raises
        ------
        MissingFile
            If the file does not exist.
        HeadError
            If it is no graph.
        MissingDependency
            If onnxruntime is not installed.
        """
        if self.content is None and not self.path.is_file():
            raise MissingFile(f"{self.path} does not exist: make it with `export HEAD -o {self.path}`")
        try:
            return open_session(self.content or self.path, share_cores()[1], str(self.path))
        except EngineError as error:
            raise HeadError(f"{error}: export it anew with `export HEAD -o {self.path}`") from None

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself, as it stands there.

        Raises
        ------
        HeadError
            If it is not one that `export` wrote, or of a newer format.
        """
        found: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        missing = sorted({ABOUT, CLASSES, PREPROCESSING} - set(found))
        if missing:
            raise HeadError(
                f"{self.path} is an ONNX graph but no model of Penult's (its metadata lack {', '.join(missing)}): "
                "make one with `export HEAD -o model.onnx`"
            )
        try:
            newest = int(json.loads(found[ABOUT])["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise HeadError(
                f"the metadata of {self.path} cannot be read ({first_line(error)}): export it anew"
            ) from None
        if newest > FORMAT_VERSION:
            raise HeadError(f"{self.path} has format {newest}, this Penult reads up to {FORMAT_VERSION}: update Penult")
        return found

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return list(json.loads(self.metadata[CLASSES]))

    @property
    def about(self) -> dict[str, Any]:
        """The features and their fingerprints, the head, versions, how far it was found to be from the head."""
        return dict(json.loads(self.metadata[ABOUT]))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What becomes of a picture before the graph takes it."""
        return dict(json.loads(self.metadata[PREPROCESSING]))

    @property
    def pixels(self) -> FeatureSpec:
        """The same as the spec of the pixels that the graph takes."""
        known = {name: value for name, value in self.preprocessing.items() if name in PREPARED}
        if known["fit"] == "pad":  # on what the graph then makes zeros of
            known["mean"] = self.preprocessing["in_graph"]["mean"]
        return FeatureSpec.from_json(json.dumps({"backbone": "onnx", "weights": "", **known}))

    def predict_proba(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the probability of each class, (n, k), of prepared pictures (n, height, width, channels) uint8.

        Raises
        ------
        EngineError
            If the graph fails on them.
        """
        try:
            (found,) = self.session.run([PROBABILITIES], {PIXELS: np.ascontiguousarray(pixels)})
        except Exception as error:  # the runtime's errors have no common class but this one
            raise EngineError(
                f"ONNX Runtime failed on {len(pixels)} pictures in {self.path} ({first_line(error)}): export it anew, "
                "or predict from the head itself"
            ) from error
        return np.asarray(found, dtype=np.float32)

    def predict(
        self, pictures: Pictures, on_progress: Callable[[int, int, int], None] | None = None
    ) -> Iterator[Prediction | Unread]:
        """Yield what is found, picture by picture, while others are being decoded; memory does not grow with them.

        Parameters
        ----------
        pictures : Pictures
            What to classify.
        on_progress : callable, optional
            Called with pictures read, in all, and unread.

        Yields
        ------
        Prediction
            In the order of the pictures.
        Unread
            As soon as it turns out that a picture cannot be read.
        """
        network = Network([Feature(self.pixels, {})])
        network.engine = _Engine(self)
        classes, unread = self.classes, 0
        with decoding():
            for item in flow(
                pictures,
                range(len(pictures)),
                [network],
                lacking=lambda _: (0,),
                start=lambda _, __: None,
                workers=available_cores(),
            ):
                if isinstance(item, Batch):
                    for picture, row in zip(item.pictures, item.vectors[0], strict=True):
                        yield _finite(picture.index, pictures.title(picture.index), classes, row)
                    continue
                if item.reason:
                    unread += 1
                    yield Unread(item.index, pictures.title(item.index), item.reason)
                if on_progress:
                    on_progress(item.index + 1, len(pictures), unread)


class _Engine:
    """The model as `extract.flow` runs it."""

    name = "onnx/cpu"
    device = "cpu"
    precision = "float32"

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.batch_size = model.batch_size or BATCH_ON_CPU
        self.lanes, threads = share_cores()
        self.clock = lambda: threads * time.thread_time()
        self.notes: list[str] = []

    def forward(self, pixels: Pixels) -> tuple[npt.NDArray[np.float32], ...]:
        return (self.model.predict_proba(pixels),)


def _finite(index: int, path: str, classes: list[str], row: npt.NDArray[np.float32]) -> Prediction | Unread:
    if np.isfinite(row).all():
        return Prediction(index, path, classes, row)
    return Unread(index, path, "the network gives NaN or infinity for it")
