"""Pictures in zip and tar files, read in place: an index once, then each picture by its offset."""

import dataclasses
import json
import posixpath
import struct
import tarfile
import zipfile
import zlib
from typing import BinaryIO

from data.disks import disk_of, refuse_large
from data.errors import ImageSetError, first_line
from data.folders import class_rows, unwrap
from data.listing import Content, Row, Tree, is_picture, is_visible

# What labels of a WebDataset shard stand in, the surest first; a .txt is often a caption.
_LABELS = ("cls", "json", "txt")
_LABEL_KEYS = ("label", "cls", "class", "class_name")
# No label file is larger than this.
_MAX_LABEL = 1 << 20
# Of a zip member's own header: 26 bytes on, the lengths of its name and its extra field.
_ZIP_HEADER = struct.Struct("<4s22xHH")
# Read with a member for them, so that one request brings all of it; where they are longer there is a second.
_ZIP_SLACK = 512
_ZIP_STORED, _ZIP_DEFLATED = 0, 8
_ENCRYPTED = 1
_LINKS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class _Member:
    """Where a file lies in its archive; `packed` and `crc` are those of a zip."""

    offset: int
    size: int
    packed: int = -1
    method: int = _ZIP_STORED
    crc: int = -1
    problem: str = ""


class Archive:
    """A zip or tar file. Its index is read when first needed; no handle is kept, so threads and processes may share it.

    Parameters
    ----------
    location : str
        Path or address, ending in ``.zip`` or ``.tar``.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._index: dict[str, _Member] | None = None
        self._unchanged = (-1, -1)

    def index(self) -> dict[str, _Member]:
        """Return every file of the archive by its path; of several with one path the last counts.

        Raises
        ------
        ImageSetError
            If it is no such archive, or damaged.
        """
        if self._index is None:
            disk = disk_of(self.location)
            (unchanged,) = disk.stats([self.location])
            is_zip = self.location.lower().endswith(".zip")
            with disk.open(self.location) as file:
                index = _zip_index(file, self.location) if is_zip else _tar_index(file, self.location)
            self._unchanged, self._index = unchanged, index
        return self._index

    def tree(self) -> Tree:
        """Return the archive's pictures as a folder would list them; sizes and the archive's own time."""
        tree = Tree([], set(), [])
        for path, member in self.index().items():
            parts = path.split("/")
            if all(is_visible(part) for part in parts):
                tree.folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
                if is_picture(path):
                    # times of members are often made up (1980, 0), so the archive's own stands for all
                    tree.pictures.append((path, member.size, self._unchanged[1]))
        return tree

    def read(self, path: str) -> Content:
        """Return a picture.

        Raises
        ------
        OSError
            If it is not there, damaged, encrypted or too large.
        """
        try:
            member = self.index().get(path)
        except ImageSetError as error:
            raise OSError(str(error)) from None
        if member is None:
            raise OSError(f"{self.location} holds no such file")
        if member.problem:
            raise OSError(member.problem)
        refuse_large(member.size)
        data = self._zip_member(member) if member.packed >= 0 else self._slice(member.offset, member.size)
        return Content(data, member.size, self._unchanged[1])

    def labels(self, paths: list[str]) -> dict[str, str]:
        """Return the texts of small files."""
        index = self.index()
        texts = {}
        with disk_of(self.location).open(self.location) as file:
            for path in paths:
                member = index[path]
                if member.problem or member.size > _MAX_LABEL:
                    continue
                file.seek(member.offset)
                texts[path] = file.read(member.size).decode("utf-8", "replace").strip()
        return texts

    def _slice(self, offset: int, size: int, at_least: int = -1) -> bytes:
        data = disk_of(self.location).slice(self.location, offset, size, self._unchanged)
        if len(data) < (size if at_least < 0 else at_least):
            raise OSError("its archive ends inside it")
        return data

    def _zip_member(self, member: _Member) -> bytes:
        refuse_large(member.packed)
        span = self._slice(member.offset, _ZIP_HEADER.size + _ZIP_SLACK + member.packed, at_least=_ZIP_HEADER.size)
        signature, name, extra = _ZIP_HEADER.unpack_from(span)
        if signature != b"PK\3\4":
            raise OSError("its archive is damaged: no header where the index says")
        start = _ZIP_HEADER.size + name + extra
        packed = span[start : start + member.packed]
        if len(packed) < member.packed:
            packed = self._slice(member.offset + start, member.packed)
        if member.method == _ZIP_STORED:
            data = packed
        else:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflater.decompress(packed, member.size + 1)
            except zlib.error as error:
                raise OSError(f"its archive is damaged: {first_line(error)}") from None
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise OSError("its archive is damaged: the checksum (CRC-32) differs")
        return data


def archive_rows(archive: Archive, notes: list[str]) -> list[Row]:
    """List an archive: an image folder's tree, or a WebDataset shard where labels stand beside the pictures."""
    tree = archive.tree()
    labels = _shard_labels(archive, tree)
    if labels is None:
        inner, prefix = unwrap(tree)
        rows = class_rows(inner, archive.location, notes)
        for row in rows:
            row.path = prefix + row.path
        return rows
    return [Row(path, labels.get(_key(path)[0]), "", size, mtime) for path, size, mtime in tree.pictures]


def _shard_labels(archive: Archive, tree: Tree) -> dict[str, str] | None:
    """Return the label of each key of a WebDataset shard; None if the archive is no shard."""
    if archive.location.lower().endswith(".zip"):
        return None
    keys = {_key(path)[0] for path, _, _ in tree.pictures}
    beside: dict[str, dict[str, str]] = {kind: {} for kind in _LABELS}
    for path in archive.index():
        key, kind = _key(path)
        if kind in beside and key in keys:
            beside[kind][key] = path
    # in class folders a .json or .txt beside a picture says something else
    flat = all("/" not in path for path, _, _ in tree.pictures)
    chosen = next((kind for kind in _LABELS if beside[kind] and (flat or kind == "cls")), None)
    if chosen is None:
        return None
    texts = archive.labels(list(beside[chosen].values()))
    named = {key: texts.get(path, "") for key, path in beside[chosen].items()}
    labels = {key: _json_label(text) if chosen == "json" else text for key, text in named.items()}
    return {key: label for key, label in labels.items() if label}


def _key(path: str) -> tuple[str, str]:
    """Split a path as WebDataset does: at the first full stop of the file's name."""
    folder, slash, name = path.rpartition("/")
    stem, _, kind = name.partition(".")
    return folder + slash + stem, kind.lower()


def _json_label(text: str) -> str:
    try:
        record = json.loads(text)
    except ValueError:
        return ""
    if isinstance(record, dict):
        record = next((record[key] for key in _LABEL_KEYS if key in record), None)
    return str(record).strip() if isinstance(record, int | str) else ""


def _zip_index(file: BinaryIO, location: str) -> dict[str, _Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        raise _damaged(location, "zip", error) from None
    index = {}
    for info in infos:
        if info.is_dir():
            continue
        problem = ""
        if info.flag_bits & _ENCRYPTED:
            problem = "it is encrypted in its archive: unpack the archive with its password"
        elif info.compress_type not in (_ZIP_STORED, _ZIP_DEFLATED):
            problem = f"it is compressed by zip's method {info.compress_type}: pack it again with deflate, or store it"
        # some writers on Windows use their own slash
        name = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
        index[_plain(name)] = _Member(
            info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC, problem
        )
    return index


def _tar_index(file: BinaryIO, location: str) -> dict[str, _Member]:
    index: dict[str, _Member] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                name = _plain(info.name)
                if info.issparse():
                    index[name] = _Member(0, info.size, problem="it is a sparse file in its archive: pack it plainly")
                elif info.isreg():
                    index[name] = _Member(info.offset_data, info.size)
                elif info.issym():
                    links[name] = _plain(posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname)))
                elif info.islnk():
                    links[name] = _plain(info.linkname)
            # tarfile takes a damaged header for the archive's end
            file.seek(archive.offset)
            rest = file.read(tarfile.BLOCKSIZE)
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset:,}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(location, "tar", error) from None
    for name, target in links.items():
        for _ in range(_LINKS):
            target = links.get(target, target)
        index[name] = index.get(target, _Member(0, -1, problem=f"it is a link to {target}, which its archive lacks"))
    return index


def _damaged(location: str, kind: str, error: Exception) -> ImageSetError:
    with disk_of(location).open(location) as file:
        packed = file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
    if packed:
        return ImageSetError(f"{location} is compressed, so its pictures cannot be read in place: decompress it first")
    return ImageSetError(f"{location} is no {kind} file, or damaged or cut off ({first_line(error)}): copy it again")


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name.lstrip("/")
