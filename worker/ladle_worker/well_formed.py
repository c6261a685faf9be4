"""Text that can be sent. A file name that is not UTF-8 has lone surrogates in Python, which no encoding has."""

from __future__ import annotations

from typing import Any


def well_formed(value: Any) -> Any:
    """The same value with visible escapes for what has no encoding, in keys and items too.

    All that leaves a rank or an agent goes through here.
    """
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {well_formed(key): well_formed(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(map(well_formed, value))
    return value
