"""The methods and tasks that the nodes offer, with their options."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ladle_service.auth import CallerDependency
from ladle_service.dependencies import StoreDependency
from ladle_service.pages.templates import page

router = APIRouter(include_in_schema=False)


@router.get("/methods")
async def show_methods(request: Request, caller: CallerDependency, store: StoreDependency) -> Response:
    """Each with its formula and its source."""
    return page(request, "methods.html", methods=(await store.catalog()).methods)


@router.get("/tasks")
async def show_tasks(request: Request, caller: CallerDependency, store: StoreDependency) -> Response:
    """Each with its metrics."""
    return page(request, "tasks.html", tasks=(await store.catalog()).tasks)
