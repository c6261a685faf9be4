"""The connections of clients: how long the service waits for a client, and how many there may be at once.

uvicorn waits for ever for the rest of a request, and for a client that does not read its answer. Whoever opens enough
connections and sends nothing would make the service unreachable. Here a client that keeps the service waiting is cut
off after a while, and at once when somebody else needs its place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ladle_contracts import ErrorCode
from ladle_service.middleware import SECURITY_HEADERS
from ladle_service.problems import problem_response

KEEP_ALIVE_S = 30
"""Longer than clients keep an idle connection, so that they never send into one that is being closed."""
UNREAD_BYTES = 32 << 10
"""So much of an answer waits in memory for its client, and one more piece."""
RESERVED = 64
"""Connections beyond the limit. They only get to know how the service is."""
ALWAYS_ANSWERED = frozenset({"/healthz", "/readyz"})
FULL = "The service has as many connections as it may have. Try again later."
RETRY_AFTER_S = "5"


@dataclass(kw_only=True)
class ConnectionLimits:
    """The limits, and which connections keep the service waiting. All connections of one service share it."""

    most: int
    wait_s: float
    """How long a request may take to arrive, from connecting, or from its first byte, to the last byte of its body; and
    how long a client may read nothing of an answer."""
    sending: dict[Connection, None] = field(default_factory=dict, repr=False)
    """Those whose request has not arrived completely, the oldest first."""
    idle: dict[Connection, None] = field(default_factory=dict, repr=False)
    """Those that have their answer and ask for nothing more, the oldest first."""

    def protocol(self, **arguments: Any) -> Connection:
        """uvicorn calls this for each connection."""
        return Connection(self, **arguments)

    def make_room(self) -> bool:
        """Cuts off the client that has kept the service waiting the longest. False if there is none."""
        for waiting in (self.sending, self.idle):
            if waiting:
                next(iter(waiting)).cut_off(ErrorCode.OVERLOADED, FULL)
                return True
        return False


class Connection(H11Protocol):
    """One connection. The methods that are uvicorn's own are called by uvicorn and by asyncio."""

    def __init__(self, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        surplus = len(self.connections) - self._limits.most
        if surplus > 0 and not self._limits.make_room():
            if surplus > RESERVED:
                self._refuse(ErrorCode.OVERLOADED, FULL)
                return
            self.app = _only_health(self.app)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        self._limits.idle.pop(self, None)
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            # From here on uvicorn's time for keep-alive runs.
            self._request_arrived()
            self._limits.idle[self] = None
        else:
            self._update()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            detail = "What is sent must be an HTTP request, but is not."
            self._refuse(ErrorCode.INVALID_REQUEST, detail, status=HTTPStatus.BAD_REQUEST)
        else:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._update()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None and not self.transport.is_closing():
            self._read_timer.cancel()
            self._read_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_arrived()
        self._limits.idle.pop(self, None)
        if self._read_timer is not None:
            self._read_timer.cancel()
        super().connection_lost(exc)

    def cut_off(self, code: ErrorCode, detail: str) -> None:
        """Closes, and says why if the client has sent a part of a request and no answer has begun."""
        is_unanswered = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if is_unanswered and (self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]):
            self._refuse(code, detail)
        else:
            self._close()

    def _update(self) -> None:
        """After anything that may have changed what this connection waits for."""
        if self.transport.is_closing():
            self._request_arrived()
            self._expect_reading()
        elif self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._expect_request()
        else:
            self._request_arrived()

    def _expect_request(self) -> None:
        if self._request_timer is None:
            detail = f"A request must arrive within {self._limits.wait_s:g} s, but did not."
            self._request_timer = self.loop.call_later(
                self._limits.wait_s, self.cut_off, ErrorCode.REQUEST_TIMEOUT, detail
            )
            self._limits.sending[self] = None

    def _request_arrived(self) -> None:
        self._limits.sending.pop(self, None)
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _expect_reading(self) -> None:
        if self._read_timer is None and self.transport.get_write_buffer_size() > 0:
            self._read_timer = self.loop.call_later(self._limits.wait_s, self.transport.abort)

    def _refuse(self, code: ErrorCode, detail: str, status: int | None = None) -> None:
        """Answers without the application, and closes."""
        answer = problem_response(code, detail, headers=_closing(code), status=status)
        lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self._close()

    def _close(self) -> None:
        """At once, whether or not the client reads."""
        self._request_arrived()
        self._limits.idle.pop(self, None)
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        else:
            self.transport.close()


def _closing(code: ErrorCode) -> dict[str, str]:
    wait = {"Retry-After": RETRY_AFTER_S} if code is ErrorCode.OVERLOADED else {}
    return {"Connection": "close", **wait, **SECURITY_HEADERS}


def _only_health(app: ASGIApp) -> ASGIApp:
    """The application as connections beyond the limit see it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in ALWAYS_ANSWERED:
            refusal = problem_response(ErrorCode.OVERLOADED, FULL, headers=_closing(ErrorCode.OVERLOADED))
            await refusal(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer
