"""What a part of the check is, what it is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(kw_only=True)
class Found:
    """What a part found, so far."""

    says: str = ""
    """One line, for the summary."""
    figures: dict[str, Any] = field(default_factory=dict)
    """For the JSON file."""
    lines: list[str] = field(default_factory=list)
    """For the Markdown file."""


class Skipped(Exception):
    """This part cannot run here; the message says why."""


@dataclass(kw_only=True)
class Budget:
    """The time that the whole check may take. Benchmarks are left out when it runs short, checks never are."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    """The same in all processes of this machine."""
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def left_s(self) -> float:
        return self.seconds - (self.clock() - self.started)

    def allows(self, expected_s: float) -> bool:
        return self.left_s() >= expected_s


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a part is given."""

    device: torch.device
    quick: bool
    folder: Path
    """Empty, and deleted afterwards."""
    budget: Budget
    keep: Callable[[Found], None]
    """Call it with what is found so far: it stays in the files, even when the part fails or is ended later."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def small(self) -> bool:
        """Whether to take the smallest sizes: a CPU stands in for the GPU, and nothing is measured."""
        return not self.on_gpu

    @property
    def few(self) -> bool:
        """Whether to take the fewest cases too: in the check's own test."""
        return self.small and self.quick


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    summary: str
    """What it shows, in a few words."""
    run: Callable[[Setting], Found]
    """Raises when something is wrong."""
    is_check: bool = True
    """Otherwise it measures, and is left out when time runs short."""
    needs: tuple[str, ...] = ()
    """Packages that the engine itself can do without."""


def require(holds: bool, message: str) -> None:
    """Raises `AssertionError`. Unlike `assert` it also works under `python -O`."""
    if not holds:
        raise AssertionError(message)
