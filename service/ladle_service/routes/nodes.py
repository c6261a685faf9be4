"""The worker machines."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ladle_contracts import ErrorCode
from ladle_contracts.api import NodeList
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import NoQuery, StoreDependency
from ladle_service.problems import openapi_responses

router = APIRouter(prefix="/v1/nodes", tags=["nodes"])


@router.get("", responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.INVALID_REQUEST))
async def list_nodes(caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]) -> NodeList:
    """All worker machines that have registered and were not gone for long. `alive` says which of them respond."""
    nodes = tuple(await store.nodes())
    if caller.sees is None:
        return NodeList(nodes=nodes)
    # Only the owner of a job may see which node runs it.
    shown = [node.model_copy(update={"job_id": await _visible(store, node.job_id, caller.sees)}) for node in nodes]
    return NodeList(nodes=tuple(shown))


async def _visible(store: StoreDependency, job_id: str | None, owner: str) -> str | None:
    return job_id if job_id is not None and await store.get(job_id, owner) is not None else None
