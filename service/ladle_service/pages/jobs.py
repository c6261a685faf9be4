"""The jobs of the caller, or of all for an admin."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ladle_service.auth import CallerDependency
from ladle_service.dependencies import StoreDependency
from ladle_service.pages.templates import page

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show_jobs(request: Request, caller: CallerDependency, store: StoreDependency) -> Response:
    """The newest jobs."""
    found = await store.list(caller.sees, state=None, labels={}, cursor=None, limit=50)
    return page(request, "jobs.html", jobs=found.jobs)
