"""Ladle makes one better model from a folder of checkpoints.

from ladle import submit

job = submit("checkpoints", "val")
print(job.result().folder)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ladle._client import AsyncClient, Client, submit
    from ladle._errors import (
        ConfigurationError,
        Conflict,
        InvalidSpec,
        JobCancelled,
        JobError,
        JobFailed,
        LadleError,
        NotFound,
        ServiceError,
        ServiceUnreachable,
        TooMany,
        Unauthorized,
        Unavailable,
        UnexpectedAnswer,
    )
    from ladle._job import AsyncJob, Job
    from ladle_contracts import Event, JobRecord, JobResult, JobSpec, JobState

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "ConfigurationError",
    "Conflict",
    "Event",
    "InvalidSpec",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobRecord",
    "JobResult",
    "JobSpec",
    "JobState",
    "LadleError",
    "NotFound",
    "ServiceError",
    "ServiceUnreachable",
    "TooMany",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "submit",
]

_CLIENT = ("AsyncClient", "Client", "submit")
_JOB = ("AsyncJob", "Job")
_CONTRACTS = ("Event", "JobRecord", "JobResult", "JobSpec", "JobState")


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, so that `import ladle` and `ladle --help` are quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _CONTRACTS:
        module = "ladle_contracts"
    else:
        module = "ladle._client" if name in _CLIENT else "ladle._job" if name in _JOB else "ladle._errors"
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
