"""What a head is, or the network that was trained with it: what `info HEAD` says, without torch."""

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
    info, selection = head.info, head.info["selection"]
    trained = info.get("trained_on", {})
    found = {
        "head": str(path),
        "bytes": path.stat().st_size,
        "kind": head.kind,
        "params": info.get("params", {}),
        "features": [spec.title for spec in head.specs],
        "fingerprints": [spec.fingerprint for spec in head.specs],
        "classes": head.classes,
        "dataset": trained.get("dataset"),
        "split": trained.get("split"),
        "n_train": trained.get("n", len(head.train_keys)),
        "views": trained.get("views", 1),
        "corrections": trained.get("corrections"),
        **{name: selection.get(name) for name in ("tuned_on", "rule", "folds", "seed", "cv_accuracy")},
        "calibration": {"method": selection["calibration"]} if "calibration" in selection else None,
        "versions": info.get("versions", {}),
    }
    if head.kind == "finetuned":
        found |= {"strategy": info["strategy"], "epochs": info["epochs"], "kept_epoch": info["kept_epoch"]}
    return found


def print_head(console: "Console", found: dict[str, Any]) -> None:
    """Print it, a line for each fact that the file holds."""
    what = "fine-tuned network" if found["kind"] == "finetuned" else f"head of the kind {found['kind']}"
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
        kept = next((e for e in found["epochs"] if e["number"] == found["kept_epoch"]), None)
        accuracy = kept.get("accuracy") if kept else None
        facts.insert(
            4, ("trained by", f"finetune --mode {found['strategy']['mode']}, epoch {found['kept_epoch']} kept")
        )
    else:
        accuracy = found["cv_accuracy"]
        told = (found["rule"] and f"rule {found['rule']}", found["calibration"] and found["calibration"]["method"])
        chosen = ", ".join(filter(None, (found["tuned_on"], told[0], told[1] and f"calibration {told[1]}")))
        facts.insert(4, ("chosen by", chosen))
    facts.insert(5, ("held out", "" if accuracy is None else f"accuracy {accuracy:.4f}, as training chose by it"))
    return [(name, text) for name, text in facts if text]


def _trained_on(found: dict[str, Any]) -> str:
    pictures = counted(found["n_train"], "picture")
    where = f"{found['dataset']}, {found['split'] or 'all'}: " if found["dataset"] else ""
    views = f" in {found['views']} views" if found["views"] > 1 else ""
    corrected = f", {found['corrections']['relabelled']} labels corrected" if found["corrections"] else ""
    return f"{where}{pictures}{views}{corrected}"
