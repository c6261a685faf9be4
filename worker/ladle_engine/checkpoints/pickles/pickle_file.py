"""Reading `.pt`, `.pth`, `.bin` and `.ckpt`: the pickle is followed and never run, and tensors are read by place.

torch itself opens no file here, so no bug of its loading is a way in (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.pickles.legacy_file import open_legacy
from ladle_engine.checkpoints.pickles.opcodes import follow
from ladle_engine.checkpoints.pickles.source import Held, Source
from ladle_engine.checkpoints.pickles.state_dicts import StateDict, find_state_dict
from ladle_engine.checkpoints.pickles.tar_member import is_tar, weights_in
from ladle_engine.checkpoints.pickles.torch_archive import RecordsInFile, is_zip, loaded, open_archive
from ladle_engine.checkpoints.pickles.unwanted import Unwanted, refusal, wanted
from ladle_engine.checkpoints.pickles.values import Malformed, StoredTensor
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.stored import Place, StoredFile
from ladle_engine.storage.file_parts import FileParts
from ladle_engine.storage.hashed_file import LoadedFile
from ladle_engine.storage.input_file import InputFile, ReadableFile

MAX_REPEATED_BYTES = 4 << 30
"""All tensors together may be this large, or `MAX_REPEATS` times their file: a view may repeat its numbers."""
MAX_REPEATS = 16
MOST_REMEMBERED_BYTES = 1 << 20
"""Of a pickle. What it makes takes some ten times as much."""


def stored_average(file: InputFile) -> StoredFile:
    """The same of the average that was made while training. Raises also for a file without one."""
    return stored_tensors(file, use_ema=True)


def stored_tensors(file: InputFile, *, use_ema: bool = False) -> StoredFile:
    """Raises `CheckpointError`: unsafe for a pickle that names what runs programs, corrupt for a broken one,
    unsupported for a kind of tensor that cannot be averaged."""
    try:
        if not is_tar(file):
            return _found(file, file, use_ema)
        place = weights_in(file)
        return _moved(_found(file, FileParts(file, [place]), use_ema), place[0])
    except Unwanted as error:
        raise refusal(file.path, error) from error
    except Malformed as error:
        raise corrupt(file.path, _clause(str(error))) from error


def _found(file: InputFile, content: ReadableFile, use_ema: bool) -> StoredFile:
    """`content` is the file, or what lies in it."""
    if not is_zip(content):
        saved = open_legacy(content)
        return _stored(file, find_state_dict(file.path, saved.value, use_ema=use_ema), saved.place)
    archive = open_archive(content)
    found = find_state_dict(file.path, _value_in(archive.pickle()), use_ema=use_ema)
    if archive.tells_places:
        return _stored(file, found, RecordsInFile(archive=archive).place)
    records, loaded_file = loaded(archive)
    return _stored(loaded_file, found, records.place)


def _value_in(source: Source) -> Any:
    content = source.rest(MOST_REMEMBERED_BYTES)
    return wanted(follow(source)).value if content is None else _value_of(content)


@lru_cache(maxsize=1)
def _value_of(content: bytes) -> Any:
    """State dicts of one run have the same pickle, byte for byte. Nobody changes what it makes."""
    return wanted(follow(Source(Held(content)))).value


def _moved(stored: StoredFile, start: int) -> StoredFile:
    """The same where the content begins later in the file."""
    places = {
        name: replace(place, offset=place.offset + start) if isinstance(place, InFile) else place
        for name, place in stored.tensors.items()
    }
    return replace(stored, tensors=places)


def _stored(file: InputFile | LoadedFile, found: StateDict, place: Callable[[str, StoredTensor], Place]) -> StoredFile:
    total = sum(tensor.num_bytes for tensor in found.tensors.values())
    if total > max(MAX_REPEATED_BYTES, MAX_REPEATS * file.size):
        raise Malformed(f"its tensors repeat its {file.size:,} bytes until they are {total:,}")
    places = {name: place(name, tensor) for name, tensor in found.tensors.items()}
    return StoredFile(file=file, tensors=places, notes=found.notes)


def _clause(text: str) -> str:
    """What goes on from the name of the file."""
    return text if text.startswith("must ") else f"must be a PyTorch file, but {text}"
