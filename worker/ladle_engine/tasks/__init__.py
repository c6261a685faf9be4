"""Tasks: what the checkpoints solve, how their model is built, and what their data are."""

from __future__ import annotations

from ladle_engine.tasks.base import Batch, DataSet, Metric, Task
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.guard import identity_of
from ladle_engine.tasks.installed import catalog, load_tasks

__all__ = ["Batch", "DataSet", "Metric", "Task", "catalog", "choose_task", "identity_of", "load_tasks"]
