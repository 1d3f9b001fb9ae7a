"""What a head is, the network that was trained with it, or the model it was exported as: what `info HEAD` says.

Without torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.artifact import load_head
from data.terminal import printable, size
from data.words import counted

if TYPE_CHECKING:
    from rich.console import Console

_CLASSES = 20  # names that are printed; --json has all


def describe_head(path: Path) -> dict[str, Any]:
    """Return what `info --json` prints of a head or a fine-tuned network; names are those of `fit --json`.

    Raises
    ------
    HeadError, MissingFile
        If it cannot be read as a head.
    """
    head = load_head(path)
    sources = [(spec.title, spec.fingerprint) for spec in head.specs]
    found = describe_facts(path, head.kind, head.info, sources, head.classes, len(head.train_keys))
    if head.kind == "finetuned":
        found |= {name: head.info[name] for name in ("epochs", "kept_epoch")}
    return found


def describe_facts(
    path: Path,
    kind: str,
    info: Mapping[str, Any],
    sources: Sequence[tuple[str, str]],
    classes: list[str],
    n_train: int | None = None,
) -> dict[str, Any]:
    """Return what a file says of the head in it.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        Of the head.
    info : mapping
        What the file says of the head; what it lacks is None.
    sources : sequence of (str, str)
        Title and fingerprint of each feature.
    classes : list of str
    n_train : int, optional
        Pictures that it was trained on, where `info` does not say.
    """
    selection, trained = info.get("selection", {}), info.get("trained_on", {})
    return {
        "head": str(path),
        "bytes": path.stat().st_size,
        "kind": kind,
        "params": info.get("params", {}),
        "strategy": info.get("strategy"),
        "features": [title for title, _ in sources],
        "fingerprints": [fingerprint for _, fingerprint in sources],
        "classes": classes,
        "dataset": trained.get("dataset"),
        "split": trained.get("split"),
        "n_train": trained.get("n", n_train),
        "views": trained.get("views", 1),
        "corrections": trained.get("corrections"),
        **{name: selection.get(name) for name in ("tuned_on", "rule", "folds", "seed", "cv_accuracy")},
        "calibration": {"method": selection["calibration"]} if "calibration" in selection else None,
        "versions": info.get("versions", {}),
    }


def print_head(console: "Console", found: dict[str, Any]) -> None:
    """Print it, a line for each fact that the file holds."""
    what = "fine-tuned network" if found["kind"] == "finetuned" else f"head of the kind {found['kind']}"
    if "exported" in found:
        what = f"exported model of a {what}"
    console.print(printable(f"{found['head']}: {what}, {size(found['bytes'])}"), style="bold")
    for name, text in _facts(found):
        console.print(f"{name:<13}{printable(text)}")


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    names, more = found["classes"][:_CLASSES], len(found["classes"]) - _CLASSES
    sources = zip(found["features"], found["fingerprints"], strict=True)
    facts = [
        ("settings", ", ".join(f"{name} = {value}" for name, value in found["params"].items())),
        *(("features", f"{title} ({fingerprint[:12]})") for title, fingerprint in sources),
        ("classes", f"{len(found['classes'])}: {', '.join(names)}{f' and {more} more' if more > 0 else ''}"),
        ("trained on", _trained_on(found)),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    if found["kind"] == "finetuned":
        kept: dict[str, Any] = next((e for e in found.get("epochs", ()) if e["number"] == found["kept_epoch"]), {})
        accuracy = kept.get("accuracy")
        epoch = f", epoch {kept['number']} kept" if kept else ""
        facts.insert(4, ("trained by", f"finetune --mode {found['strategy']['mode']}{epoch}"))
    else:
        accuracy = found["cv_accuracy"]
        told = (found["rule"] and f"rule {found['rule']}", found["calibration"] and found["calibration"]["method"])
        chosen = ", ".join(filter(None, (found["tuned_on"], told[0], told[1] and f"calibration {told[1]}")))
        facts.insert(4, ("chosen by", chosen))
    facts.insert(5, ("held out", "" if accuracy is None else f"accuracy {accuracy:.4f}, by which training chose"))
    if exported := found.get("exported"):
        facts += [
            ("input", f"{exported['input']['dtype']} {' x '.join(map(str, exported['input']['shape']))}"),
            ("opset", str(exported["opset"])),
            ("licence", exported["license"]),
            ("parity", f"within {exported['difference']:.1e} of the head's probabilities when it was exported"),
        ]
    return [(name, text) for name, text in facts if text]


def _trained_on(found: dict[str, Any]) -> str:
    pictures = counted(found["n_train"], "picture")
    where = f"{found['dataset']}, {found['split'] or 'all'}: " if found["dataset"] else ""
    views = f" in {found['views']} views" if found["views"] > 1 else ""
    corrected = f", {found['corrections']['relabelled']} labels corrected" if found["corrections"] else ""
    return f"{where}{pictures}{views}{corrected}"
