"""Which addresses may be reached that somebody else has chosen."""

from __future__ import annotations

import ipaddress

import pytest

from ladle_contracts.web_addresses import may_reach
from ladle_engine.storage.far.http_guard import may_reach as may_reach_far

PRIVATE = (
    *("10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "ff0e::1"),
    *("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    *("64:ff9b:1::10.0.0.1", "fec0::1", "::10.0.0.1", "::127.0.0.1", "::ffff:0:10.0.0.1"),
)
PUBLIC = ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1")


@pytest.mark.parametrize("text", PRIVATE)
def test_a_private_address_is_refused_in_whatever_it_is_wrapped(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not may_reach(address, [])
    assert not may_reach_far(address, [])


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_reached(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert may_reach(address, [])
    assert may_reach_far(address, [])


def test_the_operator_may_name_any_network() -> None:
    address = ipaddress.ip_address("64:ff9b:1::10.0.0.1")
    networks = [ipaddress.ip_network("64:ff9b:1::/48")]
    assert may_reach(address, networks)
    assert may_reach_far(address, networks)
