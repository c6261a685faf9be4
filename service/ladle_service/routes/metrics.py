"""Numbers for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from redis.exceptions import RedisError

from ladle_contracts import ErrorCode
from ladle_service.auth import bearer, identify, operate
from ladle_service.dependencies import SettingsDependency, StoreDependency
from ladle_service.metrics import MEDIA_TYPE, Metrics
from ladle_service.problems import not_found, openapi_responses

router = APIRouter(tags=["health"])

ANSWER_S = 5.0


async def _may_read(
    request: Request,
    settings: SettingsDependency,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> None:
    if settings.metrics == "off":
        raise not_found("such address: `LADLE_METRICS` is `off`")
    if settings.metrics == "admin":
        await operate(await identify(request, credentials))


@router.get(
    "/metrics",
    dependencies=[Depends(_may_read)],
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
        **openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND),
    },
)
async def read_metrics(request: Request, store: StoreDependency) -> Response:
    """Jobs, the queue, nodes, stages and requests, for Prometheus. A token must have the scope `admin`, unless the
    operator has said otherwise (`LADLE_METRICS`). One call of Redis, however many jobs there are."""
    metrics: Metrics = request.app.state.metrics
    try:
        async with asyncio.timeout(ANSWER_S):
            measured = await store.measure()
    except (RedisError, TimeoutError):
        # Then that is what has to be told.
        measured = None
    return Response(metrics.text(measured), media_type=MEDIA_TYPE)
