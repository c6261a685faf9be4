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
    choices: tuple[str, ...] = ()
    """The texts that it may be, where there are only some."""


class MethodInfo(Contract):
    """A way to choose coefficients."""

    name: str
    summary: str
    reference: str
    """The paper, with its equation or section."""
    reference_url: str
    formula: tuple[str, ...] = ()
    """Lines in plain text, such as `alpha_i = 1/K`."""
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


class GpuState(Contract):
    """One GPU as its node's vetting found it."""

    name: str
    free_bytes: int
    total_bytes: int
    flops: float | None = None
    """Of a product of two matrices in float32, per second."""


class Vetting(Contract):
    """What a node found when it looked at itself: when it started, or before a job of several nodes."""

    at: datetime
    took_s: float
    problem: str | None = None
    """Why it cannot run a job. None if it can."""
    gpus: tuple[GpuState, ...] = ()
    flops: float | None = None
    """Of the slowest GPU, or of the processor where there is none: a product of two matrices in float32, per second."""
    all_reduce_bytes_per_s: float | None = None
    """Between the node's own GPUs, or its ranks. None where there is one."""
    read_bytes_per_s: float | None = None
    """From the folder of the checkpoints. None where nothing was read."""
    read_from_cache: bool | None = None
    """Whether that came from this machine's memory and says little about the disk. None if the kernel does not tell."""


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
    cordoned: str | None = None
    """Why it takes no more jobs: what the operator said, or its failures. None if it takes jobs."""
    draining: bool = False
    """Whether it is meant to become empty, as `ladle node drain` says."""
    failures_in_row: int = 0
    """How many attempts ended because of this node since the last that succeeded on it. Three cordon it."""
    last_failure: str | None = None
    """The last of them, in words. Only an admin sees it."""
    vetting: Vetting | None = None

    @property
    def state(self) -> str:
        """`gone`, `drained`, `draining`, `cordoned`, `busy` or `ready`."""
        if not self.alive:
            return "gone"
        has_jobs = self.job_id is not None or bool(self.job_ids)
        if self.draining:
            return "draining" if has_jobs else "drained"
        if self.cordoned is not None:
            return "cordoned"
        return "busy" if has_jobs else "ready"
