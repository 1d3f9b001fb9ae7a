"""Stored features for other tools: npz, Parquet and CSV files, and pandas.

A file is written in pieces of bounded memory, and atomically; only an export of ours is ever replaced.

npz: ``X`` (n, dim) as stored, ``y`` (n,) int32 (-1 without a label), ``classes``, ``path``, ``split``, ``digest``,
``widths`` (columns of each feature) and ``spec`` (JSON); loads with ``allow_pickle=False``.

Parquet: ``path``, ``label`` (null without one), ``split``, ``digest``, and ``features``, a list of dim float32; JSON in
the schema's metadata: ``penult_spec``, ``penult_classes``, ``penult_widths``.

CSV and pandas: the same texts (in pandas ``label`` is categorical), and a column for each value, ``f0``, ``f1``, ...,
since both compute on columns of numbers and not of lists. A data frame's ``attrs`` hold spec, classes and widths.

A spec is the object of docs/format.md; where several features stand side by side it is a list of these. What is no
UTF-8 in a path or label stands as escapes, except in an npz file.
"""

import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from data.bundle import refuse_inside
from data.errors import MissingDependency, StoreError, how_to_install
from data.kinds import kind_of
from data.results import escaped
from data.staging import atomic_file, disk_full_hint
from data.store import FeatureStore
from data.table import OnProgress, Table, choose_table
from data.terminal import printable, size

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

Source = FeatureStore | str | os.PathLike[str]

_TEXTS = ("path", "label", "split", "digest")
_ARRAYS = ("X", "y", "classes", "path", "split", "digest", "widths", "spec")


def to_pandas(
    store: Source,
    split: str | None = None,
    *,
    dataset: str | None = None,
    features: str | Sequence[str] | None = None,
) -> "pd.DataFrame":
    """Return a data frame: path, label, split, digest and a float column for each feature value.

    Parameters
    ----------
    store : path or FeatureStore
        Where the features are.
    split, dataset, features
        As for `data.store.FeatureStore.load`.

    Raises
    ------
    MissingDependency
        If pandas is not installed.

    Examples
    --------
    >>> frame = to_pandas("features.h5", "train")
    >>> frame.shape, frame.columns[:5].tolist()
    ((24, 100), ['path', 'label', 'split', 'digest', 'f0'])
    >>> frame.groupby("label", observed=True)["f0"].count().to_dict()
    {'bird': 8, 'cat': 8, 'dog': 8}
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingDependency(f"a data frame needs pandas: {how_to_install('tables')}") from None
    table = choose_table(store, split, dataset=dataset, features=features)
    X = np.empty((len(table), table.dim), dtype=table.dtype)
    for rows, vectors in table.pieces():
        X[rows] = vectors
    texts = pd.DataFrame(
        {
            "path": [escaped(path) for path in table.samples.paths],
            "label": pd.Categorical.from_codes(
                table.samples.y, categories=[escaped(name) for name in table.samples.classes]
            ),
            "split": table.splits,
            "digest": table.samples.digests.astype(np.str_),
        }
    )
    frame = pd.concat([texts, pd.DataFrame(X, columns=_columns(table))], axis=1)
    frame.attrs = {
        "spec": json.loads(table.spec_json),
        "classes": list(table.samples.classes),
        "widths": list(table.samples.widths),
    }
    return frame


def to_npz(
    store: Source,
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset: str | None = None,
    features: str | Sequence[str] | None = None,
) -> None:
    """Write an uncompressed npz file; the same rows give the same bytes.

    Parameters
    ----------
    store : path or FeatureStore
        Where the features are.
    path : path
        The file; only an export of ours is replaced.
    split, dataset, features
        As for `data.store.FeatureStore.load`.

    Examples
    --------
    >>> to_npz("features.h5", "test.npz", "test")
    >>> with np.load("test.npz") as arrays:
    ...     arrays["X"].shape, arrays["classes"][arrays["y"][:3]].tolist()
    ((12, 96), ['bird', 'bird', 'bird'])
    """
    _write_npz(choose_table(store, split, dataset=dataset, features=features), Path(path))


def to_parquet(
    store: Source,
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset: str | None = None,
    features: str | Sequence[str] | None = None,
) -> None:
    """Write a Parquet file, in row groups of bounded size; needs pyarrow.

    Parameters
    ----------
    store : path or FeatureStore
        Where the features are.
    path : path
        The file; only an export of ours is replaced.
    split, dataset, features
        As for `data.store.FeatureStore.load`.

    Examples
    --------
    >>> import pyarrow.parquet
    >>> to_parquet("features.h5", "features.parquet")
    >>> held = pyarrow.parquet.read_table("features.parquet")
    >>> held.num_rows, held.schema.names, held.schema.field("features").type.list_size
    (36, ['path', 'label', 'split', 'digest', 'features'], 96)
    """
    _write_parquet(choose_table(store, split, dataset=dataset, features=features), Path(path))


def to_csv(
    store: Source,
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset: str | None = None,
    features: str | Sequence[str] | None = None,
) -> None:
    """Write a CSV file; nine digits give back every float32 exactly.

    Parameters
    ----------
    store : path or FeatureStore
        Where the features are.
    path : path
        The file; only an export of ours is replaced.
    split, dataset, features
        As for `data.store.FeatureStore.load`.

    Examples
    --------
    >>> to_csv("features.h5", "test.csv", "test")
    >>> with open("test.csv") as file:
    ...     file.readline()[:30]
    'path,label,split,digest,f0,f1,'
    """
    _write_csv(choose_table(store, split, dataset=dataset, features=features), Path(path))


def _write_npz(table: Table, path: Path, on_progress: OnProgress | None = None) -> None:
    small: dict[str, npt.NDArray[Any]] = {
        "y": table.samples.y,
        "classes": np.array(table.samples.classes, dtype=np.str_),
        "path": np.array(table.samples.paths, dtype=np.str_),
        "split": table.splits.astype(np.str_),
        "digest": table.samples.digests.view("S64"),  # without what h5py notes in its dtype
        "widths": np.array(table.samples.widths, dtype=np.int64),
        "spec": np.array(table.spec_json),
    }
    header = {"descr": np.lib.format.dtype_to_descr(table.dtype), "fortran_order": False}
    with _writing(table, path, _is_our_npz) as raw, zipfile.ZipFile(raw, "w") as archive:
        with _member(archive, "X") as member:
            np.lib.format.write_array_header_1_0(member, {**header, "shape": (len(table), table.dim)})
            for _, vectors in table.pieces(on_progress):
                member.write(np.ascontiguousarray(vectors).data)
        for name, array in small.items():
            with _member(archive, name) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_parquet(table: Table, path: Path, on_progress: OnProgress | None = None) -> None:
    pa, pq = _pyarrow()
    text = pa.string()
    fields = [*((name, text) for name in _TEXTS), ("features", pa.list_(pa.float32(), table.dim))]
    told = {
        "spec": table.spec_json,
        "classes": json.dumps(table.samples.classes),
        "widths": json.dumps(table.samples.widths),
    }
    schema = pa.schema(fields, metadata={f"penult_{key}": value for key, value in told.items()})
    # vectors have no values in common, which a dictionary or a compressor would look for in vain
    options: dict[str, Any] = {"use_dictionary": ["label", "split"], "compression": {name: "zstd" for name in _TEXTS}}
    with _writing(table, path, _is_our_parquet) as raw, pq.ParquetWriter(raw, schema, **options) as writer:
        for rows, vectors in table.pieces(on_progress, np.float32):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), table.dim)
            texts = [pa.array(column, text) for column in zip(*_text_rows(table, rows), strict=True)]
            piece = pa.Table.from_arrays([*texts, lists], schema=schema)
            writer.write_table(piece, row_group_size=len(vectors))


def _write_csv(table: Table, path: Path, on_progress: OnProgress | None = None) -> None:
    with _writing(table, path, _is_our_csv) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_TEXTS, *_columns(table)])
        for rows, vectors in table.pieces(on_progress):
            for texts, vector in zip(_text_rows(table, rows), vectors.tolist(), strict=True):
                writer.writerow([*texts, *(f"{value:.9g}" for value in vector)])
        file.detach()


WRITERS: dict[str, Callable[..., None]] = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}


def export_table(table: Table, path: str | os.PathLike[str], on_progress: OnProgress | None = None) -> None:
    """Write a file of the kind that its name ends in.

    Parameters
    ----------
    table : Table
        As `choose_table` gives it.
    path : path
        A name that ends in ``.npz``, ``.parquet`` or ``.csv``.
    on_progress : callable, optional
        Called with rows done and in all.

    Raises
    ------
    StoreError
        If the name ends otherwise, or the file exists and is no export of ours.
    BundleError
        If the file would be in a bundle.
    DiskFull
        If it does not fit; an older file stays as it was.
    MissingDependency
        If a package is not installed.
    """
    write = WRITERS.get(Path(path).suffix.lower())
    if write is None:
        raise StoreError(f"{path} says nothing of its kind: name a file that ends in {', '.join(WRITERS)}")
    write(table, Path(path), on_progress)


def refuse_head(path: Path) -> None:
    """Raise if a file is a head or a fine-tuned network, which hold no features.

    Raises
    ------
    StoreError
        With what can be exported.
    """
    kind = kind_of(path)
    if kind in ("a head", "a fine-tuned network"):
        raise StoreError(
            f"{path} is {kind}, which is exported as a model: end -o in .onnx or .pt2, or name the store whose "
            "features you want"
        )


def print_export(console: "Console", table: Table, path: Path) -> dict[str, Any]:
    """Print what was written, and return it as `export --json` does."""
    result: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "rows": len(table),
        "dim": table.dim,
        "features": [spec.title for spec in table.samples.specs],
        "fingerprints": [spec.fingerprint for spec in table.samples.specs],
        "classes": table.samples.classes,
        "dataset": table.samples.dataset,
        "split": table.samples.split,
    }
    what = f"{table.samples.dataset}, {table.samples.split or 'all pictures'}"
    console.print(
        f"wrote {printable(str(path))}, {size(result['bytes'])}: {len(table):,} x {table.dim:,} of "
        f"{' + '.join(result['features'])} ({printable(what)})"
    )
    return result


def _text_rows(table: Table, rows: slice) -> Iterator[tuple[str, str | None, str, str]]:
    """Yield path, label, split and digest of some rows."""
    names = [*map(escaped, table.samples.classes), None]  # the last for -1
    columns = (
        table.samples.paths[rows],
        table.samples.y[rows].tolist(),
        table.splits[rows].tolist(),
        table.samples.digests[rows].tolist(),
    )
    for path, target, split, digest in zip(*columns, strict=True):
        yield escaped(path), names[target], split, digest.decode()


def _columns(table: Table) -> list[str]:
    return [f"f{i}" for i in range(table.dim)]


@contextlib.contextmanager
def _writing(table: Table, path: Path, is_ours: Callable[[Path], bool]) -> Iterator[IO[bytes]]:
    """Yield a buffered file that becomes `path` when all ends well."""
    refuse_inside(path)
    if path.exists() and not (path.is_file() and is_ours(path)):
        raise StoreError(f"{path} exists and is no export of Penult: name another file with -o, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_hint(path, len(table) * table.dim * table.dtype.itemsize), atomic_file(path) as raw:
        file = io.BufferedWriter(cast(io.RawIOBase, raw), 1 << 20)
        try:
            yield file
            file.flush()
        finally:
            with contextlib.suppress(OSError):  # what could not be written has been said
                file.detach()


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        yield member


def _is_our_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) == {f"{name}.npy" for name in _ARRAYS}
    except zipfile.BadZipFile:
        return False


def _is_our_parquet(path: Path) -> bool:
    pa, pq = _pyarrow()
    try:
        return b"penult_spec" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _is_our_csv(path: Path) -> bool:
    begin = ",".join([*_TEXTS, "f0"]).encode()
    with open(path, "rb") as file:
        return file.read(len(begin)) == begin


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependency(f"writing Parquet needs pyarrow: {how_to_install('tables')}") from None
    return pyarrow, pyarrow.parquet
