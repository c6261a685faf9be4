"""Data sets of rows and columns, in the formats that people keep them in, opened inside the job's boundary.

A task opens one with `open_table`, finds its columns with `find_columns`, and reads rows with `role_rows`; its options
inherit `TableOptions`.
"""

from ladle_engine.tasks.tables.base import (
    BYTES,
    IMAGE,
    NUMBER,
    NUMBERS,
    OBJECT,
    OBJECTS,
    TEXT,
    TEXTS,
    TRUTH,
    WHOLE,
    WHOLES,
    Table,
)
from ladle_engine.tasks.tables.columns import Role, TableOptions, find_columns, role_rows
from ladle_engine.tasks.tables.open import open_table
from ladle_engine.tasks.tables.plain_text import open_text

__all__ = [
    "BYTES",
    "IMAGE",
    "NUMBER",
    "NUMBERS",
    "OBJECT",
    "OBJECTS",
    "TEXT",
    "TEXTS",
    "TRUTH",
    "WHOLE",
    "WHOLES",
    "Role",
    "Table",
    "TableOptions",
    "find_columns",
    "open_table",
    "open_text",
    "role_rows",
]
