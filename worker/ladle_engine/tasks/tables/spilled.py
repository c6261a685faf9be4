"""A decoded row group in a temporary file, whose windows can be read in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from typing import Any

from ladle_engine.progress import pulse
from ladle_engine.tasks.tables.arrow_values import pyarrow

MAX_BYTES = 4 << 30
"""Of all of a data set's, and no more than half of what the disk has left."""


class SpilledGroup:
    def __init__(self, windows: Iterator[Any], room_bytes: int) -> None:
        """Writes all windows. Raises `OSError` where they do not fit, and what reading them raises."""
        self._file = tempfile.TemporaryFile(prefix="ladle-rows-")  # noqa: SIM115
        self._offsets = array("q", [0])
        for table in windows:
            content = _stored(table)
            if self.num_bytes + len(content) > room_bytes:
                raise OSError("decoded rows take too much of the disk")
            self._file.write(content)
            self._offsets.append(self.num_bytes + len(content))
            pulse()
        self._file.flush()

    def __del__(self) -> None:
        self._file.close()

    @property
    def num_bytes(self) -> int:
        return self._offsets[-1]

    def read(self, window: int) -> tuple[Any, int]:
        start, end = self._offsets[window], self._offsets[window + 1]
        content = os.pread(self._file.fileno(), end - start, start)
        return pyarrow().ipc.open_stream(pyarrow().py_buffer(content)).read_all(), len(content)


def room_bytes(taken: int) -> int:
    """How many bytes another group may have."""
    return max(min(MAX_BYTES - taken, shutil.disk_usage(tempfile.gettempdir()).free // 2), 0)


def _stored(table: Any) -> memoryview:
    sink = pyarrow().BufferOutputStream()
    with pyarrow().ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())
