"""The loop: epochs over training pictures, held-out pictures after each, the best weights kept; resumable."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from data.errors import TrainingError
from finetune.devices import Runner
from finetune.pictures import Rows
from finetune.state import State, clear_state, read_state, write_state
from finetune.strategies import Strategy
from finetune.surgery import Depths, Freezing, Tuned

Floats = npt.NDArray[np.float32]


class Source(Protocol):
    """What a network is fed with."""

    def batches(self, groups: Sequence[Rows], epoch: int | None = None) -> Iterator[npt.NDArray[Any]]:
        """Yield an array for each group of rows; `epoch` decides what is random, without one nothing is."""

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Return what the network takes, from an array on the device."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What is trained, on what.

    Parameters
    ----------
    network : Tuned
        Whose weights are kept; on the runner's device.
    path : Module
        From what `source` gives to scores (B, k): the network itself, or that part of it which is not cached.
    freezing : Freezing
        What of it is not trained.
    depths : Depths
        For learning rates by stage.
    n_stages : int
        How many there are.
    source : Source
        Gives inputs by row.
    targets : ndarray of shape (n,), int64
        Of every row.
    train, choose : ndarray of int64
        Rows to learn from, and rows that choose the epoch (none: the last is kept).
    """

    network: Tuned
    path: nn.Module
    freezing: Freezing
    depths: Depths
    n_stages: int
    source: Source
    targets: Rows
    train: Rows
    choose: Rows


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Parameters
    ----------
    number : int
        From 1.
    lr : float
        Learning rate of the body at its end.
    train_loss, train_accuracy : float
        Means over the training pictures as they were seen, augmented, while the weights moved.
    loss, accuracy : float or None
        Of the pictures that choose the epoch.
    seconds : float
    """

    number: int
    lr: float
    train_loss: float
    train_accuracy: float
    loss: float | None
    accuracy: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training gave; the course's network has the weights that were kept.

    Parameters
    ----------
    epochs : list of Epoch
        In order.
    kept : int
        Number of the epoch whose weights were kept.
    resumed : int
        Epochs that an earlier run had done.
    """

    epochs: list[Epoch]
    kept: int
    resumed: int


class Trainer:
    """Trains a network.

    Parameters
    ----------
    course : Course
        What and on what.
    strategy : Strategy
        How.
    runner : Runner
        Where.
    state : Path
        File in which a run that is stopped leaves what the next one needs.
    request : str
        Names everything that decides the result; a state of another request is not taken up.
    on_step : callable, optional
        Called with steps done and in all.
    on_epoch : callable, optional
        Called with each `Epoch`.
    """

    def __init__(
        self,
        course: Course,
        strategy: Strategy,
        runner: Runner,
        state: Path,
        request: str,
        on_step: Callable[[int, int], None] | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.course = course
        self.strategy = strategy
        self.runner = runner
        self.state = state
        self.request = request
        self.on_step = on_step
        self.on_epoch = on_epoch

    def run(self, until: int | None = None) -> Trained:
        """Train, going on where an earlier run of the same request was stopped.

        Parameters
        ----------
        until : int, optional
            Stop after this epoch, as if interrupted: the next run goes on; without it all epochs are run.

        Raises
        ------
        TrainingError
            If the loss is not finite, or pictures have gone.
        """
        course, strategy = self.course, self.strategy
        network = course.network
        optimizer = self._optimizer()
        state = read_state(self.state, self.request)
        history = [Epoch(**epoch) for epoch in state.history] if state else []
        best = self._moving()
        kept = 0
        if state:
            state.restore(network, optimizer, self.runner)
            best, kept = state.best, state.kept
        resumed = len(history)
        with self.runner.seeded():
            for number in range(len(history) + 1, (until or strategy.epochs) + 1):
                if self._patience_is_out(history, kept):
                    break
                history.append(self._epoch(number, optimizer))
                if self._is_best(history, kept):
                    best, kept = self._moving(), number
                epochs = [dataclasses.asdict(epoch) for epoch in history]
                now = State.of(self._moving(), optimizer, self.runner, best, kept, epochs)
                write_state(self.state, now, self.request)
                if self.on_epoch:
                    self.on_epoch(history[-1])
        network.load_state_dict(best, strict=False)
        network.eval()
        return Trained(history, kept, resumed)

    def finish(self) -> None:
        """Remove the state, once what was trained is safe elsewhere."""
        clear_state(self.state)

    def scores(self, rows: Rows) -> Floats:
        """Return the scores of rows without augmentation, (n, k) float32."""
        self.course.network.eval()
        self.course.path.training = False
        parts = [np.empty((0, self.course.network.last.out_features), dtype=np.float32)]
        groups = _split(rows, self.strategy.batch_size)
        with torch.inference_mode():
            for batch in self.course.source.batches(groups):
                x = self.course.source.prepare(self.runner.tensor(batch))
                with self.runner.autocast():
                    parts.append(self.course.path(x).float().cpu().numpy())
        return np.concatenate(parts)

    def _moving(self) -> dict[str, torch.Tensor]:
        """Return a copy of what training changes: parameters that have a gradient, statistics that are not frozen."""
        network, frozen = self.course.network, {f"body.{name}" for name in self.course.freezing.modules}
        names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        names |= {name for name, _ in network.named_buffers() if name.rpartition(".")[0] not in frozen}
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items() if name in names}

    def _epoch(self, number: int, optimizer: torch.optim.Optimizer) -> Epoch:
        """Pass over the training pictures once, and over those that choose."""
        course, strategy = self.course, self.strategy
        began = time.perf_counter()
        torch.manual_seed(strategy.seed * 1_000_003 + number)
        rng = np.random.default_rng([strategy.seed, number])
        groups = _split(rng.permutation(course.train), strategy.batch_size)
        course.freezing.train(course.network)
        course.path.training = True
        loss_sum, right = 0.0, 0
        for step, (rows, batch) in enumerate(zip(groups, course.source.batches(groups, number - 1), strict=True)):
            factor = strategy.factor(number - 1 + (step + 1 if strategy.warmup else step) / len(groups))
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            loss, correct = self._step(batch, course.targets[rows], optimizer, rng)
            loss_sum, right = loss_sum + loss * len(rows), right + correct
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} in epoch {number}: lower the learning rate (--lr, now {strategy.lr:g}), or "
                    "let it rise more slowly (--warmup)"
                )
            if self.on_step:
                self.on_step((number - 1) * len(groups) + step + 1, strategy.epochs * len(groups))
        chosen: tuple[float, float] | None = None
        if len(course.choose):
            scores, y = self.scores(course.choose), course.targets[course.choose]
            loss = float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(y)))
            chosen = loss, float((scores.argmax(axis=1) == y).mean())
        return Epoch(
            number=number,
            lr=strategy.lr * strategy.factor(number),
            train_loss=loss_sum / len(course.train),
            train_accuracy=right / len(course.train),
            loss=chosen[0] if chosen else None,
            accuracy=chosen[1] if chosen else None,
            seconds=time.perf_counter() - began,
        )

    def _step(
        self, batch: npt.NDArray[Any], y: Rows, optimizer: torch.optim.Optimizer, rng: np.random.Generator
    ) -> tuple[float, int]:
        """Take one step; return the mean loss and how many of the batch were right."""
        strategy, runner = self.strategy, self.runner
        loss_sum, right = 0.0, 0
        for part in np.array_split(np.arange(len(y)), min(strategy.accumulate, len(y))):
            x = self.course.source.prepare(runner.tensor(batch[part]))
            target = runner.tensor(y[part])
            share = float(rng.beta(strategy.mixup, strategy.mixup)) if strategy.mixup else 1.0
            other = runner.tensor(rng.permutation(len(part))) if strategy.mixup else None
            if other is not None:
                x = share * x + (1 - share) * x[other]
            with runner.autocast():
                scores = self.course.path(x)
            loss = self._loss(scores.float(), target)
            if other is not None:
                loss = share * loss + (1 - share) * self._loss(scores.float(), target[other])
            runner.backward(loss * (len(part) / len(y)))
            loss_sum += float(loss.detach()) * len(part)
            right += int((scores.detach().argmax(dim=1) == target).sum())
        runner.step(optimizer)
        return loss_sum / len(y), right

    def _loss(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weights = self._class_weights()
        smoothing = self.strategy.label_smoothing
        return F.cross_entropy(scores, target, weights, label_smoothing=smoothing)

    def _class_weights(self) -> torch.Tensor | None:
        if not self.strategy.class_weight:
            return None
        counts = np.bincount(self.course.targets[self.course.train], minlength=self.course.network.last.out_features)
        return self.runner.tensor((counts.sum() / (len(counts) * counts)).astype(np.float32))

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer, each parameter with the learning rate of its depth."""
        strategy, course = self.strategy, self.course
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        named = [(f"body.{name}", depth) for name, depth in course.depths.parameters.items()]
        depth_of = dict(named)
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

    def _is_best(self, history: list[Epoch], kept: int) -> bool:
        """Whether the last epoch is the one to keep: of the highest accuracy, and among equals of the lowest loss."""
        if self.strategy.keep == "last" or not kept or history[-1].accuracy is None:
            return True
        return _merit(history[-1]) > _merit(history[kept - 1])

    def _patience_is_out(self, history: list[Epoch], kept: int) -> bool:
        return bool(self.strategy.patience and history and len(history) - kept >= self.strategy.patience)


def _merit(epoch: Epoch) -> tuple[float, float]:
    return epoch.accuracy or 0.0, -(epoch.loss or 0.0)


def _split(rows: Rows, batch_size: int) -> list[Rows]:
    """Return groups of at most `batch_size` and nearly equal sizes: BatchNorm cannot learn from a rest of one."""
    if not len(rows):
        return []
    return np.array_split(rows, math.ceil(len(rows) / batch_size))
