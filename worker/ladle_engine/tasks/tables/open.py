"""Opens a table by the name of its file or folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.tasks.tables.arrow_file import open_arrow
from ladle_engine.tasks.tables.base import Table
from ladle_engine.tasks.tables.csv_file import open_csv
from ladle_engine.tasks.tables.folder import find_files, split_family, split_of
from ladle_engine.tasks.tables.json_rows import open_json
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.parquet_file import open_parquet
from ladle_engine.tasks.tables.plain_text import open_text
from ladle_engine.tasks.tables.shards import Shards
from ladle_engine.tasks.tables.tar_shard import open_tar

Opener = Callable[..., Table]
OPENERS: Mapping[str, Opener] = {
    ".csv": open_csv,
    ".tsv": open_csv,
    ".jsonl": open_json,
    ".ndjson": open_json,
    ".json": open_json,
    ".txt": open_text,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".ipc": open_arrow,
    ".tar": open_tar,
}
"""Suffix -> what opens such a file, with a `limit` and what is `kept`."""
MAY_LACK_COLUMNS = (".jsonl", ".ndjson", ".json", ".tar")
"""Where a row without a value does not name it."""
PACKED = (".gz", ".tgz", ".zst", ".bz2", ".xz", ".zip", ".7z")


def open_table(path: Path, *, split: str | None = None, limit: int | None = None) -> Table:
    """The rows of a file, or of a folder's files of one split; `limit` takes only the first ones.

    Raises `DataError`: there is none, it is empty or broken, or of a kind that holds no table, or has no such split;
    and `TaskError` (missing-library).
    """
    try:
        if is_folder(path):
            return _open_folder(path, split, limit)
        if not is_file(path):
            raise DataError("invalid-data", f"A data set must be a file or a folder, but there is none at `{path}`.")
        if split is not None and split_family(split_of(path.name)) != split_family(split):
            raise DataError(
                "invalid-data",
                f"`split` must be absent for a data set of one file, but is `{split}` for `{path}`. Give its folder, "
                f"or leave `split` out.",
            )
        return _open_file(path, limit, Kept())
    except OSError as error:
        raise DataError(
            "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
        ) from error


def _open_file(path: Path, limit: int | None, kept: Kept) -> Table:
    suffix = path.suffix.lower()
    if suffix not in OPENERS:
        packed = f" Unpack it first: it ends in {suffix}." if suffix in PACKED else ""
        raise DataError(
            "invalid-data",
            f"A table must be one of {', '.join(OPENERS)}, or a folder of them, but is `{path.name}`.{packed}",
        )
    return OPENERS[suffix](path, limit=limit, kept=kept)


def _open_folder(folder: Path, split: str | None, limit: int | None) -> Table:
    found, kept = find_files(folder, split), Kept()
    tables: list[Table] = []
    rows = 0
    for path in found.files:
        if limit is not None and rows >= limit:
            break
        try:
            tables.append(_open_file(path, None if limit is None else limit - rows, kept))
        except DataError as error:
            # Some writers leave a shard without rows.
            if error.code != "empty-data":
                raise
            continue
        rows += len(tables[-1])
    if not tables:
        raise DataError("empty-data", f"A data set must hold rows, but the files of `{folder}` hold none.")
    may_lack = found.files[0].suffix.lower() in MAY_LACK_COLUMNS
    return Shards(tables, may_lack_columns=may_lack, remarks=found.remarks)
