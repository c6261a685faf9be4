"""What is refused before a route sees it: bodies that are too large, and web pages of other sites."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts import ErrorCode
from ladle_contracts.network import is_loopback
from ladle_service.problems import ApiError, problem_response

DRAIN_BYTES = 64 << 20
DRAIN_S = 10.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyLimit:
    """Counts the body while it arrives, so that a body without a Content-Length is stopped too.

    What comes after the limit is read and discarded, up to a bound: a client that is cut off while it sends often never
    reads the answer that says why.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.detail = f"The body must have at most {max_bytes} bytes, but has more."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            # A client that sends `Expect: 100-continue` has not sent the body yet.
            if "expect" not in headers:
                await _drain(receive)
            refusal = problem_response(ErrorCode.BODY_TOO_LARGE, self.detail, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > self.max_bytes:
                    if message.get("more_body", False):
                        await _drain(receive)
                    raise ApiError(ErrorCode.BODY_TOO_LARGE, self.detail, headers={"Connection": "close"})
            return message

        return counted


class SameSite:
    """Protects a service without tokens from web pages that the same person has open.

    A page of any site can make a browser send requests to this machine. It cannot choose the `Host` header, except with
    a name of its own that points here (DNS rebinding), and the `Origin` header tells which site the page is from.
    """

    def __init__(self, app: ASGIApp, *, over_socket: bool) -> None:
        self.app = app
        self.over_socket = over_socket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if not self.over_socket and not is_loopback(_name_of(host)):
                detail = "The `Host` header must name this machine as localhost or 127.0.0.1, but does not."
                await problem_response(ErrorCode.FORBIDDEN, detail)(scope, receive, send)
                return
            origin = headers.get("origin")
            if scope["method"] not in SAFE_METHODS and origin is not None and origin.partition("://")[2] != host:
                detail = "The `Origin` header must be this service's own, but is another site's."
                await problem_response(ErrorCode.FORBIDDEN, detail)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _name_of(host: str) -> str:
    """The `Host` header without the port. Empty if it is not valid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _drain(receive: Receive) -> None:
    """Reads the rest of the body and discards it."""
    total = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while total <= DRAIN_BYTES:
                message = await receive()
                total += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
