"""One request to an address that somebody else has chosen: it reaches only where it may."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpcore2

from ladle_contracts.web_addresses import Address, Network, may_reach

CONNECT_S = 5.0
ANSWER_S = 15.0
"""For all of it: to connect, to send, and until the answer begins."""
LOOKUPS = 16
"""Names that are looked up at once, in threads of their own: those of a name that does not answer are busy for long,
and the rest of the service must not wait for them."""
HOW_TO_ALLOW = "The operator can allow private networks with `LADLE_WEBHOOK_PRIVATE`."


class CallFailed(Exception):
    """Nobody has taken the message. It is a sentence that holds nothing of the address but its host."""


class Caller:
    """Posts to web addresses. Private ones are refused unless they are in one of the networks `private`.

    A name is resolved once for each connection, all its addresses are checked, and the connection goes to one of them:
    a name that leads elsewhere a moment later changes nothing. Redirects are not followed.
    """

    def __init__(self, private: Collection[Network] = ()) -> None:
        self._private = tuple(private)
        self._tls = ssl.create_default_context()
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="ladle-webhook-names")

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer, whose body is not read. Raises `CallFailed`."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._post(url, body, headers)
        except TimeoutError:
            raise CallFailed(f"`{urlsplit(url).hostname}` has not answered in {ANSWER_S:g} s.") from None

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        backend = GuardedBackend(self._private, self._lookups, secure=url.startswith("https:"))
        sent = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
        timeouts = {"connect": CONNECT_S, "read": ANSWER_S, "write": ANSWER_S, "pool": ANSWER_S}
        async with httpcore2.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend) as pool:
            try:
                async with pool.stream(
                    "POST", url, headers=list(sent.items()), content=body, extensions={"timeout": timeouts}
                ) as got:
                    return int(got.status)
            except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
                what = str(error) or type(error).__name__
                raise CallFailed(f"`{urlsplit(url).hostname}` cannot be called: {what}.") from error


class GuardedBackend(httpcore2.AnyIOBackend):
    """Connects to addresses that it has checked, and to nothing else."""

    def __init__(self, private: Collection[Network], lookups: Executor, *, secure: bool) -> None:
        super().__init__()
        self._private = private
        self._lookups = lookups
        self._secure = secure

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """httpcore's own. Raises `CallFailed` for an address that may not be reached."""
        addresses = await self._addresses(host, port)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await super().connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failure = error
        assert failure is not None, "there is an address"
        raise failure

    async def _addresses(self, host: str, port: int) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._lookups, look_up, host, port)
        except (OSError, UnicodeError):
            raise CallFailed(f"`{host}` is no name that the service can look up.") from None
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
        for address in addresses:
            self._check(host, address)
        return addresses

    def _check(self, host: str, address: Address) -> None:
        if not may_reach(address, self._private):
            raise CallFailed(f"`{host}` is at {address}, which is not a public address. {HOW_TO_ALLOW}")
        if not self._secure and may_reach(address, ()):
            raise CallFailed(
                f"`{host}` must be called with `https://`, because it is not in a network of the operator."
            )

    async def connect_unix_socket(self, *arguments: Any, **options: Any) -> Any:
        """httpcore's own. No address leads here."""
        raise CallFailed("An address must not lead to a socket of this machine.")


def look_up(host: str, port: int) -> list[Any]:
    """The addresses of a name, as the system knows them. Raises OSError or UnicodeError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
