"""Tasks by name, built in or installed as entry points of the group `ladle.tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import describe_options
from ladle_engine.tasks.base import Batch, DataSet, Metric, Task

__all__ = ["Batch", "DataSet", "Metric", "Task", "catalog", "choose_task", "load_tasks"]

ENTRY_POINT_GROUP = "ladle.tasks"


def load_tasks() -> tuple[dict[str, type[Task]], dict[str, str]]:
    """Name -> task type, and name -> error for every plug-in that does not load: one broken plug-in stops no other."""
    tasks: dict[str, type[Task]] = {}
    broken: dict[str, str] = {}
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry_point: entry_point.name):
        try:
            tasks[entry_point.name] = entry_point.load()
        except Exception as error:
            broken[entry_point.name] = f"{type(error).__name__}: {error}"
    return tasks, broken


def choose_task(checkpoints: CheckpointSet, task: str | Task | None, options: Mapping[str, Any]) -> Task:
    """The task that is named, given, or recognised by the folder's `config.json`.

    Raises `TaskError` (unknown-task) that lists what is installed.
    """
    if task is not None and not isinstance(task, str):
        return task
    tasks, broken = load_tasks()
    if task is None:
        return _infer(checkpoints, tasks, broken).from_options(options)
    if task in broken:
        raise TaskError("unknown-task", f"`task` must load, but the plug-in `{task}` fails: {broken[task]}.")
    if task not in tasks:
        raise TaskError("unknown-task", f"`task` must be one of {', '.join(tasks)}, but is `{task}`.")
    return tasks[task].from_options(options)


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


def _infer(checkpoints: CheckpointSet, tasks: Mapping[str, type[Task]], broken: Mapping[str, str]) -> type[Task]:
    matching = [name for name, task in tasks.items() if task.recognises(checkpoints)]
    if len(matching) == 1:
        return tasks[matching[0]]
    found = "no `config.json`"
    if checkpoints.config is not None:
        architectures = checkpoints.config.get("architectures")
        found = (
            f"a `config.json` with architectures {architectures}"
            if architectures
            else "a `config.json` of another kind"
        )
    if len(matching) > 1:
        found += f" that {' and '.join(matching)} all recognise"
    unloaded = "".join(f" The plug-in `{name}` does not load: {error}." for name, error in broken.items())
    raise TaskError(
        "unknown-task",
        f"`task` must be named or be recognisable from `config.json`, but `{checkpoints.folder}` has {found}. "
        f"Installed tasks: {', '.join(tasks)}.{unloaded}",
    )
