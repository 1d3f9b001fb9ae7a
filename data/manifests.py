"""Lists of pictures with labels and splits: CSV and JSON lines, and what all manifests share."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator

from data.disks import disk_of, read_all
from data.errors import ImageSetError
from data.listing import SPLIT_NAMES, Row, above, is_address, join

# Path, label and split of a row as they stand in a manifest.
_Line = tuple[str, str, str]


def manifest_rows(location: str, ending: str) -> list[Row]:
    """Read a manifest of `location` whose name ends in one of `MANIFESTS`.

    Paths are relative to the manifest, absolute, or addresses.

    Raises
    ------
    ImageSetError
        If it is malformed.
    """
    return rows_of(location, list(MANIFESTS[ending](location)))


def rows_of(manifest: str, lines: list[_Line]) -> list[Row]:
    """Look up the files that a manifest's lines name."""
    folder = above(manifest)
    paths = [path.removeprefix("file://") for path, _, _ in lines]
    if os.sep == "\\":
        paths = [path if is_address(path) else path.replace("\\", "/") for path in paths]
    places = [join(folder, path) for path in paths]
    stats: dict[str, tuple[int, int]] = {}
    for remote in (False, True):
        some = list(dict.fromkeys(place for place in places if is_address(place) is remote))
        if some:
            stats.update(zip(some, disk_of(some[0]).stats(some), strict=True))
    return [
        Row(path, label or None, SPLIT_NAMES.get(split.lower(), split), *stats[place])
        for path, place, (_, label, split) in zip(paths, places, lines, strict=True)
    ]


def _csv_lines(location: str) -> Iterator[_Line]:
    try:
        with io.TextIOWrapper(read_all(location), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(c or "").strip().lower() for c in reader.fieldnames or []]
            if "path" not in columns:
                raise ImageSetError(
                    f"{location} has the columns {', '.join(columns) or '(none)'}: "
                    "its first line must name path,label and perhaps split"
                )
            reader.fieldnames = columns
            for row in reader:
                path = (row["path"] or "").strip()
                if not path:
                    raise ImageSetError(f"{location}, line {reader.line_num}: the path is empty")
                yield path, (row.get("label") or "").strip(), (row.get("split") or "").strip()
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageSetError(f"{location} is no CSV file in UTF-8 ({error}): save it as one") from None


def _json_lines(location: str) -> Iterator[_Line]:
    try:
        text = read_all(location).read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageSetError(f"{location} is no text in UTF-8 ({error}): save it as one") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ImageSetError(
                f"{location}, line {number} is no JSON ({error}): write one object such as "
                '{"path": "a/1.jpg", "label": "a"} on each line'
            ) from None
        record = {str(key).lower(): value for key, value in record.items()} if isinstance(record, dict) else {}
        path = record.get("path") or record.get("file_name")
        if not isinstance(path, str) or not path.strip():
            raise ImageSetError(f"{location}, line {number} names no picture: each line needs a path and a label")
        label, split = ("" if record.get(key) is None else str(record[key]).strip() for key in ("label", "split"))
        yield path.strip(), label, split


MANIFESTS: dict[str, Callable[[str], Iterator[_Line]]] = {
    ".csv": _csv_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
