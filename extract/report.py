"""What `extract` prints when it is done."""

from pathlib import Path

from rich.console import Console

from data.terminal import duration, printable
from extract.results import Extraction


def print_extraction(console: Console, result: Extraction, store: Path) -> None:
    """Print what was skipped, what is odd, what was done and where it is."""
    for skipped in result.skipped[:10]:
        console.print(f"skipped {printable(skipped.path)}: {printable(skipped.reason)}")
    if len(result.skipped) > 10:
        console.print(f"... and {len(result.skipped) - 10} more (all of them: penult info {store} --json -)")
    for note in result.notes:
        console.print(f"note: {note}")
    parts = [f"{result.extracted} extracted", f"{result.reused} reused"]
    parts += [f"{len(result.skipped)} skipped"] if result.skipped else []
    per_second = result.images_per_second
    rate = f", {per_second:,.0f} pictures/s" if per_second >= 10 else f", {per_second:.2g} pictures/s"
    rate = rate if result.extracted else ""
    workers = f", by {result.workers} workers ({result.engine})" if result.workers > 1 else ""
    console.print(f"{result.images} pictures: {', '.join(parts)} in {duration(result.seconds)}{rate}{workers}")
    if result.limit:
        console.print(result.limit)
    splits = ", ".join(f"{name or 'no split'} {n}" for name, n in result.splits.items())
    if result.published:
        if len(result.features) == 1:
            console.print(f"wrote {store}: {result.dim} features a picture ({result.fingerprint[:12]}); {splits}")
            return
        console.print(f"wrote {store}: {splits}")
        for feature in result.features:
            console.print(f"  {feature.title}: {feature.dim} features a picture ({feature.fingerprint[:12]})")
    else:
        console.print(f"{store} holds all of it already; {splits}")
