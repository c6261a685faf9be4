"""Rows of different lengths as one tensor. What is beyond a row's end never changes what the row is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Numbers = Sequence[int] | Tensor | np.ndarray[tuple[int], np.dtype[np.int32]]


def padded(rows: Sequence[Numbers], value: int, *, left: bool = False, width: int = 1) -> Tensor:
    """int64 [B, L] with L the longest row's length, or `width` where that is more. Rows begin at the left, or end at
    the right.
    """
    tensors = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    longest = max([width, *(len(row) for row in tensors)])
    filled = torch.full((len(tensors), longest), value, dtype=torch.int64)
    for number, row in enumerate(tensors):
        if len(row):
            filled[number, longest - len(row) if left else 0 :][: len(row)] = row
    return filled


def lengths_of(rows: Sequence[Numbers]) -> Tensor:
    """int64 [B]"""
    return torch.tensor([len(row) for row in rows], dtype=torch.int64)


def mask_of(lengths: Tensor, width: int, *, left: bool = False) -> Tensor:
    """int64 [B, `width`]: 1 where a row has a value of its own."""
    places = torch.arange(width, device=lengths.device)
    places = width - 1 - places if left else places
    return (places < lengths[:, None]).to(torch.int64)


def encoded_texts(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Texts as tensors, as a batch must have them: uint8 [B, L] of UTF-8, and how many bytes each has, int64 [B]."""
    # Half of a surrogate pair, as JSON can have it, is no UTF-8.
    rows = [text.encode(errors="surrogatepass") for text in texts]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    filled = torch.zeros((len(rows), max(int(lengths.max()), 1) if rows else 1), dtype=torch.uint8)
    for number, row in enumerate(rows):
        if row:
            filled[number, : len(row)] = torch.frombuffer(bytearray(row), dtype=torch.uint8)
    return filled, lengths


def decoded_texts(encoded: Tensor, lengths: Tensor) -> list[str]:
    """What `encoded_texts` was given."""
    rows = encoded.cpu().numpy()
    return [
        rows[number, :length].tobytes().decode(errors="surrogatepass") for number, length in enumerate(lengths.tolist())
    ]
