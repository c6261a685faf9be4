"""What goes wrong in front of a browser is shown as a page with the API's code, and a missing login as the login."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts import ErrorCode
from ladle_service.pages.templates import page
from ladle_service.problems import MEDIA_TYPE
from ladle_service.sessions import asked_for, is_from_elsewhere, session_of

API = "/v1/"


class ProblemPages:
    """Turns problem+json into a page where a person has opened an address of the dashboard."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not _is_page(scope):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def shown(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    answer = _page_of(Request(scope), start, json.loads(body))
                    await answer(scope, receive, send)
            else:
                await send(message)

        await self.app(scope, receive, shown)


def _is_page(scope: Scope) -> bool:
    accepted = b", ".join(value for name, value in scope["headers"] if name == b"accept")
    return b"text/html" in accepted and not scope["path"].startswith(API)


def _is_problem(message: Message) -> bool:
    return (b"content-type", MEDIA_TYPE.encode()) in [(name.lower(), value) for name, value in message["headers"]]


def _page_of(request: Request, start: Message, problem: dict[str, Any]) -> Response:
    is_link = session_of(request) is None and is_from_elsewhere(request)
    if problem["code"] == ErrorCode.UNAUTHORIZED and request.method == "GET" and not is_link:
        asked = asked_for(request)
        return RedirectResponse("/login" if asked == "/" else f"/login?next={quote(asked, safe='/')}", status_code=303)
    response = page(request, "error.html", status=start["status"], problem=problem)
    for name, value in start["headers"]:
        if name.lower() in (b"retry-after", b"allow", b"connection"):
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response
