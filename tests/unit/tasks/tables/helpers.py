"""What the tests of tables share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle_engine.errors import DataError, EngineError
from ladle_engine.tasks.tables import Table, open_table


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def all_rows(table: Table) -> list[dict[str, Any]]:
    return table.rows(range(len(table)), list(table.columns))


def refusal(action: Callable[[], Any], code: str = "invalid-data") -> str:
    """The message of the `DataError` that it raises."""
    with pytest.raises(DataError) as caught:
        action()
    assert caught.value.code == code
    return caught.value.message


def refused(path: Path, code: str = "invalid-data", **options: Any) -> str:
    """Why a table is refused, at the latest when all its rows are read."""
    return refusal(lambda: all_rows(open_table(path, **options)), code)


def read_or_refused(path: Path) -> list[dict[str, Any]] | EngineError:
    """All rows, or why there are none. Anything else that is raised is a mistake."""
    try:
        return all_rows(open_table(path))
    except EngineError as error:
        return error
