"""The list of jobs: searched, filtered and sorted here, over the newest jobs of whoever looks.

A job that has ended never changes, so its row is made once. Rows are made of plain JSON: a thousand records would take
too long to check one by one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import Field

from ladle_contracts import TERMINAL_STATES, JobResult
from ladle_report import gains
from ladle_service.dependencies import Query
from ladle_service.store import JobStore

MOST_JOBS = 2000
CHUNK = 200
"""How many jobs are read at once, so that other requests have their turn."""
KEPT_ROWS = 10_000
PER_PAGE = 50
FRESH_S = 1.0
"""Several people who look at the same jobs are shown the same picture for so long."""
FIELDS = (
    "id",
    "owner",
    "state",
    "created_at",
    "started_at",
    "finished_at",
    "spec",
    "output",
    "reason",
    "message",
    "result",
)
ACTIVE = ("queued", "scheduled", "running", "finalizing", "cancelling")

_PLACES = {state: place for place, state in enumerate((*ACTIVE, "failed", "cancelled", "succeeded"))}

StateGroup = Literal["all", "active", "succeeded", "failed", "cancelled"]
GROUPS: tuple[StateGroup, ...] = ("all", "active", "succeeded", "failed", "cancelled")
Order = Literal["newest", "oldest", "gain", "name", "state", "longest"]


class ListingQuery(Query):
    """Which jobs, in the address of the page."""

    q: Annotated[str, Field(max_length=200)] = ""
    state: StateGroup = "all"
    sort: Order = "newest"
    page: Annotated[int, Field(ge=1, le=MOST_JOBS)] = 1

    def link(self, **changes: object) -> str:
        """The address of the same list with something changed. What is changed begins at its first page."""
        values = {**self.model_dump(exclude={"page"}), **changes}
        kept = {name: value for name, value in values.items() if value != ListingQuery.model_fields[name].default}
        return f"/?{urlencode(kept)}" if kept else "/"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job in the list."""

    id: str
    owner: str
    state: str
    created_at: datetime
    seconds: float | None
    """How long it ran. None if it has not ended."""
    started_at: datetime | None
    name: str
    """Of its result's folder."""
    ckpt_dir: str
    method: str
    labels: Mapping[str, str]
    reason: str
    message: str
    """The reason in words."""
    result: JobResult | None
    words: str
    """What a search looks at, in lower case."""

    @property
    def has_ended(self) -> bool:
        """Whether it never changes again."""
        return self.state in TERMINAL_STATES

    @property
    def gain(self) -> float | None:
        """Over the best checkpoint, in the job's own metric."""
        return None if self.result is None else self.result.gain

    @property
    def outcome(self) -> str:
        """What came out, in a few words."""
        if self.result is None:
            return self.message or self.reason
        if self.result.method == "best":
            return "the best checkpoint"
        metric, gain = self.result.metric, self.result.gain
        return gains.compared(metric, self.result.higher_is_better, gain) if gain else "lower loss"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One page of the list."""

    rows: Sequence[Row]
    found: int
    """How many jobs the search and the filter found."""
    total: int
    """How many jobs there are; only the newest are searched."""
    pages: int
    counts: Mapping[StateGroup, int]
    """Group -> how many jobs are found in it."""


class Listings:
    """What was read of the jobs."""

    def __init__(self) -> None:
        self._ended: dict[str, Row] = {}
        self._fresh: dict[str | None, tuple[float, list[Row], int]] = {}

    async def page(self, store: JobStore, owner: str | None, query: ListingQuery) -> Listing:
        """The jobs of an owner, or of all."""
        rows, total = await self._rows(store, owner)
        found = [row for row in rows if _matches(row, query.q)]
        counts = Counter(group for row in found for group in GROUPS if _is_of(row, group))
        shown = _sorted([row for row in found if _is_of(row, query.state)], query.sort)
        pages = max(1, -(-len(shown) // PER_PAGE))
        start = (min(query.page, pages) - 1) * PER_PAGE
        return Listing(rows=shown[start : start + PER_PAGE], found=len(shown), total=total, pages=pages, counts=counts)

    async def _rows(self, store: JobStore, owner: str | None) -> tuple[list[Row], int]:
        at, rows, total = self._fresh.get(owner, (0.0, [], 0))
        if at and time.monotonic() - at < FRESH_S:
            return rows, total
        ids, total = await store.newest(owner, MOST_JOBS)
        unknown = [job_id for job_id in ids if job_id not in self._ended]
        read: dict[str, Row] = {}
        for start in range(0, len(unknown), CHUNK):
            fields = await store.fields_of(unknown[start : start + CHUNK], FIELDS)
            read |= {row.id: row for each in fields if (row := _row(each)) is not None}
        self._keep(row for row in read.values() if row.has_ended)
        rows = [row for job_id in ids if (row := read.get(job_id) or self._ended.get(job_id)) is not None]
        self._fresh = {key: value for key, value in self._fresh.items() if time.monotonic() - value[0] < FRESH_S}
        self._fresh[owner] = time.monotonic(), rows, total
        return rows, total

    def _keep(self, rows: Any) -> None:
        self._ended |= {row.id: row for row in rows}
        while len(self._ended) > KEPT_ROWS:
            del self._ended[next(iter(self._ended))]


def _row(fields: Mapping[str, str | None]) -> Row | None:
    """None for a job that was deleted meanwhile, or whose record is of another version."""
    try:
        return _made(fields)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _made(fields: Mapping[str, str | None]) -> Row:
    spec = json.loads(fields["spec"] or "")
    result = JobResult.read(fields["result"]) if fields["result"] else None
    created, started, ended = (_moment(fields[name]) for name in ("created_at", "started_at", "finished_at"))
    assert created is not None, "every job has it"
    labels = {str(name): str(value) for name, value in (spec.get("labels") or {}).items()}
    paths = [spec["ckpt_dir"]] if isinstance(spec["ckpt_dir"], str) else list(spec["ckpt_dir"])
    ckpt_dir = f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(paths[0])
    method = str((spec.get("method") or {}).get("name") or "auto")
    names = ("id", "owner", "output", "reason", "message")
    job_id, owner, name, reason, message = (str(fields[key] or "") for key in names)
    told = [job_id, owner, name, reason, method, *paths, *(f"{key}={value}" for key, value in labels.items())]
    return Row(
        id=job_id,
        owner=owner,
        state=str(fields["state"]),
        created_at=created,
        started_at=started,
        seconds=(ended - started).total_seconds() if ended and started else None,
        name=name or job_id,
        ckpt_dir=ckpt_dir,
        method=method if result is None else result.method,
        labels=labels,
        reason=reason,
        message=message,
        result=result,
        words="\n".join(map(str, told)).lower(),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromtimestamp(int(text) / 1000, tz=UTC) if text else None


def _matches(row: Row, search: str) -> bool:
    return all(word in row.words for word in search.lower().split())


def _is_of(row: Row, group: str) -> bool:
    return group == "all" or (row.state in ACTIVE if group == "active" else row.state == group)


def _sorted(rows: list[Row], order: Order) -> list[Row]:
    """`rows` are the newest first."""
    keys: Mapping[str, Callable[[Row], Any]] = {
        "oldest": lambda row: row.created_at,
        "gain": lambda row: -row.gain if row.gain is not None else float("inf"),
        "name": lambda row: row.name.lower(),
        "state": lambda row: _PLACES.get(row.state, len(_PLACES)),
        "longest": lambda row: -(row.seconds or 0.0),
    }
    return sorted(rows, key=keys[order]) if order in keys else rows
