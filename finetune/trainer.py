"""The loop: epochs over training pictures, held-out pictures after each, the best weights kept; resumable."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data.errors import Diverged
from finetune.course import Course
from finetune.devices import Runner
from finetune.epochs import Epoch, Trained
from finetune.roster import Rows
from finetune.state import State, clear_state, read_state, write_state
from finetune.steps import Floats, Steps, explained
from finetune.strategies import Strategy

# Steps between two looks at the loss: a GPU must finish all its work before it can be read.
_LOOK = 50


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
        network, strategy = self.course.network, self.strategy
        steps = Steps(self.course, strategy, self.runner)
        state = read_state(self.state, self.request)
        history: list[Epoch] = []
        best: dict[str, torch.Tensor] = {}
        kept = 0
        if state:
            state.restore(network, steps.optimizer, self.runner)
            history, best, kept = [Epoch(**epoch) for epoch in state.history], state.best, state.kept
        resumed = len(history)
        if self.on_resume and history:
            self.on_resume(list(history))
        with self.runner.seeded(), self._interruptible():
            for number in range(len(history) + 1, (until or strategy.epochs) + 1):
                if self._patience_is_out(history, kept):
                    break
                history.append(self._epoch(number, steps))
                if self._is_best(history, kept):
                    best, kept = self._moving(), number
                epochs = [dataclasses.asdict(epoch) for epoch in history]
                now = State.of(self._moving(), steps.optimizer, self.runner, best, kept, epochs)
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
        """Return the scores of rows without augmentation, (n, k) float32.

        Raises
        ------
        TrainingError
            If one is no number (`data.errors.Diverged`), or pictures have gone.
        """
        course = self.course
        course.network.eval()
        course.path.training = False
        parts = [np.empty((0, course.network.last.out_features), dtype=np.float32)]
        groups = _split(rows, self.strategy.batch_size)
        # not inference_mode: what a network keeps of such a pass for itself could not be used in training
        with torch.no_grad(), contextlib.closing(course.source.batches(groups)) as batches:
            for batch in batches:
                with explained(len(batch)):
                    x = course.source.prepare(self.runner.tensor(batch))
                    with self.runner.autocast():
                        scores = course.path(x)
                    parts.append(scores.float().cpu().numpy())
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise self._diverged("the network gives scores that are no numbers")
        return found

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

    def _epoch(self, number: int, steps: Steps) -> Epoch:
        """Pass over the training pictures once, and over those that choose."""
        course = self.course
        began = time.perf_counter()
        rate, loss, accuracy = self._pass(number, steps)
        held_loss = held_accuracy = None
        if len(course.choose):
            scores, y = self.scores(course.choose), course.targets[course.choose]
            held_loss = float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(y)))
            held_accuracy = float((scores.argmax(axis=1) == y).mean())
        return Epoch(number, rate, loss, accuracy, held_loss, held_accuracy, time.perf_counter() - began)

    def _pass(self, number: int, steps: Steps) -> tuple[float, float, float]:
        """Take the steps of one epoch; return the last rate of the body, and the means of loss and accuracy."""
        course, strategy = self.course, self.strategy
        self.runner.seed((strategy.seed * 1_000_003 + number) % 2**63)
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
                steps.set_rates(factor)
                loss, right = steps.take(batch, course.targets[rows], rng)
                losses.append(loss * len(rows))
                rights.append(right)
                if step % _LOOK == 0:
                    self._refuse_divergence(float(loss), number)
                if self.on_step:
                    self.on_step((number - 1) * len(groups) + step + 1, strategy.epochs * len(groups))
        mean = sum(torch.stack(losses).tolist()) / len(course.train)
        self._refuse_divergence(mean, number)
        return strategy.lr * factor, mean, float(torch.stack(rights).sum()) / len(course.train)

    def _refuse_divergence(self, loss: float, number: int) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss} in epoch {number}")
        if self.runner.overflows:
            raise self._diverged(f"every gradient overflows in epoch {number}, so that nothing is learnt")

    def _diverged(self, what: str) -> Diverged:
        half = "take --precision bf16 or float32, " if self.runner.precision == "fp16" else ""
        return Diverged(
            f"{what}: {half}lower the learning rate (--lr, now {self.strategy.lr:g}), or let it rise more slowly "
            "(--warmup)"
        )

    def _is_best(self, history: list[Epoch], kept: int) -> bool:
        """Whether the last epoch is the one to keep: of the highest accuracy, and among equals of the lowest loss."""
        if self.strategy.keep == "last" or not kept or history[-1].accuracy is None:
            return True
        return history[-1].merit > history[kept - 1].merit

    def _patience_is_out(self, history: list[Epoch], kept: int) -> bool:
        return bool(self.strategy.patience and history and len(history) - kept >= self.strategy.patience)


def _split(rows: Rows, batch_size: int) -> list[Rows]:
    """Return groups of nearly equal sizes of at most `batch_size`, or one more: BatchNorm cannot learn from one."""
    if not len(rows):
        return []
    return np.array_split(rows, min(math.ceil(len(rows) / batch_size), max(1, len(rows) // 2)))
