"""The format of before torch 1.6: pickles one after the other, and behind them the numbers of each storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladle_engine.checkpoints.pickles.opcodes import Followed, follow
from ladle_engine.checkpoints.pickles.source import Source
from ladle_engine.checkpoints.pickles.torch_archive import in_file, refuse_short
from ladle_engine.checkpoints.pickles.unwanted import wanted
from ladle_engine.checkpoints.pickles.values import Malformed, Storage, StoredTensor
from ladle_engine.checkpoints.stored import Place
from ladle_engine.storage.input_file import ReadableFile

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
PROTOCOL_OPCODE = b"\x80"
MAGIC_BYTES = 32
"""Its pickle is shorter."""
COUNT_BYTES = 8
"""Each storage begins with the number of its numbers, int64."""


@dataclass(frozen=True, kw_only=True)
class LegacyFile:
    """Raises `Malformed` and `Unwanted` for one that is no file of `torch.save`."""

    file: ReadableFile
    value: Any
    """What was saved."""
    starts: Mapping[str, int]
    """Where the numbers of each storage are."""

    def place(self, name: str, tensor: StoredTensor) -> Place:
        start = self.starts[tensor.storage.key]
        refuse_short(name, tensor, self.file.size - start)
        return in_file(tensor, start)


def begins_as_legacy(file: ReadableFile) -> bool:
    return file.read(0, min(file.size, MAGIC_BYTES)).find(MAGIC.to_bytes(10, "little")) >= 0


def open_legacy(file: ReadableFile) -> LegacyFile:
    if Source(file).take(1) != PROTOCOL_OPCODE:
        raise Malformed("it does not begin as `torch.save` begins")
    source = Source(file)
    if wanted(follow(source)).value != MAGIC:
        raise Malformed("it is a plain pickle, which `torch.save` did not write. Save the weights with `torch.save`")
    protocol, system = follow(source).value, follow(source).value
    if protocol != PROTOCOL or not isinstance(system, dict):
        raise Malformed("it was saved in an unknown way")
    if system.get("little_endian") is not True:
        raise Malformed("it was saved on a machine of the other byte order")
    saved, keys = wanted(follow(source)), follow(source)
    if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
        raise Malformed("its list of storages is none")
    return LegacyFile(file=file, value=saved.value, starts=_starts(file, keys, saved.storages))


def _starts(file: ReadableFile, keys: Followed, storages: Mapping[str, Storage]) -> dict[str, int]:
    """Each storage must be known: only its type tells how long it is."""
    starts: dict[str, int] = {}
    position = keys.end
    for key in keys.value:
        if key not in storages or position + COUNT_BYTES > file.size:
            raise Malformed(f"the numbers of its storage `{key}` are not there")
        count = int.from_bytes(file.read(position, COUNT_BYTES), "little", signed=True)
        if count != storages[key].count:
            raise Malformed(f"its storage `{key}` has {count:,} numbers, of {storages[key].count:,}")
        starts[key] = position + COUNT_BYTES
        position += COUNT_BYTES + storages[key].num_bytes
    if missing := storages.keys() - starts.keys():
        raise Malformed(f"the numbers of its storage `{min(missing)}` are not there")
    return starts
