"""What happened to a job: its events, as a list or live, and the end of its log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status
from fastapi.sse import EventSourceResponse

from ladle_contracts import TERMINAL_STATES, ErrorCode
from ladle_contracts.api import EventPage, LogTail
from ladle_service.auth import CallerDependency, Tokens, while_logged_in
from ladle_service.dependencies import EventsQuery, JobId, LastEventId, LogsQuery, StoreDependency
from ladle_service.limits import WantsStream
from ladle_service.problems import openapi_responses
from ladle_service.routes.jobs import find_job
from ladle_service.stream import sse_bytes

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events. With `Accept: text/event-stream`, each event as it happens.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "For a stream: the job has ended, and there is no event after `Last-Event-ID`."},
}


@router.get(
    "/events",
    response_model=EventPage,
    responses=STREAM
    | openapi_responses(
        ErrorCode.UNAUTHORIZED,
        ErrorCode.NOT_FOUND,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.TOO_MANY_REQUESTS,
        ErrorCode.TOO_MANY_STREAMS,
    ),
)
async def get_events(
    request: Request,
    job_id: JobId,
    caller: CallerDependency,
    store: StoreDependency,
    query: Annotated[EventsQuery, Query()],
    wants_stream: WantsStream,
    last_event_id: LastEventId = None,
) -> EventPage | Response:
    """A job's events, oldest first. With `Accept: text/event-stream` they are sent as server-sent events, which begin
    after `Last-Event-ID` (or else `after`) and end with the job."""
    record = await find_job(store, job_id, caller)
    after = last_event_id or query.after
    if not wants_stream:
        events = tuple(await store.events(job_id, after, query.limit))
        return EventPage(events=events, next_after=events[-1].id if len(events) == query.limit else None)
    if record.state in TERMINAL_STATES and not await store.events(job_id, after, 1):
        # 204 tells a browser's EventSource not to connect again.
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    tokens: Tokens | None = request.app.state.tokens
    events_now = store.follow(job_id, after)
    if tokens is not None:
        events_now = tokens.while_valid(caller, events_now)
        if caller.session is not None:
            events_now = while_logged_in(caller.session, store, events_now)
    return EventSourceResponse(sse_bytes(events_now), headers={"X-Accel-Buffering": "no"})


@router.get(
    "/logs",
    responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST),
)
async def get_logs(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[LogsQuery, Query()]
) -> LogTail:
    """The last lines that the job's processes printed."""
    await find_job(store, job_id, caller)
    return LogTail(lines=tuple(await store.logs(job_id, query.tail)))
