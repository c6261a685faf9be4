"""Whatever a task's own code raises, as a `TaskError` that says where: another attempt would meet it again."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import EngineError, TaskError

ADVICE = " Correct the task's code; `ladle_engine.testing.check_task` tests it."
TEXT_CHARS = 500
OURS = "ladle_engine"
CALLERS = ("importlib", *(f"{OURS}.tasks.{name}" for name in ("choose", "faults", "guard", "installed")))
"""Modules that call a task: where one of them stands last, the task's own code never ran."""
NOT_FAULTS = (EngineError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
"""What passes through a task: Ladle's own errors, and what asks the process to stop."""


@contextmanager
def task_faults(task: str, when: str, module: str, function: object = None) -> Iterator[None]:
    """Inside, what the task's code raises becomes `TaskError` (task-failed), from the original.

    `when` is "in `loss`", say. Ladle's own errors and faults of the machine stay what they are. `sys.exit()` is a fault
    like any other. `module` is the name of the module that holds the task; its package's lines are the ones worth
    naming.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, NOT_FAULTS) or is_machine_fault(error):
            raise
        place = place_of_error(error, module) or place_of(function)
        raise task_failed(f"Task `{task}` fails {when}{place}: {describe(error)}.", module) from error


def task_failed(message: str, module: str) -> TaskError:
    """With advice for the author, unless the task is one of Ladle's own."""
    return TaskError("task-failed", message if _package(module) == OURS else message + ADVICE)


def describe(error: BaseException) -> str:
    """Type and text, on one line."""
    try:
        text = " ".join(str(error).split())[:TEXT_CHARS].rstrip(".")
    except Exception:
        # An exception of a plug-in's own may fail to say what it is.
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of_error(error: BaseException, module: str) -> str:
    """The innermost line of the task's own package or, where none of it ran, of any code but the guard's."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return _place(error.filename, error.lineno)
    calls = [
        (frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    calls = [call for call in calls if not call[0].startswith(CALLERS)]
    own = [call for call in calls if _package(call[0]) == _package(module)]
    if not calls:
        return ""
    _, file, line = (own or calls)[-1]
    return _place(file, line)


def place_of(function: object) -> str:
    """Where a function or method begins; nothing for what Python code did not define."""
    code = getattr(inspect.unwrap(_plain_function(function)), "__code__", None)
    return _place(code.co_filename, code.co_firstlineno) if code is not None else ""


def _plain_function(function: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(function, "__func__", function)
    return found


def _place(file: str, line: int | None) -> str:
    return f" ({file}, line {line})"


def _package(module: str) -> str:
    return module.partition(".")[0]
