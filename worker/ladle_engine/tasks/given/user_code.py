"""What a user's function or data raise, told as theirs: by argument, file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.faults import NOT_FAULTS, describe, place_of, place_of_error


@contextmanager
def functions_faults(argument: str, function: Any, called_with: str) -> Iterator[None]:
    """Inside, what the function of an argument raises becomes `TaskError` (task-failed), from the original."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NOT_FAULTS) or is_machine_fault(error):
            raise
        place = place_of_error(error, module_of(function)) or place_of(function)
        raise TaskError(
            "task-failed", f"`{argument}=` fails{place}: {describe(error)}. It is called with {called_with}."
        ) from error


@contextmanager
def datas_faults(argument: str, data: Any, where: str) -> Iterator[None]:
    """Inside, what the user's data raise becomes `DataError` (invalid-data), from the original."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NOT_FAULTS) or is_machine_fault(error):
            raise
        place = place_of_error(error, module_of(data))
        raise DataError("invalid-data", f"`{argument}=` fails {where}{place}: {describe(error)}.") from error


def refuse(argument: str, rule: str, value: str, function: Any = None) -> NoReturn:
    """Raises `TaskError` (task-failed)."""
    raise TaskError("task-failed", f"`{argument}=` must {rule}, but {value}{place_of(function)}.")


def module_of(value: Any) -> str:
    """Of a function, or of an object's class."""
    return str(getattr(value, "__module__", None) or type(value).__module__)
