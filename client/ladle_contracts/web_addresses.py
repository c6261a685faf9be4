"""Addresses that the service calls, such as `https://host/path`: what they look like, and which ones may be reached."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAT64 = ipaddress.ip_network("64:ff9b::/96")
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""All that is given out for public use."""
NOT_IN_ONE = re.compile(r"[\x00-\x20\x7f\\]")


def check_web_address(text: str) -> str:
    """The same text. Raises ValueError, which goes on from the field's name and repeats nothing of it."""
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or NOT_IN_ONE.search(text):
        raise ValueError("must be an address such as `https://host/path`")
    if not text.isascii():
        raise ValueError("must be an address of ASCII characters. Write others as `%XX`, and a host as `xn--...`")
    if "@" in parts.netloc:
        raise ValueError("must be an address without a user or a password")
    if parts.fragment:
        raise ValueError("must be an address without a fragment (`#...`)")
    return text


def _split(text: str) -> SplitResult | None:
    """None where it is no address, or its port is no number."""
    try:
        parts = urlsplit(text)
        return parts if parts.port != 0 else None
    except ValueError:
        return None


def read_networks(value: Any) -> Any:
    """`10.0.0.0/8,192.168.1.7` as two. Raises ValueError."""
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    for part in parts:
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ValueError(f"must hold networks such as `10.0.0.0/8`, but has {part!r}") from None
    return tuple(parts)


def may_reach(address: Address, private: Collection[Network]) -> bool:
    """Whether it is public, or in one of the networks that the operator allows."""
    address = _inside(address)
    return any(address in network for network in private) or _is_public(address)


def _is_public(address: Address) -> bool:
    """Older Pythons also call IPv6's ways into private networks global: the local NAT64, site-local addresses, and
    those that hold an IPv4 address."""
    is_unicast = not address.is_multicast and (address.version == 4 or address in PUBLIC_IPV6)
    return address.is_global and is_unicast


def _inside(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
