"""A span for each request, where traces are on."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts import telemetry
from ladle_service.request_ids import request_id

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds, by machines."""


class Traced:
    """Goes on with the trace of the `traceparent` header, if there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in QUIET or not telemetry.is_on():
            await self.app(scope, receive, send)
            return

        async def described(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "")
                telemetry.describe({"http.route": route, "http.response.status_code": message["status"]})
            await send(message)

        about = {"http.request.method": scope["method"], "ladle.request_id": request_id() or ""}
        with telemetry.span("request", about, parent=Headers(scope=scope).get("traceparent")):
            await self.app(scope, receive, described)
