"""The worker machines: what they have, what they run, what went wrong there, and whether they take jobs."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from ladle_contracts import ErrorCode
from ladle_service.auth import CallerDependency, OperatorDependency
from ladle_service.dependencies import CordonQuery, DrainQuery, NodeId, NoQuery, StoreDependency
from ladle_service.pages.templates import page
from ladle_service.problems import ApiError
from ladle_service.routes import nodes as api
from ladle_service.sessions import check_csrf, form_of

router = APIRouter(prefix="/nodes", include_in_schema=False)

LONGEST_REASON = 200


@router.get("")
async def show_nodes(request: Request, caller: CallerDependency, store: StoreDependency) -> Response:
    """All of them."""
    nodes = (await api.list_nodes(caller, store, NoQuery())).nodes
    return page(request, "nodes.html", nodes=nodes, may_operate=caller.sees is None)


@router.post("/{node_id}/{verb}")
async def change_node(
    request: Request,
    node_id: NodeId,
    verb: Literal["cordon", "drain", "uncordon"],
    caller: OperatorDependency,
    store: StoreDependency,
) -> Response:
    """As the API does it."""
    await check_csrf(request)
    form = await form_of(request)
    reason = form.get("reason", "").strip() or None
    if reason is not None and len(reason) > LONGEST_REASON:
        raise ApiError(ErrorCode.INVALID_REQUEST, f"`reason` must have at most {LONGEST_REASON} characters.")
    match verb:
        case "cordon":
            await api.cordon_node(node_id, caller, store, CordonQuery(reason=reason))
        case "drain":
            await api.drain_node(node_id, caller, store, DrainQuery(reason=reason, now="now" in form))
        case "uncordon":
            await api.uncordon_node(node_id, caller, store, NoQuery())
    return RedirectResponse("/nodes", status_code=303)
