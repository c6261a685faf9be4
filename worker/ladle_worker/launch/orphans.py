"""What a dispatcher left in another scheduler when it ended before it could end it."""

from __future__ import annotations

from typing import Any

from ladle_contracts import TERMINAL_STATES, JobState, keys

OVER = {*TERMINAL_STATES, JobState.QUEUED}


def is_orphan(redis: Any, job_id: str, attempt: int) -> bool:
    """Whether no dispatcher needs this attempt any more. A job that Redis has never heard of may be another Ladle's.

    Ask it after the other scheduler was asked: numbers of attempts only grow.
    """
    state, number = redis.hmget(keys.job(job_id), ["state", "attempt"])
    if state is None:
        return bool(redis.exists(keys.deleted(job_id)))
    return state in OVER or int(number) > attempt
