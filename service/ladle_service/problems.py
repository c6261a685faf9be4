"""Every error is sent as problem+json (RFC 9457) with a stable code.

A problem repeats only the wrong value, cut short. It never repeats a whole body or the value of an unknown field, which
may be anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue, ValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from ladle_contracts import PROBLEM_TITLES, ErrorCode, Problem
from ladle_contracts.redis_outages import outage_of
from ladle_contracts.rules import broken_rules
from ladle_service.request_ids import request_id

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "1"
MOST_ERRORS = 50
LONGEST_NAME = LONGEST_VALUE = 100
"""Unknown fields are named, but a body of nothing but unknown fields is not sent back."""


class ApiError(Exception):
    """Ends a request with a problem."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: Sequence[dict[str, JsonValue]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def not_found(what: str) -> ApiError:
    """The same answer for what does not exist and for what belongs to somebody else."""
    return ApiError(ErrorCode.NOT_FOUND, f"There is no {what}.")


def field_error(field: str, message: str) -> dict[str, JsonValue]:
    """One entry of `Problem.errors`."""
    return {"field": field, "message": message}


def shown(value: JsonValue) -> str:
    """A value for a message: as JSON, and cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def invalid_fields(error: ValidationError | RequestValidationError) -> list[dict[str, JsonValue]]:
    """Each rule that was broken, with the value if it is a plain one."""
    return [field_error(_shortened(each.field), each.describe(shown)) for each in broken_rules(error)[:MOST_ERRORS]]


def _shortened(field: str) -> str:
    """The field without what is too long of each name, and of a name that has many dots."""
    return ".".join(part[:LONGEST_NAME] for part in field.split("."))[: 4 * LONGEST_NAME]


def problem_response(
    code: ErrorCode,
    detail: str,
    *,
    errors: Iterable[dict[str, JsonValue]] = (),
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
    instance: str | None = None,
) -> Response:
    """The answer for one problem. `status` replaces the status of the code."""
    own_status, title = PROBLEM_TITLES[code]
    problem = Problem(
        title=title,
        status=status or own_status,
        code=code,
        detail=detail,
        errors=tuple(errors),
        instance=instance,
        request_id=request_id(),
    )
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Handlers for every way in which a request can fail."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RedisError, _on_redis_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


def openapi_responses(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """What a route declares in OpenAPI: the problems that it may answer, and those that every route may answer."""
    by_status: dict[int, list[ErrorCode]] = {}
    everywhere = (ErrorCode.FORBIDDEN, ErrorCode.REQUEST_TIMEOUT, ErrorCode.UNAVAILABLE, ErrorCode.OVERLOADED)
    for code in (*codes, *everywhere, ErrorCode.INTERNAL):
        by_status.setdefault(PROBLEM_TITLES[code][0], []).append(code)
    return {
        status: {
            "description": "; ".join(f"`{code}`: {PROBLEM_TITLES[code][1]}" for code in codes_),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, codes_ in by_status.items()
    }


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return problem_response(
        error.code, error.detail, errors=error.errors, headers=error.headers, instance=request.url.path
    )


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "A parameter of the request breaks a rule. `errors` names each one."
    return problem_response(ErrorCode.INVALID_REQUEST, detail, errors=invalid_fields(error), instance=request.url.path)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: mostly unknown addresses and methods."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code = ErrorCode.INTERNAL
    headers = dict(error.headers or {})
    if code is ErrorCode.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_of(request.app, request.url.path))
    return problem_response(
        code,
        _DETAILS.get(error.status_code, HTTPStatus(error.status_code).description),
        headers=headers,
        status=error.status_code,
        instance=request.url.path,
    )


def _methods_of(app: FastAPI, path: str) -> list[str]:
    """Every method of an address. Starlette looks at one route at a time, and each of ours has one method."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )


async def _on_redis_error(request: Request, error: Exception) -> Response:
    """Redis cannot serve at the moment: a client may try again. A command that it does not understand is our bug."""
    outage = outage_of(error)
    if outage is None:
        raise error
    logger.warning("%s: %s", outage, error)
    return problem_response(
        ErrorCode.UNAVAILABLE,
        f"{outage}. Try again.",
        headers={"Retry-After": RETRY_AFTER_S},
        instance=request.url.path,
    )


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """The client closed the connection while it was sending. Nobody reads this answer."""
    return problem_response(ErrorCode.INVALID_REQUEST, "The body must be complete, but was cut off.")


async def _on_bug(request: Request, error: Exception) -> Response:
    """After this answer Starlette raises the error again, and the server logs it."""
    detail = "Ladle has made a mistake. The log of the service has the details."
    return problem_response(ErrorCode.INTERNAL, detail, instance=request.url.path)


_CODES = {
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.BODY_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    503: ErrorCode.UNAVAILABLE,
}
_DETAILS = {404: "There is nothing at this address.", 405: "The `Allow` header lists the methods of this address."}
