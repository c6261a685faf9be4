"""Files of token ids: as nanoGPT, llm.c and Megatron-LM write them, and arrays of numpy and safetensors."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ladle_engine.checkpoints.safetensors_file import header_of
from ladle_engine.errors import CheckpointError, DataError, EngineError
from ladle_engine.progress import pulse
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import is_file
from ladle_engine.storage.zip_members import refuse_unusual
from ladle_engine.tasks.tables.source import FileView, Source
from ladle_engine.tasks.text.language.token_store import Tokens, TokenStore, tokens_of

SUFFIXES = (".bin", ".idx", ".npy", ".npz", ".safetensors")
DTYPES = ("uint16", "uint32", "int32", "int64")
"""What the ids of a raw file can be."""
KEYS = ("tokens", "input_ids", "ids")
"""Names of an array of token ids."""
HEADER_MAGIC = {20240520: "<u2", 20240801: "<u4"}
"""How files of llm.c begin, of GPT-2's tokens and of Llama 3's: a header of 256 numbers, the third of them the number
of tokens."""
HEADER_BYTES = 1024
ARCHIVE = b"PK\x03\x04"
INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_DTYPES = {1: "u1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Megatron-LM's codes of integer types."""
LOOKED_AT = 1 << 20
"""Tokens that are looked at when a file is opened; the others when they are used."""
MAX_HEADER_BYTES = 1 << 20
"""Of numpy's arrays and tables of contents."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What is known of the tokens."""

    size: int | None
    """Their ids are below it."""
    num_bytes: NDArray[np.uint32] | None = None
    """How many bytes of text each stands for."""

    def tokens(self, ids: NDArray[np.int64]) -> Tokens:
        known = ids.astype(np.uint32)
        return tokens_of(known, 0 if self.num_bytes is None else self.num_bytes[known])

    def refuse_unknown(self, ids: NDArray[np.int64], path: Path, start: int) -> None:
        """Raises `DataError` (invalid-data); `start` is the place of the first one in the file."""
        wrong = (ids < 0) if self.size is None else (ids < 0) | (ids >= self.size)
        if wrong.any():
            place = int(wrong.argmax())
            top = "from 0" if self.size is None else f"0 to {self.size - 1}"
            raise DataError(
                "invalid-data",
                f"Tokens must be ids that the model knows, {top}, but token {start + place:,} of `{path}` is "
                f"{int(ids[place])}. Are they of another tokenizer, or is the file of another type? The task option "
                f"`token_dtype` says which.",
            )


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    source: StoredTokens | TokenStore
    starts: NDArray[np.int64]
    """Of each document, and the end of the last one."""
    are_rows: bool
    """Each document is an example of its own: the file has a table of tokens."""


class StoredTokens:
    """Tokens of a file, from byte `offset` on, read where they stand. Several threads may read."""

    def __init__(self, source: Source, offset: int, dtype: str, length: int, vocabulary: Vocabulary) -> None:
        self._source = source
        self._offset = offset
        self._dtype = np.dtype(dtype)
        self._vocabulary = vocabulary
        self.length = length

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """Raises `DataError` (invalid-data) for one that is not in the vocabulary."""
        size = self._dtype.itemsize
        content = self._source.read(self._offset + start * size, (stop - start) * size)
        ids = np.frombuffer(content, dtype=self._dtype).astype(np.int64)
        self._vocabulary.refuse_unknown(ids, self._source.path, start)
        return ids

    def read(self, start: int, stop: int) -> Tokens:
        return self._vocabulary.tokens(self.ids(start, stop))


def is_token_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def open_token_file(path: Path, vocabulary: Vocabulary, dtype: str | None, separator: int | None) -> TokenFile:
    """`dtype` is what the ids of a raw file are; None for uint16 or, for a larger vocabulary, uint32. A document begins
    at each `separator`; without one, and without an index, all is one document.

    Raises `DataError` that names the file.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".bin", ".idx"):
            opened = _open_binary(path, vocabulary, dtype)
        elif suffix == ".safetensors":
            opened = _open_safetensors(path, vocabulary)
        else:
            opened = _open_npz(path, vocabulary) if suffix == ".npz" else _open_npy(path, vocabulary)
    except OSError as error:
        raise DataError("invalid-data", f"`{path}` must be readable, but is not ({error}).") from error
    _look_at_beginning(opened, path)
    if separator is None or opened.are_rows or len(opened.starts) > 2:
        return opened
    return TokenFile(source=opened.source, starts=_starts_at(opened.source, separator), are_rows=False)


def _open_binary(path: Path, vocabulary: Vocabulary, dtype: str | None) -> TokenFile:
    data, index = path.with_suffix(".bin"), path.with_suffix(".idx")
    if is_file(index) and (found := _megatron(data, index, vocabulary)):
        return found
    source = Source(data)
    if source.read(0, len(ARCHIVE)) == ARCHIVE:
        raise DataError("invalid-data", f"`{data}` must be a file of tokens, but is an archive, such as torch writes.")
    header = np.frombuffer(source.read(0, 12).ljust(12, b"\0"), dtype="<i4")
    if int(header[0]) in HEADER_MAGIC:
        stored = HEADER_MAGIC[int(header[0])]
        return _one_document(source, HEADER_BYTES, stored, vocabulary, declared=int(header[2]))
    stored = dtype or ("uint32" if (vocabulary.size or 0) > 1 << 16 else "uint16")
    opened = _one_document(source, 0, np.dtype(stored).newbyteorder("<").str, vocabulary)
    if dtype is None and stored == "uint16":
        _refuse_wider(source)
    return opened


def _one_document(
    source: Source, offset: int, dtype: str, vocabulary: Vocabulary, declared: int | None = None
) -> TokenFile:
    size = np.dtype(dtype).itemsize
    length, rest = divmod(source.size - offset, size)
    if rest or (declared is not None and declared != length):
        told = f", and its header says {declared:,}" if declared is not None else ""
        raise DataError(
            "invalid-data",
            f"`{source.path}` must hold whole tokens of {size} bytes, but has {source.size - offset:,} bytes of them"
            f"{told}. The task option `token_dtype` says what they are, one of {', '.join(DTYPES)}.",
        )
    tokens = StoredTokens(source, offset, dtype, length, vocabulary)
    return TokenFile(source=tokens, starts=np.array([0, length], dtype=np.int64), are_rows=False)


def _refuse_wider(source: Source) -> None:
    """Raises `DataError` where every second number is 0: ids of 32 bits, read as if they had 16."""
    numbers = np.frombuffer(source.read(0, 2 * LOOKED_AT), dtype="<u2")
    if len(numbers) >= 8 and not numbers[1::2].any() and numbers[::2].any():
        raise DataError(
            "invalid-data",
            f"`{source.path}` must hold tokens as uint16, but every second one is 0, as if they were wider. Set the "
            f"task option `token_dtype` to `uint32`.",
        )


def _megatron(data: Path, index: Path, vocabulary: Vocabulary) -> TokenFile | None:
    """By the index beside the data, which says where each sequence is; None where it is not one of Megatron-LM."""
    described = Source(index)
    head = described.read(0, 34)
    if not head.startswith(INDEX_MAGIC) or len(head) < 34:
        return None
    dtype = INDEX_DTYPES.get(head[17])
    count = int.from_bytes(head[18:26], "little")
    tokens = Source(data)
    if dtype is None or described.size < 34 + 12 * count:
        raise DataError(
            "invalid-data", f"`{index}` must be a whole index of token ids, but is of another kind, or cut."
        )
    lengths = np.frombuffer(described.read(34, 4 * count), dtype="<i4").astype(np.int64)
    places = np.frombuffer(described.read(34 + 4 * count, 8 * count), dtype="<i8")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    size = np.dtype(dtype).itemsize
    if (lengths < 0).any() or int(starts[-1]) * size > tokens.size or not np.array_equal(places, starts[:-1] * size):
        raise DataError(
            "invalid-data", f"`{index}` must say where each document of `{data.name}` is, one after the other."
        )
    return TokenFile(source=StoredTokens(tokens, 0, dtype, int(starts[-1]), vocabulary), starts=starts, are_rows=False)


def _open_safetensors(path: Path, vocabulary: Vocabulary) -> TokenFile:
    try:
        with InputFile(path) as file:
            header = header_of(file)
    except CheckpointError as error:
        raise DataError("invalid-data", f"`{path}` must be a safetensors file, but does not read ({error}).") from error
    name = _pick(list(header.tensors), path)
    info = header.tensors[name]
    dtype = str(info.dtype).removeprefix("torch.")
    if not dtype.startswith(("int", "uint")):
        raise _not_ids(path, dtype)
    return _arranged(path, header.offsets[name], np.dtype(dtype).newbyteorder("<").str, info.shape, vocabulary)


def _open_npy(path: Path, vocabulary: Vocabulary) -> TokenFile:
    source = Source(path)
    try:
        with FileView(source, MAX_HEADER_BYTES) as view:
            shape, dtype, by_columns = _read_header(view)
            offset = view.tell()
    except (ValueError, OSError) as error:
        raise DataError("invalid-data", f"`{path}` must be an array of numpy, but does not read ({error}).") from error
    _refuse_other_arrays(path, dtype, by_columns, len(shape))
    if source.size - offset != math.prod(shape) * dtype.itemsize:
        raise DataError("invalid-data", f"`{path}` must hold {math.prod(shape):,} tokens as it says, but is cut.")
    return _arranged(path, offset, dtype.str, shape, vocabulary)


def _open_npz(path: Path, vocabulary: Vocabulary) -> TokenFile:
    """Unpacked piece by piece into a temporary file."""
    source, store = Source(path), TokenStore()
    try:
        with FileView(source, MAX_HEADER_BYTES) as view, zipfile.ZipFile(view) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            name = members[_pick(list(members), path)]
            refuse_unusual(archive.getinfo(name))
            with archive.open(name) as member:
                shape, dtype, by_columns = _read_header(member)
                _refuse_other_arrays(path, dtype, by_columns, len(shape))
                for start in range(0, math.prod(shape), LOOKED_AT):
                    count = min(LOOKED_AT, math.prod(shape) - start)
                    ids = np.frombuffer(member.read(count * dtype.itemsize), dtype=dtype).astype(np.int64)
                    if len(ids) < count:
                        raise ValueError("it is cut")
                    vocabulary.refuse_unknown(ids, path, start)
                    store.append(vocabulary.tokens(ids))
                    pulse()
    except (EngineError, MemoryError, OSError):
        raise
    except Exception as error:
        # What a damaged archive raises depends on where it is damaged: zlib.error, NotImplementedError and more.
        raise DataError(
            "invalid-data", f"`{path}` must be an .npz of plain arrays, but does not read ({error})."
        ) from error
    return TokenFile(source=store, starts=_row_starts(path, shape), are_rows=len(shape) == 2)


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read_header(file)
    return shape, dtype, by_columns


def _refuse_other_arrays(path: Path, dtype: np.dtype[np.generic], by_columns: bool, dimensions: int) -> None:
    if dtype.kind not in "iu":
        raise _not_ids(path, str(dtype))
    if by_columns and dimensions > 1:
        raise DataError("invalid-data", f"`{path}` must hold its rows one after the other (C order), but does not.")


def _arranged(path: Path, offset: int, dtype: str, shape: Sequence[int], vocabulary: Vocabulary) -> TokenFile:
    source = StoredTokens(Source(path), offset, dtype, math.prod(shape), vocabulary)
    return TokenFile(source=source, starts=_row_starts(path, shape), are_rows=len(shape) == 2)


def _row_starts(path: Path, shape: Sequence[int]) -> NDArray[np.int64]:
    if len(shape) == 1:
        return np.array([0, shape[0]], dtype=np.int64)
    if len(shape) == 2:
        return np.arange(shape[0] + 1, dtype=np.int64) * shape[1]
    raise DataError(
        "invalid-data",
        f"Tokens must be a list, or a table with a row per example, but in `{path}` their shape is {tuple(shape)}.",
    )


def _pick(names: Sequence[str], path: Path) -> str:
    for key in KEYS:
        if key in names:
            return key
    raise DataError(
        "invalid-data",
        f"`{path}` must hold an array named {' or '.join(f'`{key}`' for key in KEYS)}, but holds "
        f"{', '.join(f'`{name}`' for name in list(names)[:10]) or 'none'}.",
    )


def _not_ids(path: Path, dtype: str) -> DataError:
    return DataError("invalid-data", f"Tokens must be whole numbers, but in `{path}` they are {dtype}.")


def _look_at_beginning(opened: TokenFile, path: Path) -> None:
    length = int(opened.starts[-1])
    if length == 0:
        raise DataError("empty-data", f"A token file must hold tokens, but `{path}` holds none.")
    if isinstance(opened.source, StoredTokens):
        opened.source.ids(0, min(LOOKED_AT, length))


def _starts_at(source: StoredTokens | TokenStore, separator: int) -> NDArray[np.int64]:
    found = [np.zeros(1, dtype=np.int64)]
    for start in range(0, source.length, LOOKED_AT):
        stop = min(start + LOOKED_AT, source.length)
        ids = source.ids(start, stop) if isinstance(source, StoredTokens) else source.read(start, stop)["id"]
        found.append(start + np.flatnonzero(ids == separator))
    starts = np.concatenate([*found, [source.length]])
    return np.unique(starts).astype(np.int64)
