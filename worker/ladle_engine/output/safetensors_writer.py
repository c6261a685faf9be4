"""Writes one safetensors file, block after block."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.checkpoints.safetensors_file import DTYPE_NAMES
from ladle_engine.progress import pulse
from ladle_engine.storage.atomic_folder import sync_file
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.page_cache import leave_cache

MAX_WAITING_BLOCKS = 4
"""How many blocks may wait to be written."""

SEND_BYTES = 32 << 20
"""How many are written before they are sent on to the disk: the sync at the end finds little left to do."""


class SafetensorsWriter:
    """Writes one file block after block; the library's own `save_file` wants all tensors in memory at once.

    A thread of its own hashes and writes, for neither holds Python's lock. The format: 8 bytes of header length,
    little-endian, the JSON header padded to 8 bytes, then the data.
    """

    def __init__(
        self, path: Path, infos: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
        position = 0
        for name, (dtype, shape) in infos.items():
            end = position + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._path = path
        self._file = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._sent = 0
        self._due = iter(infos.items())
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._submit(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            while self._waiting and exc_info[0] is None:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._file.close()
        if exc_info[0] is None:
            assert next(self._due, None) is None, "every announced tensor must have been added"
            sync_file(self._path)

    def add(self, blocks: Iterable[Tensor]) -> None:
        """The next tensor, in the order in which they were announced, as flat parts.

        Raises what writing an earlier block raised.
        """
        name, (dtype, shape) = next(self._due)
        missing = math.prod(shape)
        for block in blocks:
            assert block.dtype == dtype, name
            missing -= block.numel()
            if block.numel():
                self._submit(block.contiguous().view(torch.uint8).numpy().data)
        assert missing == 0, name

    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return self._sha256.hexdigest()

    def _submit(self, data: bytes | memoryview) -> None:
        self._waiting.append(self._thread.submit(self._write, data))
        if len(self._waiting) > MAX_WAITING_BLOCKS:
            self._waiting.popleft().result()

    def _write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._file.write(data)
        COUNTS.wrote(memoryview(data).nbytes)
        pulse()
        unsent = self._file.tell() - self._sent
        if unsent >= SEND_BYTES:
            self._file.flush()
            leave_cache(self._file, self._sent, unsent)
            self._sent += unsent
