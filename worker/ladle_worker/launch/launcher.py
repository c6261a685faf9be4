"""How the ranks of one attempt are run: five verbs, what they take and what they give.

The ranks are the same everywhere. They read `job.json` of the attempt's folder and write events, log and outcome into
it, and the agent relays these. A launcher only says where the ranks run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from ladle_contracts import Reason
from ladle_worker.confinement.plan import Plan
from ladle_worker.gang import Gang
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.tree import Meanwhile, nothing


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One attempt, as a launcher gets it. `job.json` is already in its folder."""

    folder: AttemptFolder
    job_id: str
    attempt: int
    mark: str
    """The job's and this node's: every process of the attempt carries it."""
    num_nodes: int
    """How many machines the launcher uses. 1 where each machine has an agent of its own."""
    min_nodes: int | None = None
    """With how many the job can do, if there are no more. By default it needs all."""
    ranks_per_node: int | None
    """None only for a dispatcher, who does not know the machines yet: one per GPU there, or one."""
    module: str
    """The module that each rank runs, with the attempt's folder as its argument."""
    plan: Plan
    """How the ranks are confined."""
    timeout_s: float | None = None
    """How long the job may run. The agent keeps to it; another scheduler may have to be told too."""
    gang: Gang | None = None
    """This machine among those of the attempt, where each has an agent of its own."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended that the ranks could not tell of: a machine was taken away, a limit was reached."""

    outcome: str
    """`failed`, `crashed` or `released`, as `end.lua` explains them."""
    reason: Reason
    message: str

    @classmethod
    def refused(cls, message: str) -> Self:
        """Whoever was asked to run the ranks does not, and would not another time."""
        return cls(outcome="failed", reason=Reason.LAUNCH_FAILED, message=message)

    @classmethod
    def of_mistake(cls, error: Exception) -> Self:
        """An error that nobody foresaw."""
        message = f"Ladle failed with {type(error).__name__}: {error}. This is a mistake in Ladle."
        return cls(outcome="failed", reason=Reason.INTERNAL_ERROR, message=message)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a launcher knows of its ranks."""

    is_over: bool = False
    waits_for: str = ""
    """Why the ranks do not run yet, or stand still, in words for the user. Empty while they run."""
    code: int | None = None
    """The exit status, once it is over and known."""
    said: Mapping[str, Any] | None = None
    """The outcome that a rank told where it could write no file."""
    out_of_memory: bool = False
    """Whether the kernel ended a rank because there was no more memory."""
    ending: Ending | None = None
    """What the launcher alone knows about the end. The ranks' own outcome comes before it."""


class Launcher(Protocol):
    """The ranks of one attempt. There is one launcher per attempt."""

    def start(self, launch: Launch) -> None:
        """Starts the ranks, or asks for the machines that will. Ends what still runs of earlier attempts first.

        Raises OSError where it cannot, and `CannotLaunch`.
        """

    def status(self) -> Status:
        """Is called several times per second, and does not wait."""

    def logs(self) -> Sequence[str]:
        """The end of what ranks and launcher have printed. Ranks that still run first write which lines they are at."""

    def cancel(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """Ends the ranks, and returns when none is left that can be ended. Does nothing if it is over.

        `grace_s` lies between SIGTERM and SIGKILL. `meanwhile` is called again and again.
        """

    def forget(self) -> None:
        """Removes what the launcher keeps of the attempt outside its folder. Is called once, at the end."""


class WrongLauncher(Exception):
    """The settings of a launcher are wrong, or what it needs is not installed. The worker does not start."""


class CannotLaunch(Exception):
    """The ranks cannot be started. `ending` says what becomes of the attempt."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending
