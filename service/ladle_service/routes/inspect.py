"""What is in a folder of checkpoints. A worker looks, because the service sees no files and has no engine."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from ladle_contracts import ErrorCode, Inspection, InspectRequest
from ladle_contracts.inspection import INSPECT_TIMEOUT_S
from ladle_service.auth import Caller, CallerDependency
from ladle_service.dependencies import NoQuery, SettingsDependency, StoreDependency
from ladle_service.limits import LimitsDependency, OwnerLimits
from ladle_service.problems import ApiError, openapi_responses
from ladle_service.roots import refuse_outside
from ladle_service.settings import Settings
from ladle_service.specs import read_body
from ladle_service.store import JobStore, QueueFull

router = APIRouter(prefix="/v1/inspect", tags=["inspect"])

RETRY_S = "5"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InspectRequest"}}},
    }
}


@router.post(
    "",
    responses=openapi_responses(
        ErrorCode.UNAUTHORIZED,
        ErrorCode.INVALID_SPEC,
        ErrorCode.PATH_NOT_ALLOWED,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.TOO_MANY_REQUESTS,
        ErrorCode.NO_NODE,
        ErrorCode.NO_ANSWER,
    ),
    openapi_extra=BODY,
)
async def inspect(
    request: Request,
    caller: CallerDependency,
    store: StoreDependency,
    settings: SettingsDependency,
    limits: LimitsDependency,
    query: Annotated[NoQuery, Query()],
) -> Inspection:
    """Says what is in a folder of checkpoints and what a job would do with it. A worker opens headers only, unless
    `forecast` asks it to read a part of the weights."""
    return await inspect_folder(await read_body(request, InspectRequest, "request"), caller, store, settings, limits)


async def inspect_folder(
    wanted: InspectRequest, caller: Caller, store: JobStore, settings: Settings, limits: OwnerLimits
) -> Inspection:
    """Asks a worker. Raises `path-not-allowed`, `no-node`, `no-answer` and `too-many-requests`."""
    others = {"adapters.base_model": wanted.adapters.base_model, "base": wanted.base}
    data = {field: path for field, path in others.items() if path is not None}
    await asyncio.to_thread(refuse_outside, wanted.ckpt_dirs, data, settings.roots, settings.far_roots)
    if not any(node.alive for node in await store.nodes()):
        raise ApiError(
            ErrorCode.NO_NODE,
            "A worker must be there to look at the folder, but none is. Start one, or try again.",
            headers={"Retry-After": RETRY_S},
        )
    with limits.inspecting(caller.owner):
        try:
            answer = await store.inspect(wanted)
        except QueueFull as error:
            detail = "There are too many inspections at the moment. Try again."
            raise ApiError(ErrorCode.TOO_MANY_REQUESTS, detail, headers={"Retry-After": RETRY_S}) from error
    if answer is None:
        detail = f"A worker must look at the folder within {INSPECT_TIMEOUT_S:g} s, but none has. Try again later."
        raise ApiError(ErrorCode.NO_ANSWER, detail)
    return _read(answer)


def _read(answer: str) -> Inspection:
    try:
        told = json.loads(answer)
        if told["ok"]:
            return Inspection.read(json.dumps(told["inspection"]))
        raise ApiError(ErrorCode(told["code"]), told["message"])
    except (ValueError, KeyError, ValidationError) as error:
        detail = "The worker that looked at the folder is of another version, and its answer cannot be read."
        raise ApiError(ErrorCode.NO_ANSWER, detail) from error
