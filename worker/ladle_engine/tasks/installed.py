"""Tasks that are built in, or installed as entry points of the group `ladle.tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ladle_engine.errors import TaskError
from ladle_engine.options import describe_options
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.contract import broken_declarations, shown
from ladle_engine.tasks.faults import task_failed, task_faults
from ladle_engine.tasks.identity import ENTRY_POINT_GROUP


def installed_names() -> tuple[str, ...]:
    """In alphabetical order; nothing is imported."""
    return tuple(_entry_points())


def load_tasks() -> tuple[dict[str, type[Task]], dict[str, str]]:
    """Name -> task type, and name -> error for every plug-in that does not load: one broken plug-in stops no other."""
    tasks: dict[str, type[Task]] = {}
    broken: dict[str, str] = {}
    for name, found in _entry_points().items():
        try:
            tasks[name] = _loaded(name, found)
        except TaskError as error:
            broken[name] = error.message
    return tasks, broken


def load_task(name: str) -> type[Task]:
    """Imports one task and no other.

    Raises `TaskError`: task-failed, where its code fails or breaks a rule of `Task`; unknown-task, where it is there
    twice.
    """
    return _loaded(name, _entry_points()[name])


def _loaded(name: str, found: Sequence[EntryPoint]) -> type[Task]:
    if len(found) > 1:
        owners = " and ".join(f"{each.value} of {each.dist.name if each.dist else '?'}" for each in found)
        raise TaskError("unknown-task", f"Task `{name}` must be installed once, but there are {owners}. Uninstall one.")
    module = found[0].module
    with task_faults(name, "on import", module):
        task: Any = found[0].load()
        if not isinstance(task, type):
            rule = f"The entry point `{name}` must name a class"
            raise task_failed(f"{rule}, but `{found[0].value}` is {shown(task)}.", module)
        for broken in broken_declarations(task)[:1]:
            raise task_failed(broken.message(name, f" ({found[0].value})"), module)
    return task


def catalog() -> list[dict[str, Any]]:
    """Every installed task with its metrics and options, as plain JSON values."""
    tasks, _ = load_tasks()
    return [
        {
            "name": name,
            "summary": task.summary,
            "metrics": [metric.name for metric in task.metrics],
            "options": describe_options(task.options_type),
        }
        for name, task in tasks.items()
    ]


def _entry_points() -> dict[str, list[EntryPoint]]:
    """Name -> entry points that differ. A distribution that is found twice on the path has equal ones."""
    found: dict[str, list[EntryPoint]] = {}
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry_point: entry_point.name):
        known = found.setdefault(entry_point.name, [])
        if entry_point.value not in [each.value for each in known]:
            known.append(entry_point)
    return found
