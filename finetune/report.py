"""What a fine-tuning prints."""

from typing import TYPE_CHECKING

from data.terminal import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from finetune.epochs import Epoch
    from finetune.results import Tuning


def print_epoch(console: "Console", epoch: "Epoch", n_epochs: int, *, header: bool = False) -> None:
    """Print one epoch as a line of a table: losses, accuracies, time; above the first the names of the columns."""
    width = max(len("epoch"), 2 * len(str(n_epochs)) + 1)
    chosen = epoch.accuracy is not None and epoch.loss is not None
    held = f"   {epoch.loss:>13.4f}   {epoch.accuracy:>8.4f}" if chosen else ""
    if header:
        names = "   held-out loss   accuracy" if chosen else ""
        console.print(f"{'epoch':<{width}}   train loss   accuracy{names}   time")
    console.print(
        f"{f'{epoch.number}/{n_epochs}':>{width}}   {epoch.train_loss:>10.4f}   {epoch.train_accuracy:>8.4f}{held}   "
        f"{duration(epoch.seconds)}"
    )


def print_note(console: "Console", note: str) -> None:
    """Print what the user should know before training begins."""
    console.print(f"note: {printable(note)}")


def print_resumed(console: "Console", epochs: "Sequence[Epoch]", n_epochs: int) -> None:
    """Print the epochs of an earlier run that is gone on with."""
    console.print(f"going on after {_epochs(len(epochs))} of an earlier run")
    for i, epoch in enumerate(epochs):
        print_epoch(console, epoch, n_epochs, header=i == 0)


def print_tuning(console: "Console", tuning: "Tuning", interval: tuple[float, float]) -> None:
    """Print what was trained, what was kept and how good it is."""
    for item in tuning.skipped:
        console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
    strategy, parts = tuning.strategy, tuning.parts
    frozen = ""
    if strategy.mode == "partial":
        frozen = f", {tuning.frozen} of {tuning.n_stages} stages frozen"
    kept = f"; their activations were computed once, at {tuning.cached}" if tuning.cached and frozen else ""
    console.print(
        f"{tuning.backbone}, {strategy.mode}{frozen}: {_epochs(len(tuning.epochs))} on {len(parts.train)} pictures in "
        f"{duration(tuning.seconds)}{kept}"
    )
    if parts.chosen_on:
        best = tuning.epochs[tuning.kept - 1]
        console.print(f"kept epoch {tuning.kept}, the best on {parts.chosen_on}: accuracy {best.accuracy:.4f}")
    low, high = interval
    console.print(
        f"accuracy on {len(tuning.targets)} pictures of {parts.measured_on}: {tuning.right.mean():.4f} "
        f"[{low:.4f}, {high:.4f}]"
    )
    console.print(f"wrote {printable(str(tuning.checkpoint))}")


def _epochs(n: int) -> str:
    return f"{n} epoch{'' if n == 1 else 's'}"
