"""Submit, show, cancel and delete jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status

from ladle_contracts import TERMINAL_STATES, ErrorCode, JobPage, JobRecord, JobResult, JobSpec
from ladle_contracts.errors import SPEC_CODES
from ladle_service.auth import Caller, CallerDependency
from ladle_service.dependencies import (
    IdempotencyKey,
    JobId,
    ListQuery,
    NoQuery,
    SettingsDependency,
    StoreDependency,
)
from ladle_service.problems import ApiError, not_found, openapi_responses
from ladle_service.roots import name_taken
from ladle_service.settings import Settings
from ladle_service.specs import check_spec, digest_of, read_spec
from ladle_service.store import IdempotencyConflict, JobStore, NameTaken, QueueFull

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

QUEUE_RETRY_S = "5"

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}},
    }
}


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    responses={
        200: {"model": JobRecord, "description": "The idempotency key was used before: the job that it created."},
        **openapi_responses(
            ErrorCode.UNAUTHORIZED,
            *SPEC_CODES,
            ErrorCode.INVALID_REQUEST,
            ErrorCode.OUTPUT_EXISTS,
            ErrorCode.IDEMPOTENCY_CONFLICT,
            ErrorCode.BODY_TOO_LARGE,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            ErrorCode.TOO_MANY_REQUESTS,
            ErrorCode.TOO_MANY_JOBS,
        ),
    },
    openapi_extra=SPEC_BODY,
)
async def submit_job(
    request: Request,
    response: Response,
    caller: CallerDependency,
    store: StoreDependency,
    settings: SettingsDependency,
    query: Annotated[NoQuery, Query()],
    key: IdempotencyKey = None,
) -> JobRecord:
    """Checks a job spec and queues the job. It answers before the job starts: `Location` is the job's address."""
    record, created = await accept_job(await read_spec(request), caller, store, settings, key)
    response.headers["Location"] = f"/v1/jobs/{record.id}"
    response.status_code = status.HTTP_202_ACCEPTED if created else status.HTTP_200_OK
    return record


async def accept_job(
    spec: JobSpec, caller: Caller, store: JobStore, settings: Settings, key: str | None
) -> tuple[JobRecord, bool]:
    """Checks a spec and queues the job. False if the idempotency key has created it before."""
    digest = digest_of(spec)
    try:
        # Before the checks: the job of the first time may have written its output, which would now be in the way.
        record = await store.replay(caller.owner, key, digest) if key is not None else None
        created = record is None
        if record is None:
            await check_spec(spec, settings, *await store.offer())
            record, created = await store.submit(spec, caller.owner, key, digest)
    except IdempotencyConflict as error:
        detail = "The `Idempotency-Key` header must be new for a new body, but was used with another body before."
        raise ApiError(ErrorCode.IDEMPOTENCY_CONFLICT, detail) from error
    except NameTaken as error:
        raise name_taken(spec, "is the name of a job that has not ended") from error
    except QueueFull as error:
        detail = (
            f"At most {settings.max_queued_jobs_per_owner} of your jobs may be in the queue at once, and they are. "
            "Wait until some have started, or cancel some."
        )
        raise ApiError(ErrorCode.TOO_MANY_JOBS, detail, headers={"Retry-After": QUEUE_RETRY_S}) from error
    return record, created


@router.get("", responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.INVALID_REQUEST))
async def list_jobs(caller: CallerDependency, store: StoreDependency, query: Annotated[ListQuery, Query()]) -> JobPage:
    """The caller's jobs, newest first."""
    return await store.list(caller.sees, state=query.state, labels=query.labels, cursor=query.cursor, limit=query.limit)


@router.get(
    "/{job_id}",
    responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST),
)
async def get_job(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> JobRecord:
    """Everything that is known about a job."""
    return await find_job(store, job_id, caller)


@router.post(
    "/{job_id}/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    responses=openapi_responses(
        ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.ALREADY_FINISHED, ErrorCode.INVALID_REQUEST
    ),
)
async def cancel_job(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> JobRecord:
    """Cancels the job. A job that is already `finalizing` continues, and its record says so."""
    record = await find_job(store, job_id, caller)
    if record.state not in TERMINAL_STATES:
        return await store.cancel(job_id)
    raise ApiError(ErrorCode.ALREADY_FINISHED, f"Job {job_id} has already {record.state.past_tense}.")


@router.get(
    "/{job_id}/result",
    responses=openapi_responses(
        ErrorCode.UNAUTHORIZED,
        ErrorCode.NOT_FOUND,
        ErrorCode.NO_RESULT,
        ErrorCode.NOT_FINISHED,
        ErrorCode.INVALID_REQUEST,
    ),
)
async def get_result(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> JobResult:
    """The result of a job that succeeded."""
    record = await find_job(store, job_id, caller)
    if record.state not in TERMINAL_STATES:
        raise ApiError(ErrorCode.NOT_FINISHED, f"Job {job_id} has no result yet, because it is still {record.state}.")
    if record.result is None:
        raise ApiError(
            ErrorCode.NO_RESULT,
            f"Job {job_id} has {record.state.past_tense}: {record.message or 'there is no message'} [{record.reason}]",
        )
    return record.result


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=openapi_responses(
        ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.NOT_FINISHED, ErrorCode.INVALID_REQUEST
    ),
)
async def delete_job(
    job_id: JobId, caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> None:
    """Deletes the record of a job that has ended, with its events and its log. Its result folder stays."""
    record = await find_job(store, job_id, caller)
    if record.state not in TERMINAL_STATES:
        raise ApiError(
            ErrorCode.NOT_FINISHED,
            f"Job {job_id} cannot be deleted yet, because it is still {record.state}. Cancel it first.",
        )
    await store.delete(job_id)


async def find_job(store: JobStore, job_id: str, caller: Caller) -> JobRecord:
    """The record, if the caller may see it."""
    record = await store.get(job_id, caller.sees)
    if record is None:
        raise not_found("such job")
    return record
