"""Seeded random signs: one bit per element, the same from release to release."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def random_signs(seed: int, draw: int, row: int, name: str, start: int, length: int) -> Tensor:
    """float32 [length] of +1 and -1: elements `start` and following of a flattened tensor's random vector."""
    key = hashlib.blake2b(f"{seed}/{draw}/{row}/{name}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(key, "little"))
    # One step of Philox's counter makes four words of 64 bits.
    first = start // 256
    generator.advance(first)
    words = generator.random_raw(-(-(start + length) // 256) * 4 - first * 4)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
    skip = start - first * 256
    return torch.from_numpy(bits[skip : skip + length].astype(np.float32)).mul_(2).sub_(1)
