"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ladle_contracts import InspectRequest, Problem

DESCRIPTION = "Ladle makes one better model from a folder of checkpoints. See docs/rest.md."


def install(app: FastAPI) -> None:
    """Replaces FastAPI's own document with one that describes what is really sent."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI documents this as the way to do it


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    # FastAPI knows neither: the one is never returned, the other read by ourselves.
    for model in (Problem, InspectRequest):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    # FastAPI declares its own format for invalid requests, which is never sent.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _link(document["paths"])
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _never_null(parameter["schema"])
    return document


def _link(paths: dict[str, Any]) -> None:
    """Says how one answer leads to the next request: from a job's id to all about it, and from page to page."""
    of_a_job = [
        operation["operationId"]
        for path, operations in paths.items()
        for operation in operations.values()
        if "{job_id}" in path
    ]
    by_id = {name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}} for name in of_a_job}
    jobs, events = paths["/v1/jobs"], paths["/v1/jobs/{job_id}/events"]["get"]
    for operation, status in (
        *((jobs["post"], "202"), (jobs["post"], "200")),
        (paths["/v1/jobs/{job_id}/cancel"]["post"], "202"),
    ):
        operation["responses"][status]["links"] = by_id
    jobs["get"]["responses"]["200"]["links"] = {
        "next page": {
            "operationId": jobs["get"]["operationId"],
            "parameters": {"cursor": "$response.body#/next_cursor"},
        }
    }
    events["responses"]["200"]["links"] = {
        "next page": {
            "operationId": events["operationId"],
            "parameters": {"job_id": "$request.path.job_id", "after": "$response.body#/next_after"},
        }
    }


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional parameter can be absent. Null cannot be sent in a query or a header."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0]
