"""What a bundle holds and what carrying it so costs, as `pack` and `info` print it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.bundle import FEATURES, THUMBNAILS
from data.terminal import printable, size
from data.words import counted

if TYPE_CHECKING:
    from rich.console import Console


def print_bundle(console: "Console", path: Path, info: dict[str, Any]) -> None:
    """Print the tables of a bundle, of what its `bundle.json` says."""
    from rich.table import Table

    total = sum(file["bytes"] for file in info["files"].values())
    console.print(f"{printable(str(path))}: a bundle, {size(total)}, made by `{printable(info['made']['command'])}`\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what")
    for file, listed in sorted(info["files"].items(), key=lambda item: _order(item[0], info)):
        table.add_row(printable(file), size(listed["bytes"]), printable(_what(file, info)))
    console.print(table)
    if info["measured"]:
        console.print()
        _print_measured(console, info["measured"])
    for note in _notes(info):
        console.print(f"note: {printable(note)}")


def _order(file: str, info: dict[str, Any]) -> int:
    """Return where a file stands: features, their components, heads and models as they were named, the rest."""
    parts = [FEATURES, *(feature["components"] for feature in info["features"])]
    parts += [head["file"] for head in info["heads"]] + [head["model"] for head in info["heads"]]
    return parts.index(file) if file in parts else len(parts)


def _what(file: str, info: dict[str, Any]) -> str:
    if file == FEATURES:
        sets = ", ".join(f"{counted(d['images'], 'picture')} of {d['name']}" for d in info["datasets"])
        titles = [feature["title"] for feature in info["features"]]
        return f"{sets}: {'; '.join(_vectors(feature, titles) for feature in info['features'])}"
    if file == THUMBNAILS:
        made = info["thumbnails"]
        return f"{counted(made['count'], 'JPEG')}, {made['pixels']} pixels at most"
    for head in info["heads"]:
        if file == head["file"]:
            return f"{head['kind']}, {head['how']}: {_classes(head['classes'])}"
        if file == head["model"]:
            return f"network and {head['name']} in one, for predict"
    return "principal components of the features" if file.startswith("pca-") else ""


def _vectors(feature: dict[str, Any], titles: list[str]) -> str:
    before, name = feature["before"], feature["title"].split("/", 1)[-1]
    name += f" ({feature['fingerprint'][:8]})" if titles.count(feature["title"]) > 1 else ""
    dim = f"{feature['dim']:,}" + (f" of {before['dim']:,}" if before["dim"] != feature["dim"] else "")
    was = f", was {before['dtype']}" if before["dtype"] != feature["dtype"] else ""
    return f"{name}, {dim} {feature['dtype']}{was}"


def _classes(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _print_measured(console: "Console", measured: list[dict[str, Any]]) -> None:
    """Print the accuracy of each head; where something was changed, before and after, on the same pictures."""
    from rich.table import Table

    where = " and ".join(dict.fromkeys(f"{counted(one['n'], 'picture')} of {one['split']}" for one in measured))
    unchanged = all(one["before"] == one["after"] and not one["lost"] for one in measured)
    console.print(
        f"accuracy on {printable(where)}{'' if unchanged else ', before and after'}; in brackets 95% intervals"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("head", no_wrap=True)
    for column in ("accuracy",) if unchanged else ("store", "bundle", "change", "lost", "won", "p (Holm)"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in measured:
        after = _with(one["after"]["accuracy"], one["after"]["accuracy_ci95"])
        cells = [after]
        if not unchanged:
            before = _with(one["before"]["accuracy"], one["before"]["accuracy_ci95"])
            change = _with(one["difference"], one["difference_ci95"], "+.3f")
            cells = [before, after, change, str(one["lost"]), str(one["won"]), f"{one['p_holm']:.3g}"]
        table.add_row(printable(one["head"]), *cells, "" if unchanged else one["verdict"])
    console.print(table)


def _with(value: float, interval: tuple[float, float], form: str = ".3f") -> str:
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _notes(info: dict[str, Any]) -> list[str]:
    notes = list(info["notes"])
    notes += [f"{one['head']}: {note}" for one in info["measured"] for note in one["notes"]]
    measured = {one["head"] for one in info["measured"]}
    unmeasured = [head["name"] for head in info["heads"] if head["name"] not in measured]
    if unmeasured:
        notes.append(f"nothing was measured of {', '.join(unmeasured)}: the image set has no test and no val split")
    worse = [one["head"] for one in info["measured"] if one["verdict"] == "worse"]
    if worse:
        notes.append(f"{', '.join(worse)} got worse by it: keep more of the features, or `fit` anew on the bundle")
    reasons: dict[str, list[str]] = {}
    for head in info["heads"]:
        if head["no_model"]:
            reasons.setdefault(head["no_model"], []).append(head["name"])
    notes += [f"no model of {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    made = info["thumbnails"]
    if made and made["capped"]:
        notes.append(
            f"{made['count']:,} of {made['of']:,} pictures have thumbnails, as many as --thumbnails has room for"
        )
    if made and made["lacking"]:
        notes.append(f"{made['lacking']:,} of {made['of']:,} pictures have no thumbnail ({made['why']})")
    return notes
