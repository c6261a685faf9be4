"""Sending: the only two places where the client does I/O. What they share is decided in the functions above them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2

from ladle._address import CA_VARIABLE, Address
from ladle._calls import Call, read_error
from ladle._errors import ConfigurationError, ServiceUnreachable, UnexpectedAnswer
from ladle._follow import Follower
from ladle._retry import RETRY_STATUSES, Backoff, parse_retry_after
from ladle_contracts import Event
from ladle_contracts.safe_text import one_line

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

STREAM_SILENCE_S = 60.0
"""A stream that sends nothing for this long, not even a keep-alive, is dead."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def _settings(address: Address, timeout_s: float) -> dict[str, Any]:
    headers = {"Accept": "application/json", "User-Agent": "ladle-client"}
    if address.token is not None:
        headers["Authorization"] = f"Bearer {address.token}"
    settings = {
        "base_url": address.base_url,
        "headers": headers,
        "timeout": timeout_s,
        "trust_env": not address.is_local,
    }
    if address.ca_file is not None and address.base_url.startswith("https://"):
        settings["verify"] = _trusting(address.ca_file)
    return settings


def _trusting(ca_file: str) -> ssl.SSLContext:
    """What accepts only servers that this authority vouches for."""
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        told = f"`{CA_VARIABLE}` must be a file of certificates in PEM, but `{ca_file}` is not: {error}."
        raise ConfigurationError(one_line(told)) from error


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate was not accepted."""
    import ssl

    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _request(call: Call[Any]) -> dict[str, Any]:
    request = {
        "method": call.method,
        "url": call.path,
        "params": call.params or None,
        "headers": dict(call.headers),
        "content": call.content,
    }
    return request if call.timeout_s is None else request | {"timeout": call.timeout_s}


def _pause_after_failure(address: Address, call: Call[Any], error: httpx2.TransportError, backoff: Backoff) -> float:
    """Seconds to wait before sending again. Raises ServiceUnreachable when it makes no sense to try again."""
    if _is_untrusted(error):
        raise ServiceUnreachable(
            f"The certificate of {address} must be one that you trust, but is not ({error}). If an authority of your "
            f"own has signed it, set {CA_VARIABLE} to the file with that authority's certificate."
        ) from error
    may_repeat = call.repeatable or isinstance(error, _NEVER_SENT)
    pause_s = backoff.next_pause() if may_repeat else None
    if pause_s is None:
        what = str(error) or type(error).__name__
        raise ServiceUnreachable(
            f"No Ladle service answers at {address} ({what}). `ladle doctor` says what is wrong, `ladle up` starts one."
        ) from error
    return pause_s


def _pause_after_refusal(call: Call[Any], response: httpx2.Response, backoff: Backoff) -> float:
    """Seconds to wait before sending again. Raises the service's error otherwise. The body has been read."""
    pause_s = None
    if response.status_code in RETRY_STATUSES and (call.repeatable or response.status_code in (429, 503)):
        pause_s = backoff.next_pause(parse_retry_after(response.headers.get("retry-after")))
    if pause_s is None:
        raise read_error(response.status_code, response.content)
    return pause_s


def _check_stream(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "text/event-stream":
        raise UnexpectedAnswer(f"Events must come as text/event-stream, but come as {kind!r}.")


class SyncTransport:
    """Sends calls and blocks until the answer is there."""

    def __init__(
        self, address: Address, *, timeout_s: float, patience_s: float, http: httpx2.BaseTransport | None = None
    ) -> None:
        self.address = address
        self._patience_s = patience_s
        if http is None and address.uds is not None:
            http = httpx2.HTTPTransport(uds=address.uds)
        self._http = httpx2.Client(transport=http, **_settings(address, timeout_s))
        self._stream_timeout = httpx2.Timeout(timeout_s, read=STREAM_SILENCE_S)

    def send(self, call: Call[T], *, patience_s: float | None = None) -> T:
        """The answer. Sends again what may be sent again, until the budget is used up."""
        backoff = Backoff(patience_s=self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                response = self._http.request(**_request(call))
            except httpx2.TransportError as error:
                pause_s = _pause_after_failure(self.address, call, error, backoff)
            else:
                if response.is_success:
                    return call.parse(response.content)
                pause_s = _pause_after_refusal(call, response, backoff)
            time.sleep(pause_s)

    def follow(self, follower: Follower) -> Iterator[Event]:
        """Every event up to the one that ends the job, over as many connections as needed."""
        while not follower.finished:
            call = follower.call()
            try:
                with self._http.stream(timeout=self._stream_timeout, **_request(call)) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    if response.is_success:
                        _check_stream(response)
                        follower.backoff.answered()
                        for message in httpx2.EventSource(response):
                            event = follower.take(message.data)
                            if event is not None:
                                yield event
                            if follower.finished:
                                return
                        raise httpx2.ReadError("the stream ended before the job did")
                    response.read()
                    pause_s = _pause_after_refusal(call, response, follower.backoff)
            except httpx2.TransportError as error:
                pause_s = _pause_after_failure(self.address, call, error, follower.backoff)
            time.sleep(pause_s)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncTransport:
    """Sends calls from an event loop."""

    def __init__(
        self, address: Address, *, timeout_s: float, patience_s: float, http: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.address = address
        self._patience_s = patience_s
        if http is None and address.uds is not None:
            http = httpx2.AsyncHTTPTransport(uds=address.uds)
        self._http = httpx2.AsyncClient(transport=http, **_settings(address, timeout_s))
        self._stream_timeout = httpx2.Timeout(timeout_s, read=STREAM_SILENCE_S)

    async def send(self, call: Call[T], *, patience_s: float | None = None) -> T:
        """The answer. Sends again what may be sent again, until the budget is used up."""
        backoff = Backoff(patience_s=self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                response = await self._http.request(**_request(call))
            except httpx2.TransportError as error:
                pause_s = _pause_after_failure(self.address, call, error, backoff)
            else:
                if response.is_success:
                    return call.parse(response.content)
                pause_s = _pause_after_refusal(call, response, backoff)
            await asyncio.sleep(pause_s)

    async def follow(self, follower: Follower) -> AsyncIterator[Event]:
        """Every event up to the one that ends the job, over as many connections as needed."""
        while not follower.finished:
            call = follower.call()
            try:
                async with self._http.stream(timeout=self._stream_timeout, **_request(call)) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    if response.is_success:
                        _check_stream(response)
                        follower.backoff.answered()
                        async for message in httpx2.EventSource(response):
                            event = follower.take(message.data)
                            if event is not None:
                                yield event
                            if follower.finished:
                                return
                        raise httpx2.ReadError("the stream ended before the job did")
                    await response.aread()
                    pause_s = _pause_after_refusal(call, response, follower.backoff)
            except httpx2.TransportError as error:
                pause_s = _pause_after_failure(self.address, call, error, follower.backoff)
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
