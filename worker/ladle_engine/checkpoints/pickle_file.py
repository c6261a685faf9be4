"""Reading `.pt`, `.pth`, `.bin` and `.ckpt`: weights only, and no fallback ever (CVE-2025-32434, CVE-2026-24747)."""

from __future__ import annotations

import io
import pickle
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.pickle_entries import entries_of
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.state_dicts import Inert, NumpyArray, find_state_dict
from ladle_engine.checkpoints.stored import InMemory, StoredFile, in_file
from ladle_engine.checkpoints.tensor_kinds import CLASSES, stored_at, unsupported
from ladle_engine.checkpoints.zip_records import InputStream, is_zip, records_of
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.storage.hashed_file import load_whole
from ladle_engine.storage.input_file import InputFile

MINIMUM_TORCH = (2, 10)
"""Earlier versions run code from a file in spite of `weights_only=True`."""

STAND_INS: list[Any] = [
    (Inert, "numpy.dtype"),
    *((Inert, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (NumpyArray, "numpy.ndarray"),
    *((NumpyArray, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
"""What trainers often leave beside the weights (a best accuracy, a random state): torch puts classes of ours there, so
that nothing of numpy's is called."""

_LOADING = threading.Lock()
"""Stand-ins are torch's setting of the whole process: two loads would take them from each other."""

UNSAFE_ADVICE = "Save the weights alone (`torch.save(model.state_dict(), ...)`), best as safetensors."


def stored_tensors(file: InputFile) -> StoredFile:
    """Raises `CheckpointError`: unsafe for a pickle that wants more than tensors and plain values, corrupt for a
    broken one, unsupported for a kind of tensor that cannot be averaged."""
    _check_torch()
    if is_zip(file) and (stored := _places(file)) is not None:
        return stored
    # The format of before torch 1.6, or an archive that does not tell where its tensors are.
    content, loaded_file = load_whole(file)
    try:
        found = find_state_dict(file.path, _weights_only(file, io.BytesIO(content), "cpu"))
    except (MemoryError, EngineError):
        raise
    except Exception as error:
        # What a damaged pickle raises depends on where it is damaged: TypeError, struct.error, AssertionError and more.
        raise corrupt(file.path, f"must be a PyTorch file, but does not parse ({_first_line(str(error))})") from error
    tensors = {name: InMemory(tensor=tensor) for name, tensor in found.tensors.items()}
    return StoredFile(file=loaded_file, tensors=tensors, notes=found.notes)


def _places(file: InputFile) -> StoredFile | None:
    """Where the tensors are in the file, of which only the archive's directory and the pickle are read.

    None where torch does not tell, or where what stands there is not what it tells of.
    """
    records = records_of(file)
    if records is None:
        return None
    try:
        # On the device `meta` a tensor has no numbers, and torch notes where those of its storage are.
        found = find_state_dict(file.path, _weights_only(file, InputStream(file), "meta"))
    except (MemoryError, EngineError):
        raise
    except Exception:
        # Some kinds of tensors cannot be made there, and damage shows in many ways: a whole load tells them apart.
        return None
    places = {}
    for name, tensor in found.tensors.items():
        start = stored_at(tensor)
        if start is None:
            return None
        places[name] = place = in_file(tensor, start)
        if not records.holds(start, place.offset, place.num_bytes):
            raise corrupt(file.path, f"must hold all numbers of `{name}`, but its record is too short")
    return StoredFile(file=file, tensors=places, notes=found.notes)


def _weights_only(file: InputFile, content: Any, device: str) -> Any:
    with _LOADING, torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
        # Protocol 3 loads all the same; for newer ones there is an error besides.
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        try:
            return torch.load(content, map_location=device, weights_only=True)
        except pickle.UnpicklingError as error:
            raise _refusal(file, str(error)) from error


def _refusal(file: InputFile, said: str) -> CheckpointError:
    """What torch said, in terms of the file's entries."""
    path, entries = file.path, entries_of(file)
    if wanted := re.search(r"GLOBAL (\S+)", said):
        return _unwanted(path, wanted.group(1), entries.get(wanted.group(1), ()))
    # Some kinds of tensors torch loads only when the module of their class was imported.
    if kind := next((kind for kind in CLASSES if kind in entries), None):
        return _unwanted(path, kind, entries[kind])
    if re.search(r"Unsupported operand 1[45]\d\b", said):
        return CheckpointError(
            "unsafe-checkpoint",
            f"The checkpoint file `{path}` must have the pickle protocol 2, which `torch.save` writes, but has a newer "
            f"one, which torch does not read safely. {UNSAFE_ADVICE}",
        )
    if "weights_only" in said.lower() and "unsupported" in said.lower():
        return CheckpointError(
            "unsafe-checkpoint",
            f"The checkpoint file `{path}` must hold tensors and plain values only, but its pickle asks for something "
            f"else. It was not run. {UNSAFE_ADVICE}",
        )
    return corrupt(path, f"must be a PyTorch file, but does not parse ({_first_line(said)})")


def _unwanted(path: Path, wanted: str, keys: tuple[str, ...]) -> CheckpointError:
    if wanted in CLASSES:
        return unsupported(path, keys[-1] if keys else "an entry", CLASSES[wanted])
    entry = " / ".join(f"`{key}`" for key in keys)
    return CheckpointError(
        "unsafe-checkpoint",
        f"The checkpoint file `{path}` must hold tensors and plain values only, but "
        f"{f'its entry {entry} asks' if keys else 'its pickle asks'} for `{wanted}`. It was not run. {UNSAFE_ADVICE}",
    )


def _check_torch() -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < MINIMUM_TORCH:
        raise CheckpointError(
            "unsafe-checkpoint",
            f"torch must be at least {MINIMUM_TORCH[0]}.{MINIMUM_TORCH[1]} to open pickles safely, but is "
            f"{torch.__version__}. Convert the checkpoints to safetensors, or update torch.",
        )


def _first_line(text: str) -> str:
    if "TorchScript" in text:
        return "it is a TorchScript archive, which Ladle does not read: save the original model's `state_dict()`"
    return (text.splitlines() or ["no reason was given"])[0][:200]
