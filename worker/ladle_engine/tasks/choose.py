"""Which task a job has: one that is named, given, or recognised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ladle_engine.checkpoints.pickles.state_dicts import WHOLE_MODULE
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import did_you_mean
from ladle_engine.progress import ProgressCallback, Warned, ignore
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.contract import Broken, shown
from ladle_engine.tasks.faults import place_of, task_failed, task_faults
from ladle_engine.tasks.guard import for_folder, guard
from ladle_engine.tasks.identity import name_of
from ladle_engine.tasks.installed import installed_names, load_task, load_tasks


def choose_task(
    checkpoints: CheckpointSet,
    task: str | type[Task] | Task | None,
    options: Mapping[str, Any],
    on_event: ProgressCallback = ignore,
) -> Task:
    """The task that is named, given (a class, or an instance), or recognised by the folder's `config.json`; guarded.

    Raises `TaskError`: unknown-task, which lists what is installed; invalid-task-options; or task-failed, where the
    task's own code fails or breaks the rules.
    """
    return for_folder(_chosen(checkpoints, task, options, on_event), checkpoints)


def _chosen(
    checkpoints: CheckpointSet,
    task: str | type[Task] | Task | None,
    options: Mapping[str, Any],
    on_event: ProgressCallback,
) -> Task:
    if task is None:
        return make_task(_recognised(checkpoints, on_event), options)
    if isinstance(task, str):
        return make_task(_named(task), options)
    if isinstance(task, type):
        return make_task(task, options)
    if options:
        raise TaskError(
            "invalid-task-options",
            f"`task_options=` must be absent with an instance as `task=`, which has its options already, but is "
            f"{dict(options)}. Pass the class instead.",
        )
    return guard(task)


def make_task(task: type[Task], options: Mapping[str, Any]) -> Task:
    """An instance, guarded."""
    name, from_options = name_of(task), getattr(task, "from_options", None)
    with task_faults(name, "in `from_options`", task.__module__, from_options):
        made = task.from_options(options)
    if made is None or isinstance(made, type):
        broken = Broken("from_options", "return an instance", f"returns {shown(made)}")
        raise task_failed(broken.message(name, place_of(from_options)), task.__module__)
    return guard(made)


def recognises(task: type[Task], checkpoints: CheckpointSet) -> bool:
    """Raises `TaskError` (task-failed) where the task fails to say."""
    with task_faults(name_of(task), "in `recognises`", task.__module__, task.recognises):
        return bool(task.recognises(checkpoints))


def _named(name: str) -> type[Task]:
    names = installed_names()
    if name in names:
        return load_task(name)
    hint = did_you_mean(name, names)
    raise TaskError("unknown-task", f"`task=` must be one of {', '.join(names)}, but is `{name}`.{hint}")


def _recognised(checkpoints: CheckpointSet, on_event: ProgressCallback) -> type[Task]:
    """A plug-in that fails to say whether the folder is its own stops no other: it is told of, and passed over."""
    tasks, broken = load_tasks()
    matching: list[str] = []
    undecided: dict[str, str] = {}
    for name, task in tasks.items():
        try:
            if recognises(task, checkpoints):
                matching.append(name)
        except TaskError as error:
            undecided[name] = error.message
    errors = [*broken.values(), *undecided.values()]
    if len(matching) == 1:
        for message in errors:
            on_event(Warned(message=f"A task was passed over. {message}"))
        return tasks[matching[0]]
    # Perhaps the one that failed would have recognised the folder.
    code = "task-failed" if undecided and not matching else "unknown-task"
    raise TaskError(code, " ".join([_not_recognised(checkpoints, tasks, matching), *errors]))


def _not_recognised(checkpoints: CheckpointSet, tasks: Iterable[str], matching: list[str]) -> str:
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
    return (
        f"`task=` must be named or be recognisable from `config.json`, but `{checkpoints.folder}` has {found}. "
        f"Installed tasks: {', '.join(tasks)}. For a model of your own, `ladle task new NAME` writes one."
        f"{_of_whole_modules(checkpoints)}"
    )


def _of_whole_modules(checkpoints: CheckpointSet) -> str:
    """What to know where modules were saved, and people expect them to be models."""
    with open_checkpoint(checkpoints.reference) as reader:
        notes = [note for note in reader.notes if note.startswith(WHOLE_MODULE)]
    return f" In `{checkpoints.reference.name}` {notes[0]}." if notes else ""
