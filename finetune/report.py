"""What a fine-tuning prints."""

from typing import TYPE_CHECKING

from data.terminal import duration, printable

if TYPE_CHECKING:
    from rich.console import Console

    from finetune.trainer import Epoch
    from finetune.tuning import Tuning


def print_epoch(console: "Console", epoch: "Epoch", n_epochs: int) -> None:
    """Print one epoch as a line: losses, accuracies, time."""
    chosen = ""
    if epoch.accuracy is not None and epoch.loss is not None:
        chosen = f"   held out: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.4f}"
    width = len(str(n_epochs))
    console.print(
        f"epoch {epoch.number:>{width}}/{n_epochs}   train: loss {epoch.train_loss:.4f}, accuracy "
        f"{epoch.train_accuracy:.4f}{chosen}   {duration(epoch.seconds)}"
    )


def print_tuning(console: "Console", tuning: "Tuning", interval: tuple[float, float]) -> None:
    """Print what was trained, what was kept and how good it is."""
    for item in tuning.skipped:
        console.print(f"skipped {printable(item.path)}: {printable(item.reason)}")
    for note in tuning.notes:
        console.print(f"note: {printable(note)}")
    strategy, parts = tuning.strategy, tuning.parts
    if tuning.resumed:
        console.print(f"went on after {tuning.resumed} epochs of an earlier run")
    frozen = ""
    if strategy.mode == "partial":
        frozen = f", {tuning.frozen} of {tuning.n_stages} stages frozen"
    kept = f"; their activations were computed once, at {tuning.cached}" if tuning.cached and frozen else ""
    console.print(
        f"{tuning.backbone}, {strategy.mode}{frozen}: {len(tuning.epochs)} epochs on {len(parts.train)} pictures in "
        f"{duration(tuning.seconds)}{kept}"
    )
    if parts.chosen_on:
        best = tuning.epochs[tuning.kept - 1]
        console.print(
            f"kept the weights of epoch {tuning.kept}, the best on {parts.chosen_on}: accuracy {best.accuracy:.4f}"
        )
    if tuning.before is not None:
        console.print(
            f"before any training: accuracy {tuning.before:.4f} on the {len(tuning.targets)} pictures of "
            f"{parts.measured_on}"
        )
    low, high = interval
    console.print(
        f"accuracy on {len(tuning.targets)} pictures of {parts.measured_on}: {tuning.right.mean():.4f} "
        f"[{low:.4f}, {high:.4f}]"
    )
    console.print(f"wrote {printable(str(tuning.checkpoint))}")
