"""Reading `.pt`, `.pth`, `.bin` and `.ckpt`: weights only, and no fallback ever (CVE-2025-32434, CVE-2026-24747)."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.stored import InFile, InMemory, StoredFile, in_file
from ladle_engine.checkpoints.zip_records import as_stream, is_zip, records_of
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.storage.hashed_file import load_whole
from ladle_engine.storage.input_file import InputFile

MINIMUM_TORCH = (2, 10)
"""Earlier versions run code from a file in spite of `weights_only=True`."""

NESTING_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Where training scripts keep the weights inside a checkpoint, the most telling name first."""
EMA_KEYS = ("state_dict_ema", "model_ema", "ema", "ema_state_dict")
"""Taken only where there is nothing else: an EMA is another model than the one trained."""


def stored_tensors(file: InputFile) -> StoredFile:
    """Raises `CheckpointError`: unsafe for a pickle that wants more than tensors, corrupt for a broken one."""
    _check_torch()
    if is_zip(file) and (places := _places(file)) is not None:
        return StoredFile(file=file, tensors=places)
    # The format of before torch 1.6, or an archive that does not tell where its tensors are.
    content, loaded_file = load_whole(file)
    tensors = _state_dict(file.path, _load(file.path, io.BytesIO(content), "cpu"))
    return StoredFile(file=loaded_file, tensors={name: InMemory(tensor=tensor) for name, tensor in tensors.items()})


def _places(file: InputFile) -> dict[str, InFile] | None:
    """Where the tensors are in the file, of which only the archive's directory and the pickle are read.

    None where torch does not tell, or where what stands there is not what it tells of.
    """
    records = records_of(file)
    if records is None:
        return None
    try:
        # On the device `meta` a tensor has no numbers, and torch notes where those of its storage are.
        tensors = _state_dict(file.path, _load(file.path, as_stream(file), "meta"))
        starts = {name: getattr(each.untyped_storage(), "_checkpoint_offset", None) for name, each in tensors.items()}
    except NotImplementedError:
        return None
    places = {}
    for name, start in starts.items():
        if start is None:
            return None
        places[name] = place = in_file(tensors[name], start)
        if not records.holds(start, place.offset, place.num_bytes):
            raise corrupt(file.path, f"must hold all numbers of `{name}`, but its record is too short")
    return places


def _load(path: Path, content: IO[bytes], device: str) -> Any:
    try:
        return torch.load(content, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted or "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            what = f"`{wanted.group(1)}`" if wanted else "something else"
            raise CheckpointError(
                "unsafe-checkpoint",
                f"The checkpoint file `{path}` must hold tensors only, but its pickle asks for {what}. It was not run. "
                f"Save the weights alone, best as safetensors.",
            ) from error
        raise corrupt(path, f"must be a PyTorch file, but does not parse ({_first_line(error)})") from error
    except (MemoryError, EngineError):
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and device == "meta":
            raise
        # What a damaged pickle raises depends on where it is damaged: TypeError, struct.error, AssertionError and more.
        raise corrupt(path, f"must be a PyTorch file, but does not parse ({_first_line(error)})") from error


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    tensors = _find_tensors(loaded)
    if tensors is None:
        raise corrupt(
            path,
            f"must hold a state dict of tensors, itself or under {', '.join(f'`{key}`' for key in NESTING_KEYS)}, but "
            f"holds {_describe(loaded)}; if it is no checkpoint, leave it out with `checkpoints`",
        )
    return tensors


def _find_tensors(loaded: Any) -> dict[str, Tensor] | None:
    """The state dict, which may be nested: `{"model": {...}, "optimizer": ...}`."""
    if not isinstance(loaded, Mapping):
        return None
    if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return {str(name): value for name, value in loaded.items()}
    for key in (*NESTING_KEYS, *EMA_KEYS):
        if key in loaded and (found := _find_tensors(loaded[key])) is not None:
            return found
    return None


def _check_torch() -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < MINIMUM_TORCH:
        raise CheckpointError(
            "unsafe-checkpoint",
            f"torch must be at least {MINIMUM_TORCH[0]}.{MINIMUM_TORCH[1]} to open pickles safely, but is "
            f"{torch.__version__}. Convert the checkpoints to safetensors, or update torch.",
        )


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return "a dict of " + (", ".join(f"`{key}`" for key in list(loaded)[:6]) or "nothing")
    return f"a {type(loaded).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
