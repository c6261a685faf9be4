"""The worker machines, and whether they take jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ladle_contracts import ErrorCode, NodeRecord
from ladle_contracts.api import NodeChange, NodeList
from ladle_service.auth import Caller, CallerDependency, OperatorDependency
from ladle_service.dependencies import CordonQuery, DrainQuery, NodeId, NoQuery, StoreDependency
from ladle_service.problems import ApiError, openapi_responses

router = APIRouter(prefix="/v1/nodes", tags=["nodes"])

MOST_NAMED = 10
CHANGE = openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST)


@router.get("", responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.INVALID_REQUEST))
async def list_nodes(caller: CallerDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]) -> NodeList:
    """All worker machines that have registered and were not gone for long. `alive` says which of them respond."""
    nodes = tuple(await store.nodes())
    if caller.sees is None:
        return NodeList(nodes=nodes)
    return NodeList(nodes=tuple([await _shown(store, node, caller.sees) for node in nodes]))


@router.post("/{node_id}/cordon", responses=CHANGE)
async def cordon_node(
    node_id: NodeId, caller: OperatorDependency, store: StoreDependency, query: Annotated[CordonQuery, Query()]
) -> NodeChange:
    """The node gets no more jobs, also after it restarts. The job that it runs goes on."""
    return await _change(store, node_id, "cordon", _reason("cordoned", query.reason, caller))


@router.post("/{node_id}/drain", responses=CHANGE)
async def drain_node(
    node_id: NodeId, caller: OperatorDependency, store: StoreDependency, query: Annotated[DrainQuery, Query()]
) -> NodeChange:
    """The node gets no more jobs and is to become empty. The job that it runs goes on, or is handed back with `now`."""
    return await _change(
        store, node_id, "drain-now" if query.now else "drain", _reason("drained", query.reason, caller)
    )


@router.post("/{node_id}/uncordon", responses=CHANGE)
async def uncordon_node(
    node_id: NodeId, caller: OperatorDependency, store: StoreDependency, query: Annotated[NoQuery, Query()]
) -> NodeChange:
    """The node gets jobs again, and its failures are forgotten."""
    return await _change(store, node_id, "uncordon", "")


def _reason(done: str, why: str | None, caller: Caller) -> str:
    return f"{done} by {caller.owner}" + (f": {why}" if why else "")


async def _change(store: StoreDependency, node_id: str, verb: str, reason: str) -> NodeChange:
    changed = await store.change_node(node_id, verb, reason)
    nodes = {node.id: node for node in await store.nodes()}
    if changed is None or node_id not in nodes:
        known = ", ".join(f"`{name}`" for name in list(nodes)[:MOST_NAMED]) or "none"
        more = f" and {len(nodes) - MOST_NAMED} more" if len(nodes) > MOST_NAMED else ""
        raise ApiError(ErrorCode.NOT_FOUND, f"There is no node `{node_id}`. Known are: {known}{more}.")
    return NodeChange(node=nodes[node_id], changed=changed)


async def _shown(store: StoreDependency, node: NodeRecord, owner: str) -> NodeRecord:
    """Only the owner of a job may see which node runs it. What a failure says may name files of somebody else's job."""
    job_ids = [job_id for job_id in node.job_ids if await store.get(job_id, owner) is not None]
    job_id = node.job_id if node.job_id is not None and await store.get(node.job_id, owner) is not None else None
    return node.model_copy(update={"job_id": job_id, "job_ids": tuple(job_ids), "last_failure": None})
