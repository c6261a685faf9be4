"""The audit log: who changed what, and who was refused. One JSON object per line, without any token in it."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_service.auth import READING, Caller
from ladle_service.request_ids import request_id

logger = logging.getLogger(__name__)

_CHANGES = {
    "submit": re.compile("POST (?:/v1/jobs|/submit)()"),
    "cancel": re.compile("POST (?:/v1)?/jobs/([^/]{1,64})/cancel"),
    "delete": re.compile("DELETE /v1/jobs/([^/]{1,64})"),
}
"""By the API, and by a page."""
_LOGINS = {"POST /login": "log in", "POST /login/codes": "make a login code", "POST /logout": "log out"}
_NODE_CHANGES = re.compile("POST (?:/v1)?/nodes/([^/]{1,101})/(cordon|drain|uncordon)")
_DRAFT = "/submit/draft"
"""A form that is being filled in changes nothing, and is sent again and again."""
REFUSALS = (401, 403, 429)
REFUSALS_PER_S = 20
"""Anybody can be refused. More than this are only counted, so that nobody can fill the disk."""
LONGEST_PATH = 200


def log_to(path: Path) -> QueueListener:
    """Writes to a file of its own, which only this user may read, and not to the service's log. Raises `OSError`.

    A thread writes, because a slow disk must not stop the event loop. `stop` writes the rest.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    file = WatchedFileHandler(path, encoding="ascii")  # goes on in a new file when the old one is rotated away
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    writer = QueueListener(lines, file)
    logger.addHandler(QueueHandler(lines))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    writer.start()
    return writer


class Audit:
    """Records each request that changes something, and each that is refused, whatever answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._second = 0
        self._refusals = 0
        self._omitted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer: Message = {"status": 0, "headers": ()}

        async def noted(message: Message) -> None:
            nonlocal answer
            if message["type"] == "http.response.start":
                answer = message
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            refused = answer["status"] in REFUSALS
            changes = scope["method"] not in READING and scope["path"] != _DRAFT
            if (refused or changes) and not (refused and self._too_many()):
                self._write(scope, answer)

    def _too_many(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        self._omitted += self._refusals > REFUSALS_PER_S
        return self._refusals > REFUSALS_PER_S

    def _write(self, scope: Scope, answer: Message) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        client = scope.get("client")
        entry: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **_what(scope, answer),
            "token": caller.owner if caller else None,
            "token_id": caller.token_id if caller else None,
            "client": client[0] if client else None,
            "request_id": request_id(),
            "status": answer["status"],
            "result": _result(answer["status"]),
        }
        if self._omitted:
            entry["refusals_omitted"], self._omitted = self._omitted, 0
        logger.info("%s", json.dumps(entry), extra={"every_one": True})


def _what(scope: Scope, answer: Message) -> dict[str, Any]:
    for action, pattern in _CHANGES.items():
        if found := pattern.fullmatch(f"{scope['method']} {scope['path']}"):
            return {"action": action, "job": found[1] or _new_job(answer)}
    if found := _NODE_CHANGES.fullmatch(f"{scope['method']} {scope['path']}"):
        return {"action": f"{found[2]} node", "node": found[1]}
    if (done := _LOGINS.get(f"{scope['method']} {scope['path']}")) is not None:
        return {"action": done}
    return {"action": "request", "method": scope["method"], "path": scope["path"][:LONGEST_PATH]}


def _new_job(answer: Message) -> str | None:
    """The id of a job that was submitted."""
    for name, value in answer["headers"]:
        if name.lower() == b"location":
            return str(value.decode("latin-1").rpartition("/")[2])
    return None


def _result(status: int) -> str:
    if 0 < status < 400:
        return "done"
    return "refused" if 400 <= status < 500 else "failed"
