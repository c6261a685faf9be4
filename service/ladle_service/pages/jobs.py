"""The jobs of the caller, or of all for an admin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Query as InQuery

from ladle_contracts import JobRecord
from ladle_report.gains import better
from ladle_service.auth import Caller, CallerDependency
from ladle_service.dependencies import StoreDependency
from ladle_service.pages.listing import GROUPS, Listing, ListingQuery, Listings
from ladle_service.pages.templates import page
from ladle_service.store import JobStore

router = APIRouter(include_in_schema=False)
_listings = Listings()

COLUMNS = (("Job", "name"), ("State", "state"), ("Outcome", "gain"), ("Submitted", "newest"), ("Ran for", "longest"))
"""Title -> the order that its link asks for."""
_TURNED = {"newest": "oldest", "oldest": "newest"}


@router.get("/")
async def show_jobs(
    request: Request, caller: CallerDependency, store: StoreDependency, query: Annotated[ListingQuery, InQuery()]
) -> Response:
    """The whole page."""
    return page(request, "jobs.html", **await _values(caller, store, query))


@router.get("/jobs/list")
async def show_list(
    request: Request, caller: CallerDependency, store: StoreDependency, query: Annotated[ListingQuery, InQuery()]
) -> Response:
    """Only the list, for the page's script, which asks again and again."""
    return page(request, "jobs_list.html", **await _values(caller, store, query))


async def _values(caller: Caller, store: JobStore, query: ListingQuery) -> Mapping[str, Any]:
    listing: Listing = await _listings.page(store, caller.sees, query)
    running = await store.records([row.id for row in listing.rows if not row.has_ended])
    return {
        "query": query,
        "listing": listing,
        "running": {record.id: record for record in running},
        "best_so_far": {record.id: _best_so_far(record) for record in running},
        "groups": GROUPS,
        "columns": COLUMNS,
        "turned": _TURNED,
        "shows_owner": caller.sees is None and caller.token_id is not None,
    }


def _best_so_far(job: JobRecord) -> str:
    """`best so far twa: 1.20 points better`; empty before an average was judged."""
    averages = [each for each in job.progress.candidates if each.method != "best" and each.gain is not None]
    if not averages:
        return ""
    leader = max(averages, key=lambda each: each.gain or 0.0)
    metric = job.spec.metric or next(iter(leader.select), "score")
    return f"best so far {leader.method}: {better(metric, leader.gain or 0.0)}"
