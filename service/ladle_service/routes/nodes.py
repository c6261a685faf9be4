"""The worker machines."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ladle_contracts import ErrorCode, NodeRecord
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
    return NodeList(nodes=tuple([await _shown(store, node, caller.sees) for node in nodes]))


async def _shown(store: StoreDependency, node: NodeRecord, owner: str) -> NodeRecord:
    job_ids = [job_id for job_id in node.job_ids if await store.get(job_id, owner) is not None]
    job_id = node.job_id if node.job_id is not None and await store.get(node.job_id, owner) is not None else None
    return node.model_copy(update={"job_id": job_id, "job_ids": tuple(job_ids)})
