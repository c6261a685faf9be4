"""What happened to a job: its events, as a list or as they come, and the end of its log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status
from fastapi.sse import EventSourceResponse

from ladle_contracts import TERMINAL_STATES, ErrorCode
from ladle_contracts.api import EventPage, LogTail
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import EventsQuery, JobId, LastEventId, LogsQuery, StoreDependency
from ladle_service.problems import openapi_responses
from ladle_service.routes.jobs import find_job
from ladle_service.stream import sse_bytes

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events; or, with `Accept: text/event-stream`, each event as it comes.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "For a stream: the job has ended, and nothing follows `Last-Event-ID`."},
}


@router.get(
    "/events",
    response_model=EventPage,
    responses=STREAM | openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST),
)
async def get_events(
    request: Request,
    job_id: JobId,
    caller: CallerDependency,
    store: StoreDependency,
    query: Annotated[EventsQuery, Query()],
    last_event_id: LastEventId = None,
) -> EventPage | Response:
    """A job's events, oldest first. Server-sent events with `Accept: text/event-stream`: they go on where
    `Last-Event-ID` (or else `after`) says, and end with the job."""
    record = await find_job(store, job_id, caller)
    after = last_event_id or query.after
    if "text/event-stream" not in request.headers.get("accept", ""):
        events = tuple(await store.events(job_id, after, query.limit))
        return EventPage(events=events, next_after=events[-1].id if len(events) == query.limit else None)
    if record.state in TERMINAL_STATES and not await store.events(job_id, after, 1):
        # 204 is how a browser's EventSource learns that it need not come back.
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventSourceResponse(sse_bytes(store.follow(job_id, after), request.app.state.stopping), headers=headers)


@router.get(
    "/logs",
    responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST),
)
async def get_logs(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[LogsQuery, Query()]
) -> LogTail:
    """The last lines that the job's processes wrote."""
    await find_job(store, job_id, caller)
    return LogTail(lines=tuple(await store.logs(job_id, query.tail)))
