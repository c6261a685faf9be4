"""What a job's events say, for its page."""

from __future__ import annotations

from datetime import UTC, datetime

from ladle_contracts import Event, StageStarted, Warned
from ladle_service.pages.history import MOST_STAGES, MOST_WARNINGS, History


def test_stages_and_warnings_that_ranks_make_up_do_not_fill_the_page() -> None:
    history = History()
    for number in range(1000):
        for body in (StageStarted(stage=f"stage-{number}"), StageStarted(stage="check"), Warned(message=f"{number}")):
            history.take(Event(id=f"{number}-0", job_id="j", attempt=1, time=datetime.now(UTC), body=body))
    assert len(history.stages) == MOST_STAGES
    assert history.stages["check"].began_at is not None
    assert len(history.warnings) == MOST_WARNINGS
