"""With what the command ends. docs/command.md has the same table."""

from __future__ import annotations

from collections.abc import Iterable

from ladle_contracts import JobRecord, JobState

OK, FAILED, USAGE, CANCELLED = 0, 1, 2, 130

EXIT_CODES = {
    OK: "It worked. For `run`, `watch`, `result` and `submit --watch`: the job succeeded.",
    FAILED: "The job failed, the service refused or cannot be reached, or `inspect` or `doctor` found a fault.",
    USAGE: "The command line is wrong. Nothing was sent or started.",
    CANCELLED: "The job was cancelled, or Ctrl-C or a signal ended the command.",
}
"""Of several jobs the worst counts: 1 if one has failed, else 130 if one was cancelled."""


def worst(records: Iterable[JobRecord]) -> int:
    """The code for jobs that have ended."""
    states = {record.state for record in records}
    if states & {JobState.FAILED}:
        return FAILED
    return CANCELLED if JobState.CANCELLED in states else OK
