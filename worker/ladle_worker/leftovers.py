"""What jobs that have ended leave on the disk."""

from __future__ import annotations

import logging
from functools import partial

from ladle_contracts import JobState
from ladle_worker.claim import Fate
from ladle_worker.far_output import withdraw_far
from ladle_worker.job_folder import JobFolder
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)


def clear_leftovers(settings: Settings, job_id: str, fate: Fate | None) -> None:
    """Removes the files of a job that has ended, and the result of one that did not succeed.

    A job that this Redis does not know may belong to another installation that shares the folder, so its files stay.
    """
    if fate is None or not fate.is_over:
        return
    try:
        folder = JobFolder(settings.results_dir, job_id)
        folder.clear(
            folder.destination(fate.output),
            keep_result=fate.state == JobState.SUCCEEDED,
            withdraw_far=partial(withdraw_far, settings),
        )
    except OSError as error:
        logger.warning("cannot remove what job %s left, and try again later: %s", job_id, error)
