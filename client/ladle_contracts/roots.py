"""The operator's roots: a path that a stranger names must lie inside one, after every link is followed.

The API checks when a job is submitted; the worker checks again, where the file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class PathNotAllowed(ValueError):
    """The path is missing or outside the allowed roots: the answer is the same, so that nobody can probe the disk."""


def resolve_inside(path: str | os.PathLike[str], roots: Sequence[Path], *, field: str = "path") -> Path:
    """The path without links and `..`. Raises `PathNotAllowed`, whose message names `field` and the path as given."""
    refused = PathNotAllowed(
        f"`{field}` must be an existing path inside the allowed roots, but `{os.fspath(path)}` is not. Ask the "
        f"operator which folders are allowed."
    )
    if not Path(path).is_absolute():
        raise refused
    try:
        resolved = Path(path).resolve(strict=True)
        inside = any(resolved.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError) as error:
        raise refused from error
    if not inside:
        raise refused
    return resolved
