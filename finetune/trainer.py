"""The loop: epochs over training pictures, held-out pictures after each, the best weights kept; resumable."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from data.errors import Diverged, TrainingError, first_line
from finetune.devices import Runner
from finetune.pictures import Rows
from finetune.state import State, clear_state, read_state, write_state
from finetune.strategies import Strategy
from finetune.surgery import Depths, Freezing, Tuned

Floats = npt.NDArray[np.float32]

# Steps between two looks at the loss: a GPU must finish all its work before it can be read.
_LOOK = 50


class Source(Protocol):
    """What a network is fed with."""

    def batches(self, groups: Sequence[Rows], epoch: int | None = None) -> Generator[npt.NDArray[Any], None, None]:
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
        Learning rate of the body in its last step.
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
    on_resume : callable, optional
        Called with the epochs that an earlier run has done, if any.
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
        on_resume: Callable[[list[Epoch]], None] | None = None,
    ) -> None:
        self.course = course
        self.strategy = strategy
        self.runner = runner
        self.state = state
        self.request = request
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.on_resume = on_resume

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
        KeyboardInterrupt
            On Ctrl-C, with what is kept; the same call again goes on from there.
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
        if self.on_resume and history:
            self.on_resume(list(history))
        with self.runner.seeded(), self._interruptible():
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
        # not inference_mode: what a network keeps of such a pass for itself could not be used in training
        with torch.no_grad(), contextlib.closing(self.course.source.batches(groups)) as batches:
            for batch in batches:
                x = self.course.source.prepare(self.runner.tensor(batch))
                with _explained(len(batch)), self.runner.autocast():
                    scores = self.course.path(x)
                parts.append(scores.float().cpu().numpy())
        return np.concatenate(parts)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Say on Ctrl-C what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            kept = f"finished epochs are kept in {self.state}; run the same command again to go on from there"
            if not self.state.exists():
                kept = "no epoch was finished; run the same command again to start anew"
            raise KeyboardInterrupt(f"interrupted: {kept}") from None

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
        torch.manual_seed((strategy.seed * 1_000_003 + number) % 2**63)
        rng = np.random.default_rng([strategy.seed, number])
        groups = _split(rng.permutation(course.train), strategy.batch_size)
        course.freezing.train(course.network)
        course.path.training = True
        losses: list[torch.Tensor] = []
        rights: list[torch.Tensor] = []
        factor = 1.0
        with contextlib.closing(course.source.batches(groups, number - 1)) as batches:
            for step, (rows, batch) in enumerate(zip(groups, batches, strict=True)):
                # the middle of a step: the first is no step of rate zero where it rises, nor the last where it falls
                factor = strategy.factor(number - 1 + (step + 0.5) / len(groups))
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                loss, right = self._step(batch, course.targets[rows], optimizer, rng)
                losses.append(loss * len(rows))
                rights.append(right)
                if step % _LOOK == 0 or step == len(groups) - 1:
                    self._refuse_divergence(float(losses[-1]), number)
                if self.on_step:
                    self.on_step((number - 1) * len(groups) + step + 1, strategy.epochs * len(groups))
        chosen: tuple[float, float] | None = None
        if len(course.choose):
            scores, y = self.scores(course.choose), course.targets[course.choose]
            held_loss = float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(y)))
            chosen = held_loss, float((scores.argmax(axis=1) == y).mean())
        return Epoch(
            number=number,
            lr=strategy.lr * factor,
            train_loss=sum(torch.stack(losses).tolist()) / len(course.train),
            train_accuracy=int(torch.stack(rights).sum()) / len(course.train),
            loss=chosen[0] if chosen else None,
            accuracy=chosen[1] if chosen else None,
            seconds=time.perf_counter() - began,
        )

    def _refuse_divergence(self, loss: float, number: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} in epoch {number}: lower the learning rate (--lr, now {self.strategy.lr:g}), or "
                "let it rise more slowly (--warmup)"
            )

    def _step(
        self, batch: npt.NDArray[Any], y: Rows, optimizer: torch.optim.Optimizer, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step; return the mean loss and how many of the batch were right, on the device.

        What is drawn for mixup, and what a mean is taken over, is the whole step's, however many parts it has.
        """
        strategy, runner, source = self.strategy, self.runner, self.course.source
        weights = self._class_weights()
        total = float(len(y) if weights is None else weights[y].sum())
        share = float(rng.beta(strategy.mixup, strategy.mixup)) if strategy.mixup else 1.0
        other = rng.permutation(len(y)) if strategy.mixup else np.arange(len(y))
        losses, rights = [], []
        # BatchNorm cannot learn from a part of one
        for part in np.array_split(np.arange(len(y)), min(strategy.accumulate, max(1, len(y) // 2))):
            x = source.prepare(runner.tensor(batch[part]))
            target = runner.tensor(y[part])
            if strategy.mixup:
                x = share * x + (1 - share) * source.prepare(runner.tensor(batch[other[part]]))
            with _explained(len(part)):
                with runner.autocast():
                    scores = self.course.path(x)
                loss = self._loss(scores.float(), target, weights)
                if strategy.mixup:
                    mixed = runner.tensor(y[other[part]])
                    loss = share * loss + (1 - share) * self._loss(scores.float(), mixed, weights)
                runner.backward(loss / total if strategy.reduction == "mean" else loss)
            losses.append(loss.detach())
            rights.append((scores.detach().argmax(dim=1) == target).sum())
        runner.step(optimizer)
        return torch.stack(losses).sum() / total, torch.stack(rights).sum()

    def _loss(self, scores: torch.Tensor, target: torch.Tensor, weights: Floats | None) -> torch.Tensor:
        """Return the sum of the losses of some pictures, each weighed by its class."""
        weight = None if weights is None else self.runner.tensor(weights)
        return F.cross_entropy(scores, target, weight, label_smoothing=self.strategy.label_smoothing, reduction="sum")

    def _class_weights(self) -> Floats | None:
        """Return what a picture of each class weighs, (k,): all classes weigh the same together."""
        if not self.strategy.class_weight:
            return None
        counts = np.bincount(self.course.targets[self.course.train], minlength=self.course.network.last.out_features)
        return (counts.sum() / (len(counts) * counts)).astype(np.float32)  # type: ignore[no-any-return]

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


@contextlib.contextmanager
def _explained(n: int) -> Iterator[None]:
    """Say what may help where a network fails on n pictures: for want of memory, or since they are too small for it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the network failed on {n} pictures ({first_line(error)}): try a smaller --batch-size, more parts with "
            "--accumulate, or another --input-size"
        ) from error


def _split(rows: Rows, batch_size: int) -> list[Rows]:
    """Return groups of nearly equal sizes of at most `batch_size`, or one more: BatchNorm cannot learn from one."""
    if not len(rows):
        return []
    return np.array_split(rows, min(math.ceil(len(rows) / batch_size), max(1, len(rows) // 2)))
