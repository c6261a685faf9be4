"""What is said about checkpoints that could not be kept. The training goes on without them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from ladle._errors import LadleError
from ladle_contracts.safe_text import one_line


class NotKeptWarning(UserWarning):
    """A checkpoint could not be kept. The training goes on."""


class NotKept(LadleError):
    """At the end of a training: `steps` has the steps whose checkpoints are missing, each with the error."""

    def __init__(self, folder: Path, steps: Mapping[int, Exception]) -> None:
        super().__init__(describe(folder, steps))
        self.folder = folder
        self.steps = dict(steps)


class Failures:
    """Step -> error, of one folder. Those of the background wait until the training can be told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: dict[int, Exception] = {}
        self._untold: dict[int, Exception] = {}

    def add(self, step: int, error: Exception) -> None:
        self.all[step] = self._untold[step] = error

    def forget(self, step: int) -> None:
        """It was kept after all."""
        self.all.pop(step, None)
        self._untold.pop(step, None)

    def tell(self, stacklevel: int = 4) -> None:
        """Warns of what is new."""
        untold, self._untold = self._untold, {}
        if untold:
            text = f"{describe(self._folder, untold)} The training goes on, and the next checkpoints are tried again."
            warnings.warn(text, NotKeptWarning, stacklevel=stacklevel)

    def print(self) -> None:
        """Says the same where a warning has no place: the program ends, or another error is under way."""
        untold, self._untold = self._untold, {}
        if untold:
            print(f"ladle: {describe(self._folder, untold)}", file=sys.stderr)


def describe(folder: Path, steps: Mapping[int, Exception]) -> str:
    what = "The checkpoint of step" if len(steps) == 1 else f"{len(steps)} checkpoints, of steps"
    numbers = ", ".join(str(step) for step in sorted(steps))
    why = {_reason(error): None for error in steps.values()}
    return one_line(f"{what} {numbers} could not be kept in `{folder}`: {'; '.join(why)}.")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).rstrip(".")
