"""For monitoring. No token is needed."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from fastapi import APIRouter

from ladle_contracts import ErrorCode
from ladle_contracts.api import Health, Version
from ladle_service.dependencies import StoreDependency
from ladle_service.problems import ApiError, openapi_responses

router = APIRouter(tags=["health"])

VERSION = version("ladle")
READY_S = 2.0
"""How quickly Redis must answer."""


@router.get("/healthz", responses=openapi_responses())
async def alive() -> Health:
    """The process runs."""
    return Health(status="alive")


@router.get("/readyz", responses=openapi_responses())
async def ready(store: StoreDependency) -> Health:
    """Redis answers and takes writes, so jobs can be submitted."""
    try:
        async with asyncio.timeout(READY_S):
            await store.check()
    except TimeoutError as error:
        raise ApiError(ErrorCode.UNAVAILABLE, f"Redis must answer within {READY_S:g} s, but does not.") from error
    return Health(status="ready")


@router.get("/version", responses=openapi_responses())
async def get_version() -> Version:
    """The version of the service."""
    return Version(version=VERSION)
