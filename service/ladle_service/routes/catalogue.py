"""What the workers offer. The service never imports the engine, so each node publishes what is installed there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ladle_contracts import ErrorCode
from ladle_contracts.api import MethodList, TaskList
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import NoQuery, StoreDependency
from ladle_service.problems import openapi_responses

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/methods", responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.INVALID_REQUEST))
async def list_methods(
    caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> MethodList:
    """The methods to choose coefficients, with their options and their sources."""
    return MethodList(methods=(await store.catalog()).methods)


@router.get("/tasks", responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.INVALID_REQUEST))
async def list_tasks(caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]) -> TaskList:
    """The tasks that checkpoints may be trained for, with the options and metrics of each."""
    return TaskList(tasks=(await store.catalog()).tasks)
