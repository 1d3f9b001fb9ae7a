"""What an epoch did, and what all of them gave."""

import dataclasses
from typing import Any


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
        Means over the training pictures as they were seen, augmented, while the weights moved; of a mixed picture each
        of the two classes counts by its share.
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

    @property
    def merit(self) -> tuple[float, float]:
        """What is compared: accuracy, and among equals the loss; higher is better."""
        return self.accuracy or 0.0, -(self.loss or 0.0)

    def without_time(self) -> dict[str, Any]:
        """Return the epoch as a checkpoint has it: the same training gives the same."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "seconds"}


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
