"""Every list of a job's stages has the engine's."""

from __future__ import annotations

from ladle.cli import job_picture
from ladle_contracts import counts
from ladle_engine.progress import STAGES
from ladle_service.pages import words
from ladle_worker import stall


def test_all_know_the_same_stages_in_the_same_order() -> None:
    assert tuple(job_picture.STAGES) == tuple(words.STAGES) == STAGES
    assert ("start", *STAGES) == stall.STAGES
    assert frozenset(STAGES) == counts.STAGES
    assert tuple(stage for stage in STAGES if stage not in job_picture.RARE) == words.USUAL_STAGES
