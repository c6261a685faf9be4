"""A `.pt` file, which is a zip archive: its pickle, and where its records of numbers are."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.other_formats import TORCHSCRIPT
from ladle_engine.checkpoints.pickles.source import Held, Source
from ladle_engine.checkpoints.pickles.values import Malformed, StoredTensor
from ladle_engine.checkpoints.stored import InMemory, Place
from ladle_engine.errors import EngineError
from ladle_engine.storage.hashed_file import LoadedFile, load_whole
from ladle_engine.storage.host_memory import free_host_bytes
from ladle_engine.storage.input_file import InputFile, ReadableFile
from ladle_engine.storage.zip_members import read_member, refuse_unusual

ZIP_START = b"PK\x03\x04"
MAX_DIRECTORY_BYTES = 12 << 20
"""Of the archive's table of contents: some 150,000 records."""
MAX_PACKED_PICKLE_BYTES = 32 << 20
"""Of one that is compressed, and unpacked in memory: some 150,000 tensors."""
MAX_RATIO = 10
"""How many times as large as its file an archive may be, if it is not small: weights hardly shrink."""
SMALL_BYTES = 64 << 20
MEMORY_SHARE = 0.5
"""Of the memory that is free, at most, goes into an archive that is compressed."""
LOCAL_HEADER = struct.Struct("<4s22xHH")


class InputStream(io.RawIOBase):
    """An input file as what Python's own readers take. They read little, here and there: no buffer."""

    def __init__(self, file: ReadableFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("a position before the beginning of the file")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Refuses large pieces: only a table of contents, or a record that was not checked, would be one."""
        left = max(self._file.size - self._position, 0)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_DIRECTORY_BYTES:
            raise Malformed(f"its table of contents has {size:,} bytes, of {MAX_DIRECTORY_BYTES:,} at most")
        content = self._file.read(self._position, size)
        self._position += size
        return content

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants any buffer
        count = max(min(len(buffer), self._file.size - self._position), 0)
        self._file.read_into(memoryview(buffer).cast("B")[:count], self._position)
        self._position += count
        return count


@contextmanager
def damage_named() -> Iterator[None]:
    """Inside, whatever zipfile raises becomes `Malformed`: OSError, RuntimeError, struct.error, zlib.error and more,
    by where an archive is damaged."""
    try:
        yield
    except (EngineError, MemoryError, Malformed):
        raise
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Malformed(f"it does not parse ({said})") from error


def is_zip(file: ReadableFile) -> bool:
    return file.size >= len(ZIP_START) and file.read(0, len(ZIP_START)) == ZIP_START


@dataclass(frozen=True, kw_only=True)
class TorchArchive:
    """Raises `Malformed` for one that is no file of `torch.save`."""

    file: ReadableFile
    archive: zipfile.ZipFile
    records: Mapping[str, zipfile.ZipInfo]
    """By their names without the folder that all are in."""
    is_little_endian: bool

    @property
    def tells_places(self) -> bool:
        """Whether numbers stand in the file as they are in memory."""
        native = self.is_little_endian == (sys.byteorder == "little")
        return native and all(info.compress_type == zipfile.ZIP_STORED for info in self.records.values())

    def pickle(self) -> Source:
        info = self.records["data.pkl"]
        if info.compress_type == zipfile.ZIP_STORED:
            start = self.start(info)
            return Source(self.file, start, start + info.file_size)
        return Source(Held(self.content(info, MAX_PACKED_PICKLE_BYTES)))

    def record(self, tensor: StoredTensor) -> zipfile.ZipInfo:
        """Of the tensor's storage."""
        info = self.records.get(f"data/{tensor.storage.key}")
        if info is None:
            raise Malformed(f"the record of its storage `{tensor.storage.key}` is not there")
        return info

    def start(self, info: zipfile.ZipInfo) -> int:
        """Where the content of a record begins, checked to lie in the file with all of it."""
        signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(
            self.file.read(info.header_offset, LOCAL_HEADER.size)
            if 0 <= info.header_offset <= self.file.size - LOCAL_HEADER.size
            else bytes(LOCAL_HEADER.size)
        )
        start: int = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        if signature != ZIP_START or start + info.file_size > self.file.size:
            raise Malformed(f"its record `{info.filename}` is not where its table of contents says")
        return start

    def content(self, info: zipfile.ZipInfo, most: int) -> bytes:
        if info.file_size > most:
            raise Malformed(f"its record `{info.filename}` claims {info.file_size:,} bytes, of {most:,} at most")
        if info.compress_type == zipfile.ZIP_STORED:
            return self.file.read(self.start(info), info.file_size)
        with damage_named():
            return read_member(self.archive, info)


def open_archive(file: ReadableFile) -> TorchArchive:
    """Reads the table of contents. Raises `Malformed`."""
    with damage_named():
        archive = zipfile.ZipFile(InputStream(file))
        entries = archive.infolist()
    pickles = [
        info.filename for info in entries if info.filename.count("/") == 1 and info.filename.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise Malformed(f"must be an archive with one `data.pkl`, but has {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    records = {info.filename.removeprefix(folder): info for info in entries if info.filename.startswith(folder)}
    with damage_named():
        for info in records.values():
            refuse_unusual(info)
    if "constants.pkl" in records:
        raise Malformed(f"it is {TORCHSCRIPT.reason}")
    found = TorchArchive(file=file, archive=archive, records=records, is_little_endian=True)
    order = found.content(records["byteorder"], 16) if "byteorder" in records else b"little"
    if order not in (b"little", b"big"):
        raise Malformed(f"its byte order is {order!r}")
    return TorchArchive(file=file, archive=archive, records=records, is_little_endian=order == b"little")


@dataclass(frozen=True, kw_only=True)
class RecordsInFile:
    """Finds tensors at their places."""

    archive: TorchArchive

    def place(self, name: str, tensor: StoredTensor) -> InFile:
        info = self.archive.record(tensor)
        refuse_short(name, tensor, info.file_size)
        return in_file(tensor, self.archive.start(info))


@dataclass(frozen=True, kw_only=True)
class RecordsInMemory:
    """Reads the records of an archive that is compressed, or of the other byte order. Bounded before it is read."""

    archive: TorchArchive
    zipped: zipfile.ZipFile
    """The same, of the file in memory."""
    storages: dict[str, Tensor] = field(default_factory=dict)
    """uint8, by their keys."""

    def place(self, name: str, tensor: StoredTensor) -> Place:
        info = self.archive.record(tensor)
        refuse_short(name, tensor, info.file_size)
        key = f"{tensor.storage.key} {tensor.storage.dtype_name}"
        if key not in self.storages:
            with damage_named():
                content = bytearray(read_member(self.zipped, info))
            self.storages[key] = torch.from_numpy(self._native(content, tensor)) if content else torch.empty(0).byte()
        place = in_file(tensor, 0)
        item = tensor.info.dtype.itemsize
        whole = self.storages[key][place.offset : place.offset + place.num_bytes].clone()
        numbers = whole.view(tensor.info.dtype) if len(whole) else torch.empty(0, dtype=tensor.info.dtype)
        assert len(numbers) * item == place.num_bytes
        return InMemory(tensor=place.arranged(numbers))

    def _native(self, content: bytearray, tensor: StoredTensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        numbers = np.frombuffer(content, dtype=np.uint8)
        dtype = tensor.info.dtype
        size = dtype.itemsize // (2 if dtype.is_complex else 1)
        if self.archive.is_little_endian == (sys.byteorder == "little") or size == 1:
            return numbers
        return numbers.reshape(-1, size)[:, ::-1].reshape(-1).copy()


def loaded(archive: TorchArchive) -> tuple[RecordsInMemory, LoadedFile]:
    """For an archive that does not tell places. Raises `Malformed` where it would take too much memory."""
    claimed = sum(info.file_size for info in archive.records.values())
    size = archive.file.size
    if claimed > max(SMALL_BYTES, MAX_RATIO * size):
        raise Malformed(f"must unpack to at most {MAX_RATIO} times its own {size:,} bytes, but claims {claimed:,}")
    most = int(MEMORY_SHARE * free_host_bytes())
    if claimed + size > most:
        raise Malformed(
            f"it is compressed and needs {claimed + size:,} bytes of memory, of {most:,} at most. Save it with "
            f"`torch.save`, which does not compress"
        )
    if not isinstance(archive.file, InputFile):
        raise Malformed("it is compressed inside of another archive. Unpack that")
    content, file = load_whole(archive.file)
    with damage_named():
        return RecordsInMemory(archive=archive, zipped=zipfile.ZipFile(io.BytesIO(content))), file


def in_file(tensor: StoredTensor, storage_start: int) -> InFile:
    """Where a tensor's numbers are, if those of its storage begin at this byte."""
    first = tensor.storage.start * tensor.storage.itemsize + tensor.offset * tensor.info.dtype.itemsize
    return InFile(
        info=tensor.info,
        offset=storage_start + first,
        stride=None if tensor.is_contiguous else tensor.stride,
        is_negated=tensor.is_negated,
        is_conjugated=tensor.is_conjugated,
    )


def refuse_short(name: str, tensor: StoredTensor, record_bytes: int) -> None:
    """Raises `Malformed` for a record that does not hold the whole storage."""
    if tensor.storage.num_bytes > record_bytes:
        raise Malformed(
            f"must hold all numbers of `{name}`, but its record is too short: {record_bytes:,} bytes of "
            f"{tensor.storage.num_bytes:,}"
        )
