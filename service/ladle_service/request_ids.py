"""Every request has an id, which its answer, its problem and its lines in the logs have too."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts.logs import bind, what_about

HEADER = "X-Request-ID"
GIVEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a client or a proxy may call a request. Anything else is not taken."""
FIELD = "request_id"


class RequestIds:
    """Takes the id that a proxy has given, or makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if GIVEN.fullmatch(given) else secrets.token_hex(8)

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        # Each request has a task of its own. What the server logs of it after an error has the id too.
        bind(**{FIELD: request_id})
        await self.app(scope, receive, with_id)


def request_id() -> str | None:
    """That of the request that is being answered. None outside of one."""
    found = what_about().get(FIELD)
    return None if found is None else str(found)
