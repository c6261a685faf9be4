"""Reading `.pt`, `.pth`, `.bin` and `.ckpt`: weights only, and no fallback ever (CVE-2025-32434, CVE-2026-24747)."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.errors import CheckpointError

MINIMUM_TORCH = (2, 10)
"""Earlier versions run code from a file in spite of `weights_only=True`."""

NESTING_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Where training scripts keep the weights inside a checkpoint, the most telling name first."""
EMA_KEYS = ("state_dict_ema", "model_ema", "ema", "ema_state_dict")
"""Taken only where there is nothing else: an EMA is another model than the one trained."""


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Raises `CheckpointError`: unsafe for a pickle that wants more than tensors, corrupt for a broken one."""
    _check_torch()
    loaded = _load(path)
    tensors = _find_tensors(loaded)
    if tensors is None:
        raise corrupt(
            path,
            f"must hold a state dict of tensors, itself or under {', '.join(f'`{key}`' for key in NESTING_KEYS)}, but "
            f"holds {_describe(loaded)}; if it is no checkpoint, leave it out with `exclude`",
        )
    return tensors


def _load(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # The format of before torch 1.6 cannot be mapped; it is read whole, weights-only all the same.
            return torch.load(path, map_location="cpu", weights_only=True)
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
    except (MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        # What a damaged pickle raises depends on where it is damaged: TypeError, struct.error, AssertionError and more.
        raise corrupt(path, f"must be a PyTorch file, but does not parse ({_first_line(error)})") from error


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
