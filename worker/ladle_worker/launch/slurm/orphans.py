"""Jobs of Slurm that no attempt needs any more: their dispatcher ended before it could end them."""

from __future__ import annotations

import logging
from typing import Any

from ladle_worker.launch.orphans import is_orphan
from ladle_worker.launch.slurm.commands import SlurmAway, SlurmRefused, cancel, jobs_of_ladle
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)


def end_orphans(settings: Settings, redis: Any) -> None:
    """Of all dispatchers of this Ladle. Raises `RedisError`."""
    try:
        found = jobs_of_ladle(settings.results_dir)
        orphans = {slurm_id: attempt for slurm_id, attempt in found if is_orphan(redis, attempt.job_id, attempt.number)}
        for slurm_id, attempt in orphans.items():
            logger.warning(
                "attempt %s of job %s is over: its Slurm job %s ends", attempt.number, attempt.job_id, slurm_id
            )
        cancel(list(orphans))
    except (SlurmAway, SlurmRefused) as error:
        logger.warning("left-over jobs of Slurm cannot be looked for: %s", error)
