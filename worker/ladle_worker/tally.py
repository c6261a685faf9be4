"""What an attempt adds to the numbers of the service: how long its stages took, and how many steps it trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ladle_contracts import EventBody, StageStarted, StepDone
from ladle_contracts.counts import add_up, stage_took

MOST_AT_ONCE = 10**9
"""Between two events. Ranks may be anybody's, and what they say is added to the numbers of all jobs."""


class Tally:
    """One attempt's. A stage has taken the time until the next one began, as far as the agent has seen."""

    def __init__(self, on_stage: Callable[[str, float], None] | None = None) -> None:
        """`on_stage` is told of each stage that has ended, and how many seconds it took."""
        self._on_stage = on_stage
        self._stage, self._since, self._step = "", 0.0, 0

    def add(self, events: Iterable[EventBody], now: float) -> dict[str, float]:
        """What has come with these events. `now` is in seconds of any clock that goes on."""
        return add_up([self._of(event, now) for event in events])

    def end(self, now: float) -> dict[str, float]:
        """The attempt is over, and with it its stage."""
        return self._end_stage(now)

    def _of(self, event: EventBody, now: float) -> dict[str, float]:
        if isinstance(event, StageStarted):
            ended = self._end_stage(now)
            self._stage, self._since, self._step = event.stage, now, 0
            return ended
        if isinstance(event, StepDone) and event.stage == "train":
            # A resumed stage begins in the middle.
            steps = event.step - self._step if self._step else 1
            self._step = event.step
            return {"steps": steps} if 0 < steps <= MOST_AT_ONCE else {}
        return {}

    def _end_stage(self, now: float) -> dict[str, float]:
        stage, self._stage = self._stage, ""
        if not stage:
            return {}
        if self._on_stage is not None:
            self._on_stage(stage, now - self._since)
        return stage_took(stage, now - self._since)
