"""What jobs that have ended leave on the disk."""

from __future__ import annotations

import logging
from pathlib import Path

from ladle_contracts import JobState
from ladle_worker.claim import Fate
from ladle_worker.job_folder import JobFolder

logger = logging.getLogger(__name__)


def clear_leftovers(results_dir: Path, job_id: str, fate: Fate | None) -> None:
    """Removes the files of a job that has ended, and the result of one that did not succeed.

    A job that this Redis does not know may belong to another installation that shares the folder, so its files stay.
    """
    if fate is None or not fate.is_over:
        return
    try:
        JobFolder(results_dir, job_id).clear(results_dir / fate.output, keep_result=fate.state == JobState.SUCCEEDED)
    except OSError as error:
        logger.warning("cannot remove what job %s left, and try again later: %s", job_id, error)
