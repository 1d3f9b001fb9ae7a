"""Parquet files: manifests, and tables whose rows hold the pictures themselves (as Hugging Face stores them)."""

import collections
import dataclasses
import json
import threading
from typing import TYPE_CHECKING, Any

from data.disks import disk_of, refuse_large
from data.errors import ImageSetError, MissingDependency, first_line, how_to_install
from data.listing import Content, above, is_address, join

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_PICTURES = ("image", "img", "picture", "bytes", "jpg", "png", "webp")
_LABELS = ("label", "labels", "class", "cls", "target")
# Row groups whose pictures are kept: the one that the threads are in, and the next.
_GROUPS = 2


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Which column is what; an empty text where there is none."""

    path: str
    picture: str
    label: str
    split: str
    classes: list[str]


class ParquetFile:
    """A Parquet file. It is opened when first needed; rows are read by row groups, of which two are kept.

    Parameters
    ----------
    location : str
        Path or address.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._file: pq.ParquetFile | None = None
        self._starts: list[int] = []
        self._columns: _Columns | None = None
        self._mtime = -1
        self._groups: collections.OrderedDict[int, pa.ChunkedArray] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.location = state["location"]
        self._reset()

    def table(self) -> tuple[list[str] | None, list[str | None], list[str], int]:
        """Return what the columns other than the pictures hold.

        Returns
        -------
        paths : list of str, or None
            None where the rows hold the pictures themselves.
        labels : list of str or None
        splits : list of str
        mtime : int
            The file's.

        Raises
        ------
        ImageSetError
            If it is no Parquet file, or has neither paths nor pictures.
        """
        file, columns = self._open()
        n = file.metadata.num_rows
        wanted = [c for c in (columns.path, columns.label, columns.split) if c]
        table = file.read(columns=wanted) if wanted else None

        def texts(column: str) -> list[str | None]:
            if table is None or not column:
                return [None] * n
            return [None if value is None else str(value).strip() for value in table.column(column).to_pylist()]

        labels = texts(columns.label)
        if columns.classes:
            labels = [_class_name(label, columns.classes) for label in labels]
        paths = [path or "" for path in texts(columns.path)] if columns.path else None
        return paths, [label or None for label in labels], [split or "" for split in texts(columns.split)], self._mtime

    def read(self, path: str) -> Content:
        """Return the picture of a row, named by its number.

        Raises
        ------
        OSError
            If there is none, or the file cannot be read.
        """
        try:
            file, columns = self._open()
            if not columns.picture or not path.isdecimal() or int(path) >= file.metadata.num_rows:
                raise OSError(f"{self.location} holds no such picture")
            value = self._value(int(path), columns.picture)
        except ImageSetError as error:
            raise OSError(str(error)) from None
        if isinstance(value, dict):
            data, place = value.get("bytes"), value.get("path")
            if data is None and place:  # a table that names its pictures instead of holding them
                location = join(above(self.location), place)
                return disk_of(location).read(location)
        else:
            data = value
        if data is None:
            raise OSError("the row holds no picture")
        refuse_large(len(data))
        return Content(data, -1, self._mtime)

    def _value(self, row: int, column: str) -> Any:
        group = next(i for i, start in enumerate(self._starts[1:]) if row < start)
        with self._lock:  # one thread reads a row group, the others wait for it
            values = self._groups.get(group)
            if values is None:
                import pyarrow as pa

                assert self._file is not None
                try:
                    values = self._file.read_row_group(group, columns=[column]).column(column)
                except (pa.ArrowException, OSError) as error:
                    raise OSError(f"{self.location} is damaged: {first_line(error)}") from None
                self._groups[group] = values
                if len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
        return values[row - self._starts[group]].as_py()

    def _open(self) -> tuple["pq.ParquetFile", _Columns]:
        with self._lock:
            if self._file is None or self._columns is None:
                pq = _pyarrow(self.location)
                import pyarrow as pa

                disk = disk_of(self.location)
                ((_, self._mtime),) = disk.stats([self.location])
                source = disk.open(self.location) if is_address(self.location) else self.location
                try:
                    file = pq.ParquetFile(source)
                except (pa.ArrowException, OSError) as error:
                    raise ImageSetError(
                        f"{self.location} is no Parquet file, or damaged ({first_line(error)}): copy it again"
                    ) from None
                self._columns = _columns(file.schema_arrow, self.location)
                self._starts = [0]
                for i in range(file.metadata.num_row_groups):
                    self._starts.append(self._starts[-1] + file.metadata.row_group(i).num_rows)
                self._file = file
            return self._file, self._columns


def _pyarrow(location: str) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependency(f"reading {location} needs pyarrow: {how_to_install('sources')}") from None
    return pq


def _columns(schema: "pa.Schema", location: str) -> _Columns:
    """Find the columns, by what Hugging Face wrote into the schema where it did, or by their names."""
    import pyarrow as pa

    metadata = (schema.metadata or {}).get(b"huggingface")
    features: dict[str, Any] = json.loads(metadata)["info"]["features"] if metadata else {}
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    names = {name.lower(): name for name in schema.names}

    def holds_pictures(name: str) -> bool:
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    pictures = [name for name, kind in kinds.items() if kind == "Image" and name in schema.names]
    pictures += [names[name] for name in _PICTURES if name in names and holds_pictures(names[name])]
    labels = [names[name] for name in _LABELS if name in names]
    labels += [name for name, kind in kinds.items() if kind == "ClassLabel" and name in schema.names]
    path = "" if pictures else names.get("path", "")
    if not pictures and not path:
        raise ImageSetError(
            f"{location} has the columns {', '.join(schema.names) or '(none)'}: it needs path,label and perhaps split, "
            "or a column image that holds the files' bytes"
        )
    label = labels[0] if labels else ""
    classes = features.get(label, {}).get("names", []) if kinds.get(label) == "ClassLabel" else []
    return _Columns(path, pictures[0] if pictures else "", label, names.get("split", ""), classes)


def _class_name(label: str | None, classes: list[str]) -> str | None:
    """Return the name behind a number; -1 is Hugging Face's 'no label'."""
    if label is None or not label.isdecimal():
        return None
    return classes[int(label)] if int(label) < len(classes) else label
