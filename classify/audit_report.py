"""What `audit` prints, and the CSV of all its findings."""

import contextlib
import csv
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from data.terminal import printable

_SHOWN = 8  # rows of a table; the CSV and the JSON have all
_LOW_RECALL = 5
_FARTHEST = 3
_WORTH_A_LOOK = 0.6  # AUC between splits; a smaller one may be significant, and moves no accuracy that anybody sees
COLUMNS = ("finding", "rank", "path", "split", "label", "suggested", "score", "group", "detail")


def print_audit(console: Console, result: dict[str, Any], csv_name: str | None = None) -> None:
    """Print a table for each kind of finding, and what to do next, the most harmful first."""
    splits = ", ".join(f"{printable(k) or 'no split'} {v:,}" for k, v in result["splits"].items())
    console.print(
        f"{printable(result['dataset'])}: {_n(result['n'], 'picture')} ({splits}), "
        f"{_n(len(result['classes']), 'class', 'classes')}, judged by {result['features']}"
    )
    for show in (_copies, _leak, _suspects, _classes, _folders, _hard, _outliers):
        for item in show(result):
            console.print(item)
    console.print()
    for note in result["notes"]:
        console.print(f"note: {printable(note)}")
    steps = list(next_steps(result))
    if steps:
        all_of_it = f"it is in {csv_name}" if csv_name else "--csv audit.csv writes it"
        steps.append(f"for all of it, picture by picture: {all_of_it}")
    console.print("what to do next" if steps else "nothing to do: no fault was found", style="bold")
    for i, step in enumerate(steps, 1):
        console.print(f"{i}. {printable(step)}")


def next_steps(result: dict[str, Any]) -> Iterator[str]:
    """Say in a sentence for each kind of finding what a person should do about it, the most harmful first."""
    found, leak = result["duplicates"], result["leak"]
    if found["across_splits"]:
        effect = ""
        if leak and leak["copied"] and leak["difference"] is not None:
            effect = f" (accuracy {leak['accuracy']:.3f}, without them {leak['accuracy_without']:.3f})"
        yield f"keep one picture of each group of copies across splits, {found['across_splits']:,} in all{effect}"
    if found["under_two_labels"]:
        yield f"decide on one label for each group of copies with two labels, {found['under_two_labels']:,} in all"
    if result["suspects"]:
        n = len(result["suspects"])
        yield (
            f"open the {n:,} pictures with suspect labels, from the top, and correct those that are wrong"
            if n > 1
            else "open the picture with a suspect label, and correct it if it is wrong"
        )
    for folder in result["folders"][:3]:
        yield (
            f"open {folder['folder']}: {folder['wrong']} of its {folder['n']} pictures are not taken for "
            f"{folder['label']}, mostly for {folder['suggested']}"
        )
    for pair in result["lookalikes"][:3]:
        yield f"merge {pair['a']} and {pair['b']}, or find features that tell them apart"
    for group in result["two_groups"][:3]:
        yield (
            f"compare {group['examples'][0][0]} with {group['examples'][1][0]}: {group['class']} may be two classes, "
            "or come from two sources"
        )
    strange = sum(row["beyond_chance"] for row in result["outliers"])
    if strange:
        yield f"open the {_n(strange, 'picture')} unlike all others: does every one belong here?"
    shift = result["split_shift"]
    if shift and shift["auc_ci95"][0] > _WORTH_A_LOOK:
        yield (
            f"{shift['train']} and {shift['test']} can be told apart (AUC {shift['auc']:.2f}): find out how they were "
            "made, or split anew with `extract ... --test-fraction 0.2`"
        )
    duplicates = len(found["groups"]) - found["across_splits"]
    if duplicates > 0 and not found["across_splits"]:
        yield f"drop the copies in {_n(duplicates, 'group')} if each picture should count once"


def write_audit_csv(target: str, result: dict[str, Any]) -> None:
    """Write every finding as a row to a file, or to standard output where `target` is ``-``."""
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if target != "-":
            file = stack.enter_context(open(target, "w", newline="", encoding="utf-8", errors="surrogateescape"))
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        for row in _csv_rows(result):
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items() if v is not None})


def _csv_rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, group in enumerate(result["duplicates"]["groups"], 1):
        for picture in group["pictures"]:
            what = "exact copy" if group["exact"] else "near copy"
            yield {"finding": what, "rank": number, "group": number, "score": group["similarity"], **picture}
    for finding, key in (("suspect label", "suspects"), ("hard", "hard"), ("outlier", "outliers")):
        for rank, row in enumerate(result[key], 1):
            yield {"finding": finding, "rank": rank, **row}
    for rank, row in enumerate(result["confused"], 1):
        detail = f"{row['a_as_b']} of {row['n_a']} and {row['b_as_a']} of {row['n_b']}"
        yield {
            "finding": "confused classes",
            "rank": rank,
            "label": row["a"],
            "suggested": row["b"],
            "score": row["rate"],
            "detail": detail,
        }
    for rank, row in enumerate(result["classes_recall"], 1):
        yield {"finding": "recall", "rank": rank, "label": row["class"], "score": row["recall"], "detail": row["n"]}
    for rank, row in enumerate(result["folders"], 1):
        detail = f"{row['wrong']} of {row['n']}, elsewhere {row['rest_wrong']} of {row['rest']}"
        yield {
            "finding": "folder",
            "rank": rank,
            **row,
            "path": row["folder"],
            "score": row["p_holm"],
            "detail": detail,
        }
    for rank, row in enumerate(result["lookalikes"], 1):
        yield {
            "finding": "classes alike",
            "rank": rank,
            "label": row["a"],
            "suggested": row["b"],
            "score": row["auc"],
        }
    shift = result["split_shift"]
    if shift:
        detail = "interval " + " to ".join(f"{bound:.3f}" for bound in shift["auc_ci95"])
        yield {"finding": "splits apart", "split": shift["test"], "score": shift["auc"], "detail": detail}
    for rank, row in enumerate(result["two_groups"], 1):
        sizes = " and ".join(map(str, row["sizes"]))
        yield {
            "finding": "class in two",
            "rank": rank,
            "label": row["class"],
            "score": row["distance"],
            "detail": sizes,
        }


def _copies(result: dict[str, Any]) -> Iterator[Table | str]:
    found = result["duplicates"]
    groups = found["groups"]
    exact = sum(g["exact"] for g in groups)
    if not groups:
        yield "\nno picture is a copy of another, exact or near"
        return
    yield (
        f"\n{_n(len(groups), 'group')} of copies ({exact} exact, {len(groups) - exact} near) with "
        f"{_n(found['copies'], 'exact copy', 'exact copies')}; "
        f"{found['across_splits']} across splits, {found['under_two_labels']} under two labels"
        + (f"; {found['same_vector']} pictures differ in bytes alone" if found["same_vector"] else "")
    )
    table = _table(["cosine", "split", "label", "pictures"], right=("cosine",))
    for group in groups[:_SHOWN]:
        pictures = group["pictures"]
        table.add_row(
            _how_alike(group),
            printable(" + ".join(group["splits"])),
            printable(" / ".join(group["labels"])),
            _some([p["path"] for p in pictures], 2, " = "),
        )
    yield _rest(table, len(groups))


def _how_alike(group: dict[str, Any]) -> str:
    """Return the lowest cosine of a group's near pairs, and how many of its files equal another."""
    if group["exact"]:
        return "exact"
    return f"{group['similarity']:.3f}" + (f" + {group['exact_copies']} exact" if group["exact_copies"] else "")


def _leak(result: dict[str, Any]) -> Iterator[Table | str]:
    leak = result["leak"]
    if not leak or not leak["copied"]:
        return
    yield printable(f"{leak['copied']} of the {leak['n']:,} pictures of {leak['test']} have a copy in {leak['train']}")
    text = f"{result['head']} gets {_with(leak['accuracy'], leak['accuracy_ci95'])} of all right"
    if leak["accuracy_without"] is not None:
        low, high = leak["difference_ci95"]
        text += (
            f", {_with(leak['accuracy_without'], leak['accuracy_without_ci95'])} without them; "
            f"difference {leak['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
    yield printable(text)


def _suspects(result: dict[str, Any]) -> Iterator[Table | str]:
    rows = result["suspects"]
    if not result["confusion_matrix"]:
        return
    if not rows:
        yield "\nno label is suspect"
        return
    share = f"{len(rows) / result['labelled']:.1%}"
    settings = ", ".join(f"{name} = {value}" for name, value in (result["params"] or {}).items())
    head = printable(f"{result['head']} ({settings})" if settings else result["head"])
    yield (f"\n{_n(len(rows), 'suspect label')} ({share}): {head}, trained without them, is sure of another class")
    yield _pictures(rows)


def _hard(result: dict[str, Any]) -> Iterator[Table | str]:
    rows = result["hard"]
    if rows:
        yield f"\n{_n(len(rows), 'hard picture')}: answered wrongly, but without confidence"
        yield _pictures(rows, shown=5)


def _outliers(result: dict[str, Any]) -> Iterator[Table | str]:
    rows = result["outliers"]
    if rows:
        beyond = sum(row["beyond_chance"] for row in rows)
        yield f"\nleast like any other picture, {f'{beyond:,} of them' if beyond else 'none'} beyond chance"
        shown = min(max(beyond, _FARTHEST), _SHOWN)
        table = _table(["deviations", "label", "split", "picture"], right=("deviations",))
        for row in rows[:shown]:
            cells = (row["label"] or "-", row["split"] or "-", row["path"])
            table.add_row(f"{row['score']:.1f}", *map(printable, cells))
        yield _rest(table, beyond, shown)


def _pictures(rows: list[dict[str, Any]], shown: int = _SHOWN) -> Table:
    score = "label less other"
    table = _table([score, "label", "looks like", "split", "picture"], right=(score,))
    for row in rows[:shown]:
        cells = (row["label"], row["suggested"], row["split"] or "-", row["path"])
        table.add_row(f"{row['score']:+.3f}", *map(printable, cells))
    return _rest(table, len(rows), shown)


def _classes(result: dict[str, Any]) -> Iterator[Table | str]:
    pairs, classes = result["confused"], [row for row in result["classes_recall"] if row["n"]]
    if pairs:
        yield "\nclasses most confused, out of fold; in brackets 95% intervals"
        table = _table(
            ["of both", "classes", "first as second", "second as first"],
            right=("of both",),
        )
        for row in pairs[:_SHOWN]:
            table.add_row(
                _with(row["rate"], row["rate_ci95"]),
                printable(f"{row['a']} / {row['b']}"),
                f"{row['a_as_b']} of {row['n_a']} ({row['rate_a_as_b']:.1%})" if row["n_a"] else "-",
                f"{row['b_as_a']} of {row['n_b']} ({row['rate_b_as_a']:.1%})" if row["n_b"] else "-",
            )
        yield _rest(table, len(pairs))
    if classes and len(classes) > 2:
        worst = classes[:_LOW_RECALL]
        yield "\nrecall out of fold" + (", the lowest" if len(worst) < len(classes) else "")
        table = _table(["recall", "class", "pictures"], right=("recall", "pictures"))
        for row in worst:
            table.add_row(_with(row["recall"], row["recall_ci95"]), printable(row["class"]), f"{row['n']:,}")
        yield _rest(table, len(classes), _LOW_RECALL)
    for row in result["lookalikes"][:_SHOWN]:
        interval = _with(row["auc"], row["auc_ci95"])
        yield "\n" + printable(f"{row['a']} and {row['b']} can hardly be told apart: AUC {interval}, chance is 0.5")
    for row in result["two_groups"][:_SHOWN]:
        sizes = " and ".join(f"{size:,}" for size in row["sizes"])
        apart = f"{row['distance']:.1f} deviations apart"
        yield "\n" + printable(f"{row['class']} falls into two groups of {sizes} pictures, {apart}")
    shift = result["split_shift"]
    if shift and shift["differ"]:
        yield "\n" + printable(
            f"{shift['train']} and {shift['test']} can be told apart: AUC {_with(shift['auc'], shift['auc_ci95'])}, "
            "chance is 0.5"
        )


def _folders(result: dict[str, Any]) -> Iterator[Table | str]:
    rows = result["folders"]
    if rows:
        columns = ["p (Holm)", "folder", "label", "wrong", "elsewhere in the class", "mostly as"]
        yield "\nfolders answered wrongly more often than the rest of their class"
        table = _table(columns, ("p (Holm)",))
        for row in rows[:_SHOWN]:
            counts = (f"{row['wrong']} of {row['n']}", f"{row['rest_wrong']} of {row['rest']}")
            names = map(printable, (row["folder"], row["label"]))
            table.add_row(f"{row['p_holm']:.2g}", *names, *counts, printable(row["suggested"]))
        yield _rest(table, len(rows))


def _table(columns: list[str], right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def _rest(table: Table, n: int, shown: int = _SHOWN) -> Table:
    if n > shown:
        table.caption = f"... and {n - shown:,} more"
        table.caption_justify = "left"
    return table


def _some(names: list[str], shown: int, between: str) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return between.join(map(printable, names[:shown])) + more


def _with(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _n(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
