"""What a file with a checkpoint's suffix is, when it is no checkpoint: told by how it begins."""

from __future__ import annotations

import re

from ladle_engine.checkpoints.other_formats import GGUF, KERAS

BEGINNING = 512
"""Bytes that are enough to tell."""
TAR, TAR_AT = b"ustar", 257

BEGINS_WITH = {
    rb"version https://git-lfs": "a pointer of Git LFS to the file. Run `git lfs pull`",
    rb"\s*<(!doctype|html|\?xml)": "a web page or XML. Download the file again",
    rb"\x89HDF": f"in HDF5 format, as Keras writes it, which Ladle does not read. Convert it: `{KERAS.convert}`",
    rb"GGUF": GGUF.reason,
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!": "compressed. Unpack it",
}
OF_SAFETENSORS = re.compile(rb".{8}\s*\{", re.DOTALL)
OF_TORCH = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]", re.DOTALL)


def begins_as_tar(beginning: bytes) -> bool:
    """By the first `BEGINNING` bytes. `torch.save` makes no tar file, though some call its files `.tar`."""
    return beginning[TAR_AT : TAR_AT + len(TAR)] == TAR


def other_kind(suffix: str, beginning: bytes) -> str | None:
    """What it is and what to do; None where its contents suit its suffix, or say nothing."""
    for pattern, found in BEGINS_WITH.items():
        if re.match(pattern, beginning, re.DOTALL | re.IGNORECASE):
            return found
    if suffix == ".safetensors":
        is_torch = OF_TORCH.match(beginning) and not OF_SAFETENSORS.match(beginning)
        return "a file of `torch.save`. Rename it to end in `.pt`" if is_torch else None
    is_safetensors = OF_SAFETENSORS.match(beginning) and not OF_TORCH.match(beginning)
    return "a safetensors file. Rename it to end in `.safetensors`" if is_safetensors else None
