"""The report of a result, as a page of its own.

The file is from a worker's rank, so it is not trusted: it is opened below the folder of results without following
links, and the browser keeps it in a sandbox, apart from the dashboard and without a network. But no policy keeps a page
from leading elsewhere, and with it what the rank has read: so one that does is not shown, but made anew from its
`report.json`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import stat
from pathlib import Path, PurePosixPath

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

import ladle_report
from ladle_contracts.beneath import PATH_ONLY, open_beneath
from ladle_contracts.far_urls import is_url
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import JobId, NoQuery, SettingsDependency, StoreDependency
from ladle_service.pages.templates import page
from ladle_service.routes.jobs import find_job, get_result

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", include_in_schema=False)

MOST_BYTES = 8 << 20
SANDBOX = (
    "sandbox allow-scripts allow-downloads allow-modals; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
"""Styles may be inside the page, because a report of another version has others. Scripts are ours or do not run."""
SCRIPTS = next(
    part.strip() for part in ladle_report.content_security_policy().split(";") if part.strip().startswith("script-src")
)
"""What our own policy for reports says about scripts."""

LEADS_AWAY = re.compile(
    r"""href(?!="\#)|http-equiv(?!="Content-Security-Policy")|srcdoc|attributename""", re.IGNORECASE
)
"""What a page needs to lead somewhere else, or to name another machine. Ours has links inside itself only; where one of
these words is text in it, nothing but time is lost."""


@router.get("/{job_id}/report")
async def show_report(
    request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency, settings: SettingsDependency
) -> Response:
    """The report, or a page that says where it is if this service cannot see it."""
    job = await find_job(store, job_id, caller)
    result = await get_result(job_id, caller, store, NoQuery())
    # The name that this service has given: what a worker says could be the name of somebody else's result.
    [fields] = await store.fields_of([job_id], ("output",))
    name = fields["output"] or PurePosixPath(result.folder).name
    is_far = is_url(result.folder)
    text = None if is_far else await asyncio.to_thread(_read_report, settings.results_dir, name)
    if text is None:
        values = {"job": job, "name": name, "folder": result.folder, "is_far": is_far}
        return page(request, "report_missing.html", status=404, **values)
    return HTMLResponse(text, headers={"Content-Security-Policy": SANDBOX + SCRIPTS})


def _read_report(results: Path, name: str) -> str | None:
    """The page in a result's folder, or one made of its `report.json`. None if neither can be read."""
    try:
        written = _read(results, f"{name}/{ladle_report.PAGE_FILE}")
        if written is not None and LEADS_AWAY.search(written) is None:
            return written
        told = _read(results, f"{name}/report.json")
        return None if told is None else ladle_report.page(json.loads(told))
    except Exception as error:  # a file of strangers, with whatever a report should not have
        logger.warning("the report in %s cannot be shown: %r", name, error)
        return None


def _read(results: Path, path: str) -> str | None:
    """A file below the folder of results, whatever links are in the way. None if there is none, or it is too large."""
    top = os.open(results, PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_beneath(top, path)
    except FileNotFoundError:
        return None
    finally:
        os.close(top)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(MOST_BYTES + 1)
    return content.decode() if len(content) <= MOST_BYTES else None
