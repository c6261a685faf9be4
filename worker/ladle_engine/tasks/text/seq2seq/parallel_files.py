"""Parallel text files: two files of one folder, named alike, of which each line is the translation of the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import entries_of, is_folder
from ladle_engine.tasks.tables import Table
from ladle_engine.tasks.tables.folder import choose_split
from ladle_engine.tasks.tables.plain_text import open_text
from ladle_engine.tasks.text.seq2seq.languages import Languages
from ladle_engine.tasks.text.seq2seq.pairs import Pair, chosen

USUAL = (
    *(("source", "target"), ("src", "tgt"), ("src", "trg"), ("input", "output"), ("in", "out"), ("text", "summary")),
    *(("article", "highlights"), ("article", "summary"), ("document", "summary")),
)
"""Endings of a source and its target."""
OTHER_FILES = frozenset(
    {
        *("csv", "tsv", "json", "jsonl", "ndjson", "parquet", "arrow", "lock", "md", "rst", "log", "yaml", "yml"),
        *("gz", "bz2", "xz", "zst", "zip", "tar", "py", "sh", "html", "xml", "bin", "npz", "safetensors"),
        *("idx", "vocab", "model", "png", "jpg", "jpeg", "webp", "bmp", "gif", "pt", "toml", "ini", "cfg"),
    }
)
"""Endings that are no language."""

Files = Mapping[str, Mapping[str, Path]]
"""What two or more files have in common, such as `val` -> ending, such as `en` -> file."""


def find_parallel(path: Path) -> Files:
    """Those of a folder: `val.en` and `val.de`, or `val.en.txt`, or `en.txt`. Empty where there are none."""
    groups: dict[str, dict[str, Path]] = {}
    if not is_folder(path):
        return groups
    for entry in entries_of(path):
        stem, _, ending = entry.name.removesuffix(".txt").rpartition(".")
        if (entry.is_regular or entry.is_link) and ending.lower() not in OTHER_FILES and not entry.name.startswith("."):
            groups.setdefault(stem, {})[ending] = path / entry.name
    # A file without an ending, such as `LICENSE`, has nothing in common with another.
    named_by_ending = {ending: file for ending, file in groups.pop("", {}).items() if file.suffix == ".txt"}
    if named_by_ending:
        groups[""] = named_by_ending
    return {stem: files for stem, files in groups.items() if len(files) > 1}


def open_parallel(
    found: Files, *, columns: Mapping[str, str], split: str | None, limit: int | None, languages: Languages
) -> ParallelFiles:
    """Raises `DataError` where it is open which files are meant, and where two have different numbers of lines."""
    folder = next(path.parent for files in found.values() for path in files.values())
    stem = choose_split(folder, sorted(found), split)
    files = found[stem]
    source = columns.get("source", languages.source)
    target = columns.get("target", languages.target)
    usual = next((pair for pair in USUAL if set(pair) <= files.keys()), None)
    if usual is not None and source not in files and target not in files:
        source, target = usual
    endings = chosen(list(files), source, target, f"the files {f'`{stem}.*` end with' if stem else 'are called'}")
    return ParallelFiles(files[endings[0]], files[endings[1]], limit)


class ParallelFiles:
    """Line i of one file belongs to line i of the other, blank ones too."""

    remarks: Sequence[str] = ()

    def __init__(self, source: Path, target: Path, limit: int | None) -> None:
        self._source: Table = open_text(source)
        self._target: Table = open_text(target)
        if len(self._source) != len(self._target):
            raise DataError(
                "invalid-data",
                f"Parallel files must have as many lines as each other, but `{source}` has {len(self._source):,} and "
                f"`{target}` has {len(self._target):,}.",
            )
        self._length = len(self._source) if limit is None else min(limit, len(self._source))

    def __len__(self) -> int:
        return self._length

    def rows(self, indices: Sequence[int]) -> list[Pair]:
        both = zip(self._source.rows(indices, ["text"]), self._target.rows(indices, ["text"]), strict=True)
        return [Pair(source["text"], target["text"]) for source, target in both]

    def place(self, index: int) -> str:
        return f"{self._source.place(index)} and {self._target.place(index)}"
