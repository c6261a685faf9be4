"""The operator's roots: a path in a job must be inside one of them after all links are followed.

The API checks it when a job is submitted. The worker checks it again, where the file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class PathNotAllowed(ValueError):
    """The path does not exist or is outside the allowed roots. The answer is the same, so nobody can probe the disk."""


def resolve_inside(path: str | os.PathLike[str], roots: Sequence[Path], *, field: str = "path") -> Path:
    """The path without links and `..`. Raises `PathNotAllowed`, whose message names `field` and the path as given."""
    refused = PathNotAllowed(
        f"`{field}` must be an existing path inside the allowed folders, but `{os.fspath(path)}` is not. Ask the "
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
