"""How many bytes a job has read, as its report says."""

from __future__ import annotations

from pathlib import Path

from ladle_worker.job_folder import report_of

MOST = 1 << 62
"""What is more is no number of bytes."""


def read_by(result: Path) -> dict[str, float]:
    """For `Relay.count_end`. Empty where the report does not say."""
    stages = report_of(result).get("stages")
    found = [each.get("bytes_read") for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    # Ranks may be anybody's.
    total = sum(number for number in found if isinstance(number, int) and 0 <= number <= MOST)
    return {"bytes_read": total} if 0 < total <= MOST else {}
