"""How an attempt ends by what a process for far files has answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_contracts import Reason
from ladle_worker.claim import Ended
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.relay import log_tail


def ended_by(answer: Mapping[str, Any] | None, does: str, folder: AttemptFolder) -> Ended | None:
    """None where it did what it `does`, as in `fetches far files`. Without an answer it ended without a word."""
    if answer is None:
        return Ended(
            outcome="crashed",
            reason=Reason.CRASHED,
            message=f"The process that {does} did not say why it ended. Look at the end of the log.",
            log_tail=log_tail(folder),
        )
    if answer["ok"]:
        return None
    return Ended(
        outcome="failed" if answer["final"] else "crashed",
        reason=Reason(answer["reason"]),
        message=answer["message"],
        log_tail=log_tail(folder),
    )
