"""What `info` prints of a set of pictures."""

from typing import Any

from rich.console import Console
from rich.table import Table

from data.terminal import duration, printable, size

# More classes than this are shown by their ends: the largest and the smallest.
_CLASSES = 24
_ENDS = 8
_LISTED = 5
_ORIENTED = {
    "2": "mirrored",
    "3": "turned by 180",
    "4": "upside down",
    "5": "transposed",
    "6": "turned right",
    "7": "transposed the other way",
    "8": "turned left",
}


def print_survey(console: Console, result: dict[str, Any]) -> None:
    """Print the tables of `info` and what is worth a second look; `result` is what `describe` returned."""
    done = "read, hashed and decoded" if result["decoded"] else "read and hashed, headers parsed (--quick)"
    console.print(
        f"{printable(result['name'])}: {_n(result['pictures'], 'picture')}, {size(result['bytes'])}, "
        f"{done} in {duration(result['seconds'])}"
    )
    if result["classes"]:
        console.print(_class_table(result))
        _print_imbalance(console, result)
    if result["width"]:
        console.print(_size_table(result))
        _print_extremes(console, result)
    if result["formats"]:
        _print_kinds(console, result)
    console.print()
    for note in _oddities(result):
        console.print(f"note: {note}")
    for line in _copies(result["duplicates"]) + _unreadable(result["unreadable"]):
        console.print(line)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"\n{title}", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _class_table(result: dict[str, Any]) -> Table:
    splits = list(result["splits"]) if list(result["splits"]) != [""] else []
    bad = bool(result["unreadable"])
    table = _table(
        f"{len(result['classes'])} classes",
        ["class", *(name or "no split" for name in splits), "pictures", "share", *(["unreadable"] if bad else [])],
    )

    def add(name: str, row: dict[str, Any], style: str = "") -> None:
        cells = [f"{row['splits'][split]:,}" for split in splits]
        share = f"{row['pictures'] / result['pictures']:.1%}"
        cells += [f"{row['pictures']:,}", share] + ([f"{row['unreadable']:,}"] if bad else [])
        table.add_row(name, *cells, style=style)

    shown = result["classes"]
    if len(shown) > _CLASSES:
        shown = sorted(shown, key=lambda c: -c["pictures"])
    for i, row in enumerate(shown):
        if len(shown) <= _CLASSES or i < _ENDS or i >= len(shown) - _ENDS:
            add(printable(row["name"]), row)
        elif i == _ENDS:
            table.add_row(f"... {len(shown) - 2 * _ENDS} more (all of them: --json -)", style="dim")
    if result["unlabelled"]["pictures"]:
        add("(no label)", result["unlabelled"])
    total = {"splits": result["splits"], "pictures": result["pictures"], "unreadable": len(result["unreadable"])}
    add("all", total, "bold")
    return table


def _print_imbalance(console: Console, result: dict[str, Any]) -> None:
    found = result["imbalance"]
    if found and found["ratio"] > 1:
        largest, smallest = printable(found["largest"]), printable(found["smallest"])
        console.print(f"imbalance {found['ratio']:,.2f}: {largest} has that many times the pictures of {smallest}")
    elif found:
        console.print("imbalance 1: all classes are of one size")


def _size_table(result: dict[str, Any]) -> Table:
    table = _table("sizes in pixels", ["", "min", "25%", "median", "75%", "max"])
    for side in ("width", "height"):
        table.add_row(side, *(f"{value:,}" for value in result[side].values()))
    return table


def _print_extremes(console: Console, result: dict[str, Any]) -> None:
    usual = (result["width"]["median"], result["height"]["median"])
    extremes = {name: e for name, e in result["extremes"].items() if (e["width"], e["height"]) != usual}
    if not extremes:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, e in extremes.items():
        aspect = e["width"] / e["height"]
        shape = f"{aspect:.2f} : 1" if aspect >= 1 else f"1 : {1 / aspect:.2f}"
        table.add_row(name, f"{e['width']:,} x {e['height']:,}", shape, printable(e["path"]))
    console.print(table)


def _print_kinds(console: Console, result: dict[str, Any]) -> None:
    console.print()
    rows = [(name, ", ".join(f"{key} {n:,}" for key, n in result[name].items())) for name in ("formats", "modes")]
    found = result["orientations"]
    turned = ", ".join(f"{words} {found[key]:,}" for key, words in _ORIENTED.items() if key in found)
    rows.append(("EXIF", f"{turned}, which the network sees upright" if turned else "all upright"))
    senseless = {key: n for key, n in found.items() if key not in _ORIENTED}
    if senseless:
        rows.append(("", f"{sum(senseless.values()):,} of no meaning ({_some(list(senseless))}), taken as upright"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in rows:
        if text:
            table.add_row(name, text)
    console.print(table)


def _oddities(result: dict[str, Any]) -> list[str]:
    notes = list(result["notes"])
    if result["unlabelled"]["pictures"] == result["pictures"]:
        notes.append("no picture has a label: features can be extracted, heads cannot be trained")
    for split, n in result["splits"].items():
        absent = [c["name"] for c in result["classes"] if n and not c["splits"][split]]
        if absent and split:
            notes.append(f"split {split!r} has no picture of {_some(absent)}")
    lies = [f"{m['path']} is {m['format']}" for m in result["mismatches"]]
    if lies:
        notes.append(f"{_n(len(lies), 'file')} named for another format than the content: {_some(lies)}")
    if result["animated"]:
        some = _some(result["animated"])
        notes.append(f"{_n(len(result['animated']), 'file')} with several frames, of which the first is used: {some}")
    return notes


def _copies(duplicates: dict[str, Any]) -> list[str]:
    if not duplicates["copies"]:
        return ["no picture is an exact copy of another"]
    two_splits, two_labels = duplicates["across_splits"], duplicates["under_two_labels"]
    n = duplicates["copies"]
    line = f"{n:,} pictures are exact copies of others" if n > 1 else "1 picture is an exact copy of another"
    line += f"; {_n(two_splits, 'content')} in two splits" if two_splits else ""
    line += f"; {_n(two_labels, 'content')} under two labels" if two_labels else ""
    lines = [line + ":"]
    for group in duplicates["groups"][:_LISTED]:
        what = ["labels " + _some(group["labels"])] if len(group["labels"]) > 1 else []
        what += ["splits " + _some([name or "none" for name in group["splits"]])] if len(group["splits"]) > 1 else []
        paths = " = ".join(map(printable, group["paths"][:3]))
        more = f" and {len(group['paths']) - 3:,} more" if len(group["paths"]) > 3 else ""
        lines.append(f"  {paths}{more}" + (f" ({'; '.join(what)})" if what else ""))
    return lines + _rest(len(duplicates["groups"]))


def _unreadable(unreadable: list[dict[str, str]]) -> list[str]:
    lines = [f"{_n(len(unreadable), 'unreadable file')}:"] if unreadable else []
    lines += [f"  {printable(item['path'])}: {printable(item['reason'])}" for item in unreadable[:_LISTED]]
    return lines + _rest(len(unreadable))


def _rest(n: int) -> list[str]:
    return [f"  ... and {n - _LISTED:,} more (all of them: --json -)"] if n > _LISTED else []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(map(printable, names[:3])) + more


def _n(n: int, one: str) -> str:
    return f"{n:,} {one if n == 1 else one + 's'}"
