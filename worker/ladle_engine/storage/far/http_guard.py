"""HTTP that reaches only where it may: every address is checked as it is connected to, after redirects too.

A name is resolved once per connection, and the connection goes to the address that was checked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

import aiohttp

from ladle_engine.storage.far.faults import Refused

CONNECT_S = 20.0
READ_S = 120.0
"""Without a byte."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""All that is given out for public use."""


def session_maker(hosts: Collection[str], private: Collection[str], *, secure: bool) -> Any:
    """What fsspec calls for a session. Addresses of the operator's own `hosts`, where these are addresses, and in the
    networks `private` may be reached; others only if they are public. `secure` keeps to HTTPS."""
    networks = [ipaddress.ip_network(each, strict=False) for each in private]
    networks += [ipaddress.ip_network(literal) for each in hosts for literal in _literals(each)]

    async def make(**kwargs: Any) -> aiohttp.ClientSession:
        kwargs.pop("loop", None)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        connector = GuardedConnector(networks, secure=secure)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, **kwargs)

    return make


class GuardedConnector(aiohttp.TCPConnector):
    """Refuses addresses before it connects to them."""

    def __init__(self, networks: Collection[Network], *, secure: bool) -> None:
        # Kept-alive names would be looked up once only, which is what is wanted; a cache is not.
        super().__init__(use_dns_cache=False)
        self._networks = networks
        self._secure = secure

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's own
        if self._secure and not req.is_ssl():
            raise Refused("the server leads from HTTPS to plain HTTP.")
        return await super().connect(req, traces, timeout)

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> Any:
        found = await super()._resolve_host(host, port, traces)
        for each in found:
            if not may_reach(ipaddress.ip_address(each["host"].partition("%")[0]), self._networks):
                raise Refused(
                    f"`{host}` is at {each['host']}, which is not a public address. The operator can allow private "
                    f"networks with `LADLE_FAR_PRIVATE`."
                )
        return found


def may_reach(address: Address, networks: Collection[Network]) -> bool:
    address = _embedded(address)
    return any(address in network for network in networks) or _is_public(address)


def _is_public(address: Address) -> bool:
    """Older Pythons also call IPv6's ways into private networks global: the local NAT64, site-local addresses, and
    those that hold an IPv4 address."""
    is_unicast = not address.is_multicast and (address.version == 4 or address in PUBLIC_IPV6)
    return address.is_global and is_unicast


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


def _literals(host: str) -> list[str]:
    """The addresses that a host, perhaps with a port, says itself."""
    name = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        return []
