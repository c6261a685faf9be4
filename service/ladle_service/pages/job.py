"""One job."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from ladle_contracts import TERMINAL_STATES
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import JobId, NoQuery, StoreDependency
from ladle_service.pages.templates import page
from ladle_service.routes.jobs import cancel_job as api_cancel_job
from ladle_service.routes.jobs import find_job
from ladle_service.sessions import check_csrf

router = APIRouter(prefix="/jobs", include_in_schema=False)


@router.get("")
async def show_jobs(caller: CallerDependency) -> Response:
    """The list is at `/`."""
    return RedirectResponse("/", status_code=303)


@router.get("/{job_id}")
async def show_job(request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency) -> Response:
    """Everything about it."""
    job = await find_job(store, job_id, caller)
    return page(request, "job.html", job=job, has_ended=job.state in TERMINAL_STATES)


@router.post("/{job_id}/cancel")
async def cancel_job(request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency) -> Response:
    """As the API does it."""
    await check_csrf(request)
    await api_cancel_job(job_id, caller, store, NoQuery())
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)
