"""How a network is trained, by name: modes, presets, learning rates of every part and moment."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from data.errors import TrainingError

MODES = ("head", "full", "partial", "scratch", "lp-ft")
OPTIMIZERS = ("sgd", "adamw")
NORMS = ("kept", "batch")
SCHEDULES = ("constant", "step", "cosine", "cooldown")
AUGMENTATIONS = ("none", "flip", "views", "crop")


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Everything that decides how a network is trained.

    Parameters
    ----------
    mode : str
        ``head``: the last layer alone; ``partial``: what follows the first `freeze` stages; ``full``: everything;
        ``scratch``: everything, from random weights; ``lp-ft``: everything, from a last layer that was fitted on the
        frozen features (Kumar et al. 2022, arXiv:2202.10054).
    freeze : int
        Stages that are not trained; 0 leaves the choice to the mode.
    epochs, batch_size : int
        Passes over the training pictures; pictures in a step.
    optimizer : str
        ``sgd`` or ``adamw``.
    lr : float
        Learning rate of the pretrained layers, and of all layers from scratch.
    head_lr_factor : float, optional
        The new last layer's is so many times `lr`; by default ten times, or the same where it starts from what was
        known, which a high rate would soon undo.
    layer_decay : float
        Each stage's is so many times that of the next one.
    norm : str
        ``kept``: BatchNorm goes on with the statistics that it came with; ``batch``: it takes each batch's, and learns
        new ones, as from scratch it must.
    momentum, weight_decay : float
        SGD's momentum; L2 penalty, of all parameters with SGD, of matrices alone with AdamW.
    schedule : str
        ``constant``; ``step``: times `gamma` every `step_epochs`; ``cosine``: down to zero; ``cooldown``: constant, and
        in the second half evenly down to zero (Hagele et al. 2024, arXiv:2405.18392).
    step_epochs, gamma
        Of the schedule ``step``.
    warmup : float
        Epochs over which the rate rises from zero.
    label_smoothing, mixup : float
        Share of the target that is spread over all classes; parameter of the Beta distribution from which two
        pictures' shares are drawn (Zhang et al. 2018, arXiv:1710.09412), 0 for none.
    augment : str
        ``none``: the centre crop; ``flip``: mirrored half the time; ``crop``: random resized crops, mirrored half the
        time; ``views``: `views` such crops of each picture, in turn, whose activations can be kept.
    views : int
        How many.
    class_weight : str
        Empty, or ``balanced``: classes weigh the same.
    reduction : str
        ``mean``: a step's gradient is that of the mean loss of its pictures; ``sum``: of the sum, so that `lr` is for
        a picture and not for a step.
    accumulate : int
        Parts that a step's gradient is summed from, to fit a smaller memory.
    keep : str
        ``best``: the weights of the epoch with the highest accuracy on held-out pictures; ``last``.
    patience : int
        Stop after so many epochs without a better one; 0 never.
    hold_out : float
        Share of the training pictures that chooses the epoch where no split can.
    precision : str
        ``auto`` (fp16 on CUDA), ``float32``, ``fp16`` or ``bf16``.
    seed : int
        Of the new layer, the order, the augmentation, dropout.
    """

    mode: str = "full"
    freeze: int = 0
    epochs: int = 15
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.0005
    head_lr_factor: float | None = None
    layer_decay: float = 1.0
    norm: str = "kept"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    step_epochs: int = 7
    gamma: float = 0.1
    warmup: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    augment: str = "crop"
    views: int = 8
    class_weight: str = ""
    reduction: str = "mean"
    accumulate: int = 1
    keep: str = "best"
    patience: int = 0
    hold_out: float = 0.15
    precision: str = "auto"
    seed: int = 0

    def check(self) -> None:
        """Raise if a value makes no sense.

        Raises
        ------
        TrainingError
        """
        for name, known in (
            ("mode", MODES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("class_weight", ("", "balanced")),
            ("reduction", ("mean", "sum")),
            ("keep", ("best", "last")),
            ("norm", NORMS),
        ):
            if getattr(self, name) not in known:
                raise TrainingError(
                    f"{name} must be one of {', '.join(filter(None, known))}: got {getattr(self, name)!r}"
                )
        least: dict[str, float] = {
            "epochs": 1,
            "batch_size": 2,
            "accumulate": 1,
            "freeze": 0,
            "patience": 0,
            "views": 1,
            "step_epochs": 1,
            "seed": 0,
        }
        least |= {"weight_decay": 0, "warmup": 0, "mixup": 0}
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be {bound} or more: got {getattr(self, name)}")
        for name in ("lr", "head_lr_factor", "layer_decay", "gamma"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise TrainingError(f"{name} must be above 0: got {getattr(self, name)}")
        for name in ("label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 0 and below 1: got {getattr(self, name)}")
        if not 0 < self.hold_out < 1:
            raise TrainingError(f"hold_out must be between 0 and 1: got {self.hold_out}")
        if self.freeze and self.mode != "partial":
            raise TrainingError(f"freeze is for the mode partial: got mode {self.mode} and freeze {self.freeze}")

    def factor(self, epoch: float) -> float:
        """Return what learning rates are multiplied by when `epoch` epochs have passed, such as 2.5.

        Examples
        --------
        >>> ants = PRESETS["ants"]
        >>> [ants.factor(epoch) for epoch in (0, 6.9, 7)]
        [1.0, 1.0, 0.1]
        """
        rising = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        if self.schedule == "step":
            return rising * self.gamma ** int(epoch // self.step_epochs)
        if self.schedule == "cosine":
            return rising * 0.5 * (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0)))
        if self.schedule == "cooldown":
            return rising * min(1.0, max(2 * (1 - epoch / self.epochs), 0.0))
        return rising

    def settled(self, known: bool) -> "Strategy":
        """Return the strategy with nothing left open, for a last layer that starts from what was `known` or not."""
        if self.head_lr_factor is not None:
            return self
        return dataclasses.replace(self, head_lr_factor=1.0 if known else 10.0)

    def rate(self, depth: int | None, n_stages: int) -> float:
        """Return the learning rate of a parameter at the start.

        Parameters
        ----------
        depth : int or None
            In which stage it is used, `n_stages` for behind the last; None for the new last layer.
        n_stages : int
            How many stages there are.
        """
        if depth is None:
            return self.lr * (self.head_lr_factor or 10.0)
        return self.lr * self.layer_decay ** (n_stages - depth)

    def frozen(self, n_stages: int) -> int:
        """Return how many stages are not trained; one more than there are for the whole body."""
        if self.mode == "head":
            return n_stages + 1
        if self.mode == "partial":
            return self.freeze or max(n_stages - 1, 1)
        return 0


# The recipes of the tutorials (docs/experiments.md): what is not named stays at `Strategy`'s own.
_ANTS: dict[str, Any] = {  # ResNet-18 on ants and bees: SGD, one rate for all layers, StepLR(7, 0.1), 25 epochs
    **{"epochs": 25, "batch_size": 4, "lr": 0.001, "head_lr_factor": 1.0, "weight_decay": 0.0},
    "norm": "batch",
    **{"schedule": "step", "step_epochs": 7, "gamma": 0.1, "warmup": 0.0, "augment": "crop"},
}
_HOTDOG: dict[str, Any] = {  # hot dogs: ten times the rate for the new layer, weight decay 0.001, 5 epochs
    **{"epochs": 5, "batch_size": 128, "lr": 5e-5, "head_lr_factor": 10.0, "momentum": 0.0, "weight_decay": 0.001},
    "norm": "batch",
    # d2l sums the losses of a batch, and keeps the last epoch's weights
    **{"schedule": "constant", "warmup": 0.0, "augment": "crop", "reduction": "sum", "keep": "last"},
}
PRESETS = {"default": Strategy(), "ants": Strategy(**_ANTS), "hotdog": Strategy(**_HOTDOG)}
_FROM_SCRATCH: dict[str, dict[str, Any]] = {
    # from scratch all layers learn at the new layer's rate
    "default": {"lr": 0.03, "head_lr_factor": 1.0, "epochs": 30, "norm": "batch"},
    "ants": {},
    "hotdog": {"lr": 5e-4, "head_lr_factor": 1.0},
}


# Values that mean something in company of another alone.
_ONLY_WITH = {
    "views": ("augment", "views"),
    "momentum": ("optimizer", "sgd"),
    "step_epochs": ("schedule", "step"),
    "gamma": ("schedule", "step"),
    "patience": ("keep", "best"),
    "hold_out": ("keep", "best"),
}
_BY_MODE: dict[str, dict[str, Any]] = {
    # mirroring, whose activations can be kept
    "head": {"augment": "flip"},
    "partial": {"augment": "flip"},
    # the last layer is as good as it can be for these features: no part of the network may leave them fast
    "lp-ft": {"lr": 0.0003},
}


def make_strategy(mode: str, preset: str = "default", changes: Mapping[str, Any] | None = None) -> Strategy:
    """Return a preset for a mode, with some values changed.

    Parameters
    ----------
    mode : str
        A key of `MODES`.
    preset : str
        A key of `PRESETS`.
    changes : mapping of str to value, optional
        Fields of `Strategy` by name.

    Examples
    --------
    >>> make_strategy("scratch", "hotdog").lr
    0.0005
    >>> make_strategy("full", "ants", {"epochs": 2}).epochs
    2

    Raises
    ------
    TrainingError
        If there is no such preset, or a value makes no sense, by itself or beside another.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}: use {', '.join(PRESETS)}")
    own: dict[str, Any] = {}
    if mode == "scratch":
        own = _FROM_SCRATCH[preset]
    elif preset == "default":
        own = _BY_MODE.get(mode, {})
    changes = changes or {}
    strategy = dataclasses.replace(PRESETS[preset], **{**own, **changes, "mode": mode})
    strategy.check()
    for name, (other, needed) in _ONLY_WITH.items():
        if changes.get(name, getattr(Strategy, name)) != getattr(Strategy, name) and getattr(strategy, other) != needed:
            raise TrainingError(f"{name} is for {other} {needed}: got {other} {getattr(strategy, other)}")
    return strategy
