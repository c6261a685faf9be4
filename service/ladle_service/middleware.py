"""What happens before a route sees a request: bodies that are too large and web pages of other sites are refused. And
what every answer says to browsers."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts import ErrorCode
from ladle_contracts.network import is_loopback
from ladle_service.auth import READING
from ladle_service.problems import ApiError, problem_response

DRAIN_BYTES = 64 << 20
DRAIN_S = 10.0
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OWN = ("Content-Security-Policy", "Cache-Control", "Referrer-Policy")
"""What an answer may say itself: pages need more than data does, and their style sheets never change."""
HSTS = "max-age=31536000"


class SecurityHeaders:
    """Tells browsers to take an answer as data only, to keep it from other sites, and not to store it."""

    def __init__(self, app: ASGIApp, *, over_tls: bool) -> None:
        self.app = app
        self.headers = SECURITY_HEADERS | ({"Strict-Transport-Security": HSTS} if over_tls else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                own = {name: headers[name] for name in OWN if name in headers}
                headers.update(self.headers | own)
            await send(message)

        await self.app(scope, receive, with_headers)


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
        # What is no number is refused by the server. More digits than this are no size.
        if re.fullmatch("[0-9]+", declared) and (len(declared) > 18 or int(declared) > self.max_bytes):
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
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await problem_response(ErrorCode.FORBIDDEN, refusal)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Why the request is refused."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if not self.over_socket and not (len(hosts) == 1 and is_loopback(_name_of(hosts[0]))):
            return "The `Host` header must name this machine as localhost or 127.0.0.1, but does not."
        own = f"{scope.get('scheme', 'http')}://{hosts[0] if hosts else ''}"
        if scope["method"] not in READING and any(origin != own for origin in headers.getlist("origin")):
            return "The `Origin` header must be this service's own, but is another site's."
        # Browsers send it with every request, also with those that have no `Origin`; "none" is the address bar. Who
        # follows a link changes nothing, and the other site sees nothing of the answer.
        follows_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not follows_link and any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")):
            return "The `Sec-Fetch-Site` header must be same-origin or none, but the page is another site's."
        return None


def _name_of(host: str) -> str:
    """The `Host` header without the port. Empty if it is not valid."""
    found = HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


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
