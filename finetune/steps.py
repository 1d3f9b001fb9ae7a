"""Steps of training: the loss of a batch, its gradient in parts, and who moves at which rate."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from data.errors import TrainingError, first_line
from finetune.course import Course
from finetune.devices import Runner
from finetune.roster import Rows
from finetune.strategies import Strategy

Floats = npt.NDArray[np.float32]


class Steps:
    """Takes steps of a training.

    Parameters
    ----------
    course : Course
        What and on what; its network is on the runner's device.
    strategy : Strategy
        How.
    runner : Runner
        Where.

    Attributes
    ----------
    optimizer : Optimizer
        Each parameter with the learning rate of its depth.
    """

    def __init__(self, course: Course, strategy: Strategy, runner: Runner) -> None:
        self.course = course
        self.strategy = strategy
        self.runner = runner
        self.optimizer = optimizer_of(course, strategy)
        self._weights = class_weights(course) if strategy.class_weight else None
        self._weights_there = None if self._weights is None else runner.tensor(self._weights)

    def set_rates(self, factor: float) -> None:
        """Multiply all learning rates by a factor of where they start."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def take(self, batch: npt.NDArray[Any], y: Rows, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step; return the mean loss and how many of the batch were right, on the device.

        What is drawn for mixup, and what a mean is taken over, is the whole step's, however many parts it has.
        """
        strategy, runner = self.strategy, self.runner
        total = float(len(y) if self._weights is None else self._weights[y].sum())
        share = float(rng.beta(strategy.mixup, strategy.mixup)) if strategy.mixup else 1.0
        other = rng.permutation(len(y)) if strategy.mixup else None
        losses, rights = [], []
        with explained(len(y)):
            # BatchNorm cannot learn from a part of one
            for part in np.array_split(np.arange(len(y)), min(strategy.accumulate, max(1, len(y) // 2))):
                x = self._inputs(batch[part])
                mixed = [(share, runner.tensor(y[part]))]
                if other is not None:
                    x = share * x + (1 - share) * self._inputs(batch[other[part]])
                    mixed.append((1 - share, runner.tensor(y[other[part]])))
                with runner.autocast():
                    scores = self.course.path(x)
                scores = scores.float()
                answers = scores.detach().argmax(dim=1)
                loss = torch.stack([portion * self._loss(scores, target) for portion, target in mixed]).sum()
                runner.backward(loss / total if strategy.reduction == "mean" else loss)
                losses.append(loss.detach())
                rights += [portion * (answers == target).sum() for portion, target in mixed]
            runner.step(self.optimizer)
        return torch.stack(losses).sum() / total, torch.stack(rights).sum()

    def _inputs(self, batch: npt.NDArray[Any]) -> torch.Tensor:
        return self.course.source.prepare(self.runner.tensor(batch))

    def _loss(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of the losses of some pictures, each weighed by its class."""
        smoothing = self.strategy.label_smoothing
        return F.cross_entropy(scores, target, self._weights_there, label_smoothing=smoothing, reduction="sum")


def class_weights(course: Course) -> Floats:
    """Return what a picture of each class weighs, (k,): all classes weigh the same together."""
    counts = np.bincount(course.targets[course.train], minlength=course.network.last.out_features)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)  # type: ignore[no-any-return]


def optimizer_of(course: Course, strategy: Strategy) -> torch.optim.Optimizer:
    """Return the optimizer of what is trained, each parameter with the learning rate of its depth."""
    depth_of = {f"body.{name}": depth for name, depth in course.depths.parameters.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in course.network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = strategy.rate(depth_of.get(name), course.n_stages)
        # AdamW decays matrices and kernels alone, as is usual with it; SGD all, as the tutorials do
        decays = strategy.optimizer == "sgd" or parameter.ndim > 1
        groups.setdefault((rate, strategy.weight_decay if decays else 0.0), []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    if strategy.optimizer == "adamw":
        return torch.optim.AdamW(settings)
    return torch.optim.SGD(settings, lr=strategy.lr, momentum=strategy.momentum)


@contextlib.contextmanager
def explained(n: int) -> Iterator[None]:
    """Say what may help where a network fails on n pictures: for want of memory, or since they are too small for it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the network failed on {n} pictures ({first_line(error)}): try a smaller --batch-size, more parts with "
            "--accumulate, or another --input-size"
        ) from error
