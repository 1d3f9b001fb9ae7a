"""The curves of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path

from data.canvas import BLUE, ORANGE, QUIET, Canvas
from finetune.epochs import Epoch


def draw_epochs(path: Path, epochs: Sequence[Epoch], title: str) -> None:
    """Draw accuracy above loss, along the epochs, of training pictures and of those that choose the epoch.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    numbers = [epoch.number for epoch in epochs]
    chosen = epochs[0].accuracy is not None
    with Canvas(path, 2, ratios=(3, 2)) as (_, (top, bottom)):
        top.set_title(title)
        for axes, train, held in (
            (top, [e.train_accuracy for e in epochs], [e.accuracy or 0.0 for e in epochs]),
            (bottom, [e.train_loss for e in epochs], [e.loss or 0.0 for e in epochs]),
        ):
            axes.plot(numbers, train, color=ORANGE, marker="o", markersize=4, linewidth=2, label="train, as augmented")
            if chosen:
                axes.plot(numbers, held, color=BLUE, marker="o", markersize=5, linewidth=2, label="held out")
            axes.set_xticks(numbers[:: max(1, len(numbers) // 12)])
        top.set_ylabel("accuracy")
        bottom.set_ylabel("loss")
        bottom.set_xlabel("epoch")
        if chosen:
            best = max(epochs, key=lambda epoch: epoch.merit)
            top.axvline(best.number, color=QUIET, linewidth=1, linestyle="--")
            top.set_title(f"{title}: {best.accuracy:.4f} held out, in epoch {best.number}")
        top.legend(frameon=False, loc="lower right")
