"""What stays in memory of what was read: one bound for all files of a table."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

KEPT_BYTES = 64 << 20


class Kept:
    """Blocks of rows by key, the ones used last, within a number of bytes; and one cursor of whoever read last."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self.max_bytes = max_bytes
        self.cursor: Any = None
        self.spilled: dict[Hashable, Any] = {}
        """What lies in temporary files."""
        self.lock = threading.RLock()
        """To be held while something is read that is not there."""
        self._blocks: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, read: Callable[[], tuple[Any, int]]) -> Any:
        """The block of this key, read if need be: with the bytes that it takes."""
        with self.lock:
            if key not in self._blocks:
                value, num_bytes = read()
                self.put(key, value, num_bytes)
                return value
            self._blocks.move_to_end(key)
            return self._blocks[key][1]

    def put(self, key: Hashable, value: Any, num_bytes: int) -> None:
        """The block put last stays, whatever its size."""
        with self.lock:
            self._bytes += num_bytes - self._blocks.pop(key, (0, None))[0]
            self._blocks[key] = num_bytes, value
            while self._bytes > self.max_bytes and len(self._blocks) > 1:
                _, (freed, _) = self._blocks.popitem(last=False)
                self._bytes -= freed
