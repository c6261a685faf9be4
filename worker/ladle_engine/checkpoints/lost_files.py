"""Files that are gone, or cannot be opened any more, after they were found."""

from __future__ import annotations

import errno
import functools
import inspect
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ladle_engine.errors import CheckpointError

LOST = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EIO, errno.ESTALE})


P = ParamSpec("P")
R = TypeVar("R")


def naming_lost_files(call: Callable[P, R]) -> Callable[P, R]:
    """Turns the `OSError` of a file in the argument `ckpt_dir` into `CheckpointError` (unreadable-input)."""
    signature = inspect.signature(call)

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except OSError as error:
            folder = os.fspath(signature.bind(*args, **kwargs).arguments["ckpt_dir"])
            path = _path_of(error)
            if path is None or not path.startswith(folder):
                raise
            raise CheckpointError(
                "unreadable-input",
                f"The files of `ckpt_dir=` must stay while the job runs, but `{path}` cannot be opened any more: "
                f"{error.strerror or 'no such file'}.",
            ) from error

    return wrapped


def _path_of(error: OSError) -> str | None:
    """The file that is missing. safetensors gives its path in the message alone."""
    if error.errno in LOST and isinstance(error.filename, str):
        return error.filename
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return str(error).partition(": ")[2] or None
    return None
