"""What fine-tuning may be expected to give and to cost, from published pairs and from counting."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from classify.statistics import Interval, wilson_interval

COVERAGE = 0.8
EPOCHS = 25  # of the tutorial on ants and bees, and of our default recipe's order

_VPT = "VTAB-1k, ViT-B/16 of ImageNet-21k, 1,000 training pictures (Jia et al. 2022, arXiv:2203.12119, per task)"
_RESNET = "ResNet-18 of ImageNet-1k"


@dataclasses.dataclass(frozen=True)
class Pair:
    """One image set on which the same network was measured frozen and fine-tuned; accuracies in percent."""

    dataset: str
    near: bool
    frozen: float
    tuned: float
    source: str = _VPT

    @property
    def share(self) -> float:
        """Share of the frozen head's error that fine-tuning removed; below zero where it added some."""
        return (self.tuned - self.frozen) / (100 - self.frozen)


# Near: photographs of things that ImageNet is about. Far: house numbers, VTAB's specialised and structured sets.
PAIRS = (
    Pair("CIFAR-100", True, 63.4, 68.9),
    Pair("Caltech-101", True, 85.0, 87.7),
    Pair("DTD", True, 63.2, 64.3),
    Pair("Flowers-102", True, 97.0, 97.2),
    Pair("Pets", True, 86.3, 86.9),
    Pair("SUN397", True, 51.0, 38.8),
    Pair("Flowers-102, all of it", True, 85.7, 92.5, _RESNET),
    Pair("ants and bees", True, 94.8, 93.5, _RESNET),
    Pair("SVHN", False, 36.6, 87.4),
    Pair("Patch Camelyon", False, 78.5, 79.7),
    Pair("EuroSAT", False, 87.5, 95.7),
    Pair("Resisc45", False, 68.6, 84.2),
    Pair("Retinopathy", False, 74.0, 73.9),
    Pair("Clevr, count", False, 34.3, 56.3),
    Pair("Clevr, distance", False, 30.6, 58.6),
    Pair("DMLab", False, 33.2, 41.7),
    Pair("KITTI, distance", False, 55.4, 65.5),
    Pair("dSprites, location", False, 12.5, 57.5),
    Pair("dSprites, orientation", False, 20.0, 46.7),
    Pair("SmallNORB, azimuth", False, 9.6, 25.7),
    Pair("SmallNORB, elevation", False, 19.2, 29.1),
)


@dataclasses.dataclass(frozen=True)
class Gain:
    """What fine-tuning may do to the accuracy of a frozen head.

    Parameters
    ----------
    points : float
        Expected change in percentage points.
    interval : tuple of float
        80% prediction interval of it.
    share, share_interval : float and tuple of float
        Of the frozen head's error that goes, from the pairs.
    pairs, covered : int
        How many published pairs this rests on, and how many of them the interval from the others holds.
    basis : str
        In words.
    """

    points: float
    interval: Interval
    share: float
    share_interval: Interval
    pairs: int
    covered: int
    basis: str


def expected_gain(right: int, n: int, near: bool | None) -> Gain:
    """Return what fine-tuning may be expected to add, for a frozen head that has `right` of `n` held-out pictures.

    The share of its error that fine-tuning removes is taken from the published pairs of the same similarity: their
    mean, and for the interval the spread of each pair about the mean of the others. The uncertainty of the
    error itself is added in quadrature.

    Parameters
    ----------
    right, n : int
        Held-out pictures that the frozen head got right, and all.
    near : bool or None
        Whether the set is near to the pretraining data; None where that is not known, and all pairs count.

    Examples
    --------
    >>> gain = expected_gain(90, 100, near=False)
    >>> gain.interval[0] < gain.points < gain.interval[1] < 10 * 1.5
    True
    """
    shares = [pair.share for pair in PAIRS if near is None or pair.near == near]
    share, half = _predict(shares)
    covered = 0
    for i, left_out in enumerate(shares):
        middle, reach = _predict(shares[:i] + shares[i + 1 :])
        covered += abs(left_out - middle) <= reach
    error = 100 * (n - right) / n
    low, high = wilson_interval(right, n, COVERAGE)
    spread = math.hypot(error * half, share * 100 * (high - low) / 2)
    most = 100 * (1 - low)  # no more can be won than there is to win
    kind = "all" if near is None else "near" if near else "far"
    return Gain(
        points=share * error,
        interval=(share * error - spread, min(share * error + spread, most)),
        share=share,
        share_interval=(share - half, min(share + half, 1.0)),
        pairs=len(shares),
        covered=covered,
        basis=f"{len(shares)} published pairs of frozen and fine-tuned accuracy ({kind})",
    )


def _predict(shares: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the prediction interval, from the spread about the mean of the others."""
    values = np.asarray(shares)
    n = len(values)
    left_out = (values - values.mean()) * n / (n - 1)  # each less the mean of the others
    deviation = math.sqrt(float((left_out**2).mean()))
    return float(values.mean()), float(student.ppf(0.5 + COVERAGE / 2, n - 1)) * deviation


# Multiply-adds a second that training sustains, from a forward pass in mixed precision: resnet50 (4.09e9 a picture)
# at 4,303 pictures a second, by timm's own benchmark. Networks of depthwise convolutions reach a part of it.
GPU = "RTX 4090"
_GPU_RATE = 4.09e9 * 4303
_GPU_PART = 5.0
# Two cores with AVX2 in float32: resnet50 forward takes 92 ms, EfficientNet-Lite0 (0.385e9) 31 ms.
CPU = "2 CPU cores"
_CPU_RATES = (0.385e9 / 0.031, 4.09e9 / 0.092)
_PASSES = 3  # a step is a forward pass and a backward pass of twice its cost
# One thread decodes and crops a photograph of 500 x 375 in about this time, in seconds; a GPU is given eight.
_DECODE = 0.006
_DECODERS = 8
# Multiply-adds of a picture of 224 x 224, for where torch is not there to count them.
MACS = {
    "timm/tf_efficientnet_lite0": 0.385e9,
    "torchvision/resnet18": 1.81e9,
    "torchvision/resnet50": 4.09e9,
    "torchvision/mobilenet_v2": 0.301e9,
}


@dataclasses.dataclass(frozen=True)
class Price:
    """What fine-tuning the whole network costs, in minutes, from the least to the most that is plausible.

    Parameters
    ----------
    pictures, epochs : int
        How many pictures pass through the network, how often.
    macs : float
        Multiply-adds of one picture's forward pass.
    gpu_minutes, cpu_minutes : tuple of float
        On `GPU` and `CPU`.
    basis : str
        In words.
    """

    pictures: int
    epochs: int
    macs: float
    gpu_minutes: Interval
    cpu_minutes: Interval
    basis: str


def price(pictures: int, macs: float, *, epochs: int = EPOCHS) -> Price:
    """Return what fine-tuning costs: pictures x epochs x multiply-adds x 3, at a stated speed.

    Examples
    --------
    >>> found = price(1000, 1.81e9)
    >>> found.gpu_minutes[0] < 1 < found.cpu_minutes[1]
    True
    """
    passed = pictures * epochs
    work = passed * macs * _PASSES
    decoding = passed * _DECODE / _DECODERS
    cpu = sorted(work / rate / 60 for rate in _CPU_RATES)
    least, most = work / _GPU_RATE, work / _GPU_RATE * _GPU_PART
    gpu = [max(seconds, decoding) / 60 for seconds in (least, most)]
    limit = "reading the pictures" if decoding >= most else "the network" if decoding <= least else "either of the two"
    counted = f"{pictures:,} pictures x {epochs} epochs x {macs / 1e9:.2f}e9 multiply-adds x 3"
    return Price(
        pictures=pictures,
        epochs=epochs,
        macs=macs,
        gpu_minutes=(gpu[0], gpu[1]),
        cpu_minutes=(cpu[0], cpu[1]),
        basis=f"{counted}, and reading them; on the GPU {limit} is the limit",
    )
