"""How long a job may run: `resources.timeout_s`, all attempts together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ladle_contracts import Reason
from ladle_worker.claim import Ended


@dataclass
class TimeLimit:
    """What is left of it for this attempt, which begins now."""

    timeout_s: float | None
    ran_s: float
    """How long earlier attempts have run."""
    now: Callable[[], float] = time.monotonic
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = self.now() + (math.inf if self.timeout_s is None else self.timeout_s - self.ran_s)

    def put_off(self, seconds: float) -> None:
        """The job has not run for so long: it waited in the queue of another scheduler."""
        self._until += seconds

    def is_over(self) -> bool:
        return self.now() >= self._until

    def ended(self, stage: str) -> Ended:
        """Another attempt would have no time left."""
        return Ended(
            outcome="failed",
            reason=Reason.TIMED_OUT,
            message=f"The job has run for {self.timeout_s:g} s, which `resources.timeout_s` allows at most, and was in "
            f"stage `{stage or 'start'}`. Submit it again with more time.",
        )
