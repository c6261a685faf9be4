"""How long Redis keeps what is over."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Days may have fractions. 0 keeps for ever, or any number of jobs."""

    jobs_days: float = 0.0
    events_days: float = 0.0
    nodes_days: float = 0.0
    most_jobs: int = 0

    @property
    def limits(self) -> tuple[int, int, int, int]:
        """As `sweep.lua` takes them: milliseconds for jobs, events and nodes, and the number of jobs."""
        days = (self.jobs_days, self.events_days, self.nodes_days)
        jobs_ms, events_ms, nodes_ms = (round(each * DAY_MS) for each in days)
        return jobs_ms, events_ms, nodes_ms, self.most_jobs


KEEP_EVERYTHING = Retention()
