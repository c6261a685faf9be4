"""A node, and the catalogue of what its engine can do.

The service never imports torch, so it learns methods and tasks from the nodes: each one publishes what its own
installation has, plug-ins included.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from ladle_contracts._model import Contract


class OptionInfo(Contract):
    """One option of a method or task."""

    name: str
    type: str
    """`int`, `float`, `str`, `bool`, `list[str]`, ..., with ` | None` where it may be absent."""
    default: JsonValue
    help: str


class MethodInfo(Contract):
    """A way to choose coefficients."""

    name: str
    summary: str
    reference: str
    """The paper, with the equation or section."""
    reference_url: str
    options: tuple[OptionInfo, ...] = ()


class TaskInfo(Contract):
    """What the checkpoints solve: how their model, loss, metrics and data are had."""

    name: str
    summary: str
    metrics: tuple[str, ...]
    """The first one is the default."""
    options: tuple[OptionInfo, ...] = ()


class Catalog(Contract):
    """What one installation of the engine can do."""

    methods: tuple[MethodInfo, ...]
    tasks: tuple[TaskInfo, ...]


class NodeRecord(Contract):
    """One worker machine."""

    id: str
    host: str
    ranks: int
    """How many ranks it takes at once: GPUs, or 1 to the number of cores without any."""
    gpus: tuple[str, ...] = ()
    version: str
    torch_version: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    job_id: str | None = None
