"""What is set differently for as long as a block lasts: convolutions' rounding, and how often a training saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from ladle_engine.resume_state import ResumeState


@contextmanager
def convolutions(*, tf32: bool) -> Iterator[None]:
    """Inside, a GPU's convolutions may round their factors to TF32's 11 bits, or must take all 24."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


class Cut(Exception):
    """Stands for the end of the process."""


@contextmanager
def cut_after(steps: int, cut: Callable[[], NoReturn]) -> Iterator[None]:
    """Inside, `cut` is called when a training has saved this many steps or more."""
    save = ResumeState.save

    def save_and_cut(state: ResumeState, key: str, value: Mapping[str, Any]) -> None:
        save(state, key, value)
        if len(value.get("losses", ())) >= steps:
            cut()

    ResumeState.save = save_and_cut  # type: ignore[assignment,method-assign]  # for as long as the block lasts
    try:
        yield
    finally:
        ResumeState.save = save  # type: ignore[method-assign]  # as it was


@contextmanager
def saving_always() -> Iterator[None]:
    """Inside, a resume state is saved at every chance, and not every few seconds."""
    before = ResumeState.is_due
    ResumeState.is_due = lambda state: True  # type: ignore[assignment,method-assign]  # for as long as the block lasts
    try:
        yield
    finally:
        ResumeState.is_due = before  # type: ignore[method-assign]  # as it was
