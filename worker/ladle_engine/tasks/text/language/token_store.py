"""Sequences of tokens by position, however long: on disk, and read piece by piece."""

from __future__ import annotations

import os
import tempfile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN = np.dtype([("id", "<u4"), ("bytes", "<u4"), ("counts", "?")])
"""A token, how many bytes of UTF-8 text it stands for, and whether it is to be predicted."""
Tokens = NDArray[np.void]
"""An array of `TOKEN`."""


class TokenSource(Protocol):
    """Tokens that stand one after the other."""

    def read(self, start: int, stop: int) -> Tokens:
        """Those from `start` up to `stop`, which must be there."""
        ...


class TokenStore:
    """Tokens as they are made, in a temporary file that vanishes with it. Several threads may read."""

    def __init__(self) -> None:
        # Unbuffered: what is written can be read at once.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.length = 0

    def append(self, tokens: Tokens) -> None:
        content = memoryview(tokens.tobytes())
        while content:
            content = content[self._file.write(content) :]
        self.length += len(tokens)

    def read(self, start: int, stop: int) -> Tokens:
        length = (stop - start) * TOKEN.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), length, start * TOKEN.itemsize), dtype=TOKEN)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def tokens_of(
    ids: NDArray[np.uint32], num_bytes: NDArray[np.uint32] | int, counts: NDArray[np.bool_] | bool = True
) -> Tokens:
    tokens = np.empty(len(ids), dtype=TOKEN)
    tokens["id"], tokens["bytes"], tokens["counts"] = ids, num_bytes, counts
    return tokens
