"""Whether an export says what the head says: on pictures, or on drawn ones where there are none."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from data.errors import EngineError
from data.images import Pictures
from data.tail import Exportable
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.engines import TorchEngine
from extract.flow import decoding
from extract.networks import Feature, Network, Setup
from extract.preprocess import Recipe, to_inputs
from extract.reader import read_some

# Largest difference of a probability, beyond which an export is refused; float32 explains some 1e-6.
TOLERANCE = 1e-4
# Pictures that the export is compared on: a few seconds of the reference on a CPU.
CHECKED = 64

Probabilities = npt.NDArray[np.float64]
Answer = Callable[[Pixels], Probabilities]


@dataclasses.dataclass(frozen=True)
class Check:
    """What the head says of some pictures, which its export must say too.

    Parameters
    ----------
    pixels : ndarray of shape (n, height, width, channels), uint8
        As the export takes them.
    expected : ndarray of shape (n, k), float64
        The head's probabilities.
    drawn : bool
        Whether the pictures were drawn.
    """

    pixels: Pixels
    expected: Probabilities
    drawn: bool

    @classmethod
    def of(
        cls,
        head: Exportable,
        backbone: Backbone,
        features: Sequence[Feature],
        prepared: Recipe,
        pictures: Pictures | None,
    ) -> "Check":
        """Run the reference, PyTorch in float32 and then the head, on some pictures.

        Parameters
        ----------
        head : Exportable
        backbone : Backbone
            Its network.
        features : sequence of Feature
            In the order of the head's columns.
        prepared : Recipe
            Of what the exported module takes.
        pictures : Pictures, optional
            Which to take; without them, drawn ones.

        Raises
        ------
        EngineError
            If none of the pictures can be read.
        """
        network = Network(features)
        wanted = tuple(dict.fromkeys((prepared, *network.recipes)))
        with decoding():
            found = read_some(pictures, CHECKED, wanted) if pictures is not None else []
            if pictures is not None and not found:
                raise EngineError(
                    f"none of the pictures that the export of {head.name} is to be compared on can be read: put them "
                    "back where they were, or compare on drawn ones by leaving out --store"
                )
            inputs = found or [dict(zip(wanted, to_inputs(p, wanted, b""), strict=True)) for p in _drawn()]
            network.engine = TorchEngine(backbone, Setup("torch", "cpu", precision="float32"))
            parts = [network.compute(inputs[i : i + 8]) for i in range(0, len(inputs), 8)]
        vectors = np.concatenate([np.concatenate(part, axis=1) for part in parts])
        return cls(np.stack([i[prepared] for i in inputs]), head.predict_proba(vectors), not found)

    def compare(self, name: str, answer: Answer) -> tuple[float, int]:
        """Return the largest difference of a probability, and of how many pictures the class is the same.

        Raises
        ------
        EngineError
            If the difference is too large.
        """
        # batches of five and what is left, and one alone: the number of pictures must not matter
        parts = [answer(self.pixels[i : i + 5]) for i in range(0, len(self.pixels), 5)]
        parts[0][0] = answer(self.pixels[:1])[0]
        found = np.concatenate(parts)
        difference = float(np.abs(found - self.expected).max())
        if not difference <= TOLERANCE:
            raise EngineError(
                f"the export of {name} is off by {difference:.1e} in a probability, measured on {len(self.pixels)} "
                f"pictures, where {TOLERANCE:.0e} is allowed: nothing was written; predict from the head itself"
            )
        return difference, int((found.argmax(axis=1) == self.expected.argmax(axis=1)).sum())


def _drawn() -> list[Pixels]:
    """Return pictures of soft colours with fine noise, of many sizes: in contrast and brightness all kinds."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(CHECKED):
        height, width = rng.integers(120, 400, 2).tolist()
        steps = rng.integers(2, 12)
        coarse = rng.normal(size=(steps, steps, 3)) * rng.uniform(20, 90)
        rows, columns = (np.arange(n) * steps // n for n in (height, width))
        noise = rng.normal(size=(height, width, 3)) * rng.uniform(0, 40)
        opaque = np.full((height, width, 1), 255.0)
        colours = rng.uniform(60, 200, 3) + coarse[rows][:, columns] + noise
        drawn.append(np.concatenate([colours, opaque], axis=2).clip(0, 255).astype(np.uint8))
    return drawn
