"""WebDataset shards: files of a tar archive, by their names; `0001.jpg` and `0001.cls` are a row of two columns."""

from __future__ import annotations

import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.tasks.tables.arrow_values import refuse_large
from ladle_engine.tasks.tables.base import BYTES, OBJECT, TEXT
from ladle_engine.tasks.tables.json_rows import parsed
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import decoded
from ladle_engine.tasks.tables.source import FileView, Source, refuse_other_kinds
from ladle_report.safe_text import one_line

KIND = "a tar archive"
KEY = "__key__"
MAX_HEADER_BYTES = 1 << 20
"""Of a name, or whatever else stands before a file."""
MAX_COLUMNS = 100
ABSENT = -1
TEXT_SUFFIXES = frozenset(("txt", "text", "transcript", "caption", "cls", "cls2", "index", "inx", "id", "lang"))
JSON_SUFFIXES = frozenset(("json", "jsn"))
"""What WebDataset and datasets decode by the name; all else is bytes."""
BLOCK = 512


class TarShard:
    """A table of one archive, whose files are read by position."""

    def __init__(self, source: Source, limit: int | None) -> None:
        self._source = source
        self._keys: list[str] = []
        self._places: dict[str, tuple[array[int], array[int]]] = {}
        """Column -> where its file begins and how long it is, by row."""
        self.class_names: Mapping[str, Sequence[str]] = {}
        passed_over = self._index(limit)
        self.columns = {KEY: TEXT, **{column: _kind(column) for column in self._places}}
        self.remarks = _remarks(source.path, passed_over)
        if not self._keys:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds no files.")

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        sizes = [self._places[column][1] for column in columns if column != KEY]
        if indices:
            refuse_large(sum(max(each[index], 0) for each in sizes for index in indices), self.place(indices[0]))
        found = {
            index: {column: self._value(index, column) for column in columns}
            # In order of the file.
            for index in sorted(set(indices))
        }
        return [dict(found[index]) for index in indices]

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, key `{one_line(self._keys[index])}`"

    def _value(self, index: int, column: str) -> Any:
        if column == KEY:
            return self._keys[index]
        offsets, sizes = self._places[column]
        if sizes[index] == ABSENT:
            return None
        content = self._source.read(offsets[index], sizes[index])
        if self.columns[column] == BYTES:
            return content
        name = Path(f"{self._source.path}/{self._keys[index]}.{column}")
        return decoded(content, name, 1).strip() if self.columns[column] == TEXT else parsed(content, name, 1)

    def _index(self, limit: int | None) -> Counter[str]:
        """Returns what is passed over, in words."""
        passed_over: Counter[str] = Counter()
        for member in members_of(self._source):
            if not member.isreg() or member.issparse():
                if member.type != tarfile.DIRTYPE:
                    passed_over[_member_kind(member)] += 1
                continue
            key, column = _key_and_column(member.name)
            if not column:
                passed_over["file without a suffix"] += 1
                continue
            if not self._keys or self._keys[-1] != key:
                if len(self._keys) == limit:
                    break
                self._begin_row(key)
            self._add(column, member)
        return passed_over

    def _begin_row(self, key: str) -> None:
        self._keys.append(key)
        for offsets, sizes in self._places.values():
            offsets.append(0)
            sizes.append(ABSENT)

    def _add(self, column: str, member: tarfile.TarInfo) -> None:
        """Raises `ValueError` for a file that is there twice."""
        if column not in self._places:
            count = len(self._keys)
            self._places[column] = array("q", bytes(8 * count)), array("q", [ABSENT]) * count
            if len(self._places) > MAX_COLUMNS:
                raise ValueError(f"its files have more than {MAX_COLUMNS} suffixes, so they are no rows of columns")
        offsets, sizes = self._places[column]
        if sizes[-1] != ABSENT:
            raise ValueError(f"it has the file `{member.name}` twice")
        offsets[-1], sizes[-1] = member.offset_data, member.size


def open_tar(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> TarShard:
    """Raises `DataError` for an archive that is cut off, damaged or none."""
    source = Source(path)
    refuse_other_kinds(source, KIND)
    try:
        return TarShard(source, limit)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError("invalid-data", f"`{path}` must be {KIND}, but does not read: {error}.") from error


def members_of(source: Source) -> Iterator[tarfile.TarInfo]:
    """All that is in an archive, in order. Raises `TarError` and `ValueError`, also where it was cut off."""
    with tarfile.TarFile(fileobj=FileView(source, MAX_HEADER_BYTES)) as archive:
        while (member := archive.next()) is not None:
            # It would keep them all.
            archive.members = []  # type: ignore[attr-defined]
            pulse()
            if member.isreg() and member.offset_data + member.size > source.size:
                raise ValueError(f"its file `{member.name}` goes on after the archive's end; was it cut off?")
            yield member
        # What is damaged ends the walk as the two empty blocks do that an archive ends with.
        if source.read(archive.offset, BLOCK) != bytes(BLOCK):
            raise ValueError(f"what stands at byte {archive.offset:,} is not the header of a file; was it cut off?")


def _key_and_column(name: str) -> tuple[str, str]:
    """The name up to the first point after its folders, and the rest in lower case, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, column = base.partition(".")
    return f"{folder}{slash}{stem}", column.lower() if stem else ""


def _kind(column: str) -> str:
    suffix = column.rpartition(".")[2]
    return TEXT if suffix in TEXT_SUFFIXES else OBJECT if suffix in JSON_SUFFIXES else BYTES


def _member_kind(member: tarfile.TarInfo) -> str:
    kinds: Sequence[tuple[str, Callable[[], bool]]] = (
        ("link", member.issym), ("hard link", member.islnk), ("sparse file", member.issparse), ("pipe", member.isfifo)
    )  # fmt: skip
    return next((kind for kind, is_one in kinds if is_one()), "device or other special file")


def _remarks(path: Path, passed_over: Counter[str]) -> tuple[str, ...]:
    if not passed_over:
        return ()
    kinds = ", ".join(f"{count} of the kind `{kind}`" for kind, count in passed_over.items())
    return (f"Of `{path.name}` only regular files with a suffix are read; passed over: {kinds}.",)
