"""Reads the values of flags that are not a job's, with messages in Ladle's words."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer

from ladle_contracts import JobState


def whole_number(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """A parser for typer, which also passes it the default."""
    rule = f"from {least} to {most}" if most is not None else f"of at least {least}"

    def parse(given: str | int) -> int:
        try:
            number = int(given)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise typer.BadParameter(f"must be a whole number {rule}, but is {given!r}.")
        return number

    return parse


def positive_number(given: str | float) -> float:
    """A parser for typer."""
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise typer.BadParameter(f"must be a number above 0, but is {given!r}.")
    return number


def job_state(given: str) -> JobState:
    """A parser for typer."""
    try:
        return JobState(given)
    except ValueError as error:
        raise typer.BadParameter(f"must be one of {', '.join(JobState)}, but is {given!r}.") from error


def complete_state(incomplete: str) -> list[str]:
    """What the shell completes."""
    return [state for state in JobState if state.startswith(incomplete)]
