"""A node, and the catalogue of what its engine can do.

The service never imports torch, so it learns the methods and tasks from the nodes. Each node publishes what is
installed there, including plug-ins.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from ladle_contracts._model import Contract


class OptionInfo(Contract):
    """One option of a method or task."""

    name: str
    type: str
    """`int`, `float`, `str`, `bool`, `list[str]` and so on, with ` | None` if it may be absent."""
    default: JsonValue
    help: str


class MethodInfo(Contract):
    """A way to choose coefficients."""

    name: str
    summary: str
    reference: str
    """The paper, with its equation or section."""
    reference_url: str
    options: tuple[OptionInfo, ...] = ()


class TaskInfo(Contract):
    """What checkpoints were trained to do: how to build their model, and how to get loss, metrics and data."""

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
    """How many ranks it can run at once: one per GPU, or one per core if there is no GPU."""
    gpus: tuple[str, ...] = ()
    protections: tuple[str, ...] = ()
    """What ranks are confined in there: `files`, `network`, `ports`, `processes`, `memory`."""
    version: str
    torch_version: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    job_id: str | None = None
    """The job that the node runs."""
    dispatches: bool = False
    """Whether it runs nothing itself, but hands whole jobs over to a scheduler such as Slurm."""
    holds: int = 1
    """How many jobs it has at once at the most."""
    job_ids: tuple[str, ...] = ()
    """The jobs that a dispatcher has handed over."""
