"""File formats by hand, so that a file may say what no library would write."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Files = Mapping[str, bytes]
"""A folder: the path of each file in it -> its content."""


def write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def as_json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def safetensors(header: Any, data: bytes = b"", claimed: int | None = None) -> bytes:
    """`header` is an object or the text itself; `claimed` its length, if that is to be a lie."""
    text = as_json(header)
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def entry(shape: Any, start: int = 0, stop: int | None = None, dtype: Any = "F32") -> dict[str, Any]:
    """One tensor of a safetensors header."""
    size = 4
    for side in shape if isinstance(shape, list) else []:
        size *= side if isinstance(side, int) else 1
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size if stop is None else stop]}


# ---- pickles -------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return pickle.LONG1 + bytes([len(encoded)]) + encoded
    return pickle.LONG4 + struct.pack("<i", len(encoded)) + encoded


def several(*values: bytes) -> bytes:
    """A tuple."""
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def listed(*values: bytes) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(values) + pickle.APPENDS


def mapping(*items: tuple[bytes, bytes]) -> bytes:
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(key + value for key, value in items) + pickle.SETITEMS


def put(index: int) -> bytes:
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> bytes:
    return pickle.LONG_BINGET + struct.pack("<I", index)


def glob(name: str) -> bytes:
    """The class or function of this name."""
    module, _, last = name.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{last}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    return glob(name) + several(*arguments) + pickle.REDUCE


def new(name: str, *arguments: bytes) -> bytes:
    return glob(name) + several(*arguments) + pickle.NEWOBJ


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return several(text("storage"), glob(f"torch.{kind}"), text(key), text("cpu"), number(count)) + pickle.BINPERSID


def tensor(
    shape: Iterable[int], stride: Iterable[int], *, held: bytes | None = None, offset: int = 0, count: int = 4
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        storage(count) if held is None else held,
        number(offset),
        several(*map(number, shape)),
        several(*map(number, stride)),
        pickle.NEWFALSE,
        call("collections.OrderedDict"),
    )


PLAIN = tensor([4], [1])


def pickled(value: bytes) -> bytes:
    return pickle.PROTO + b"\x02" + value + pickle.STOP


def archive(records: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, aligned: bool = True) -> bytes:
    """A zip as `torch.save` writes it, each record's content at a multiple of 64."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        for name, content in records.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if aligned:
                info.extra = _padding(buffer.tell() + 30 + len(name))
            zipped.writestr(info, content)
    return buffer.getvalue()


def _padding(position: int) -> bytes:
    length = -(position + 4) % 64
    return struct.pack("<2sH", b"FB", length) + b"Z" * length


def pt(value: bytes, data: bytes = struct.pack("<4f", 1, 2, 3, 4), **more: bytes) -> bytes:
    """A `.pt` whose pickle makes `value`, with one record of numbers."""
    records = {"data.pkl": pickled(value), ".format_version": b"1", "byteorder": b"little", "data/0": data}
    return archive({f"archive/{name}": content for name, content in {**records, **more, "version": b"3\n"}.items()})


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def legacy(value: bytes, storages: Mapping[str, tuple[int, bytes]] | None = None) -> bytes:
    """The format of before torch 1.6; `storages` are counts and numbers by key."""
    storages = {"0": (4, struct.pack("<4f", 1, 2, 3, 4))} if storages is None else storages
    system = mapping(
        (text("protocol_version"), number(1001)),
        (text("little_endian"), pickle.NEWTRUE),
        (text("type_sizes"), mapping((text("int"), number(4)))),
    )
    head = pickled(number(LEGACY_MAGIC)) + pickled(number(1001)) + pickled(system)
    keys = pickled(listed(*map(text, storages)))
    numbers = b"".join(struct.pack("<q", count) + content for count, content in storages.values())
    return head + pickled(value) + keys + numbers


def legacy_storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    whole = (text("storage"), glob(f"torch.{kind}"), text(key), text("cpu"), number(count), pickle.NONE)
    return several(*whole) + pickle.BINPERSID


# ---- arrays --------------------------------------------------------------------------------------------------------


def npy(header: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    encoded = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded))
    return b"\x93NUMPY" + bytes(version) + length + encoded


def array(shape: Any, data: bytes, dtype: str = "|u1") -> bytes:
    return npy(f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n") + data


def npz(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(f"{name}.npy", content)
    return buffer.getvalue()


# ---- images --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, *before: bytes, pixels: bytes | None = None, last: bytes = b"", bits: int = 8
) -> bytes:
    """Grey; `before` and `last` are chunks around the pixels."""
    if pixels is None:
        pixels = zlib.compress((b"\0" + b"\x80" * width) * min(height, 64))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, bits, 0, 0, 0, 0))
    body = b"".join(before) + chunk(b"IDAT", pixels) + last
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")
