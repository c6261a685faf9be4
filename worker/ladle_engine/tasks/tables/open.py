"""Opens a table by the name of its file or folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.tasks.tables.base import Table
from ladle_engine.tasks.tables.csv_file import open_csv
from ladle_engine.tasks.tables.json_rows import open_json
from ladle_engine.tasks.tables.plain_text import open_text

Opener = Callable[..., Table]
OPENERS: Mapping[str, Opener] = {
    ".csv": open_csv,
    ".tsv": open_csv,
    ".jsonl": open_json,
    ".ndjson": open_json,
    ".json": open_json,
    ".txt": open_text,
}
"""Suffix -> what opens such a file, with `limit=`."""


def open_table(path: Path, *, split: str | None = None, limit: int | None = None) -> Table:
    """The rows of a file or folder; `limit` takes only the first ones.

    Raises `DataError`: there is none, it is empty or broken, or of a kind that holds no table; and `TaskError`
    (missing-library).
    """
    try:
        if is_folder(path):
            raise DataError("invalid-data", "Folders come next.")
        if not is_file(path):
            raise DataError("invalid-data", f"A data set must be a file or a folder, but there is none at `{path}`.")
        return _open_file(path, limit)
    except OSError as error:
        raise DataError(
            "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
        ) from error


def _open_file(path: Path, limit: int | None) -> Table:
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            "invalid-data",
            f"A table must be one of {', '.join(OPENERS)}, or a folder of them, but is `{path.name}`.",
        )
    return opener(path, limit=limit)
