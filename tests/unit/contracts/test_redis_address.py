"""The password of Redis from a file, as both clients of Redis read it from the address."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from kombu import Connection
from pydantic import ValidationError
from redis.connection import parse_url

from ladle_contracts.broker import broker_url
from ladle_contracts.redis_address import complete_address, socket_of, with_authority, with_password
from ladle_worker.settings import Settings

PASSWORD = "p@ss/w:rd%#?é"
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBiDCCAS+gAwIBAgIUJUZYKuoap2909lcFYfoaBh6nJE4wCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVGVzdCBhdXRob3JpdHkwIBcNMjYxMTI2MTk1NTI3WhgPMjEy
NjExMDIxOTU1MjdaMBkxFzAVBgNVBAMMDlRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEoqsp7Y51Dh6bsw4a4WxriTe2bJpOeqTKNw8fi07g
GtftbBD0Id5H+NtxZQ/Ps3VasmB1M3iJTBZjzfBPflf156NTMFEwHQYDVR0OBBYE
FBuRz6lXh6fHyem4fYJItiaFvyiDMB8GA1UdIwQYMBaAFBuRz6lXh6fHyem4fYJI
tiaFvyiDMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgeGy7kQiT
YueUq8f/2CA2HJYliwm2dPZXoXEqNj/XeDsCIBT8fBS42YT8p/ItrpzfGXspXO/0
QeEdWhV5Kh3vJJb0
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize("url", ["redis://host:6380/2", "rediss://user@host:6380/2", "unix:///run/redis.sock?db=2"])
def test_any_password_reaches_redis_through_any_address(url: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    found = with_password(url, tmp_path / "password")
    assert parse_url(found) == {**parse_url(url), "password": PASSWORD}
    if not url.startswith("unix"):
        broker = Connection(broker_url(found))
        assert (broker.password, broker.hostname, broker.port) == (PASSWORD, "host", 6380)


def test_without_a_file_the_address_stays() -> None:
    assert with_password("redis://:secret@host", None) == "redis://:secret@host"


@pytest.mark.parametrize(
    ("url", "content", "words"),
    [("redis://:other@host", "secret", "has a password too"), ("redis://host", "\n", "is empty")],
)
def test_what_cannot_be_meant_is_refused(
    url: str, content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(content)
    for name, value in {
        "ROOTS": "/data", "RESULTS_DIR": "/results", "REDIS_URL": url, "REDIS_PASSWORD_FILE": tmp_path / "password"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LADLE_{name}", str(value))
    with pytest.raises(ValidationError, match=words) as caught:
        Settings()
    assert "`LADLE_REDIS_PASSWORD_FILE`" in str(caught.value)
    monkeypatch.setenv("LADLE_REDIS_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match=r"must be a file that can be read|has a password too"):
        Settings()


def test_both_clients_check_the_certificate_against_the_authority(tmp_path: Path) -> None:
    authority = tmp_path / "the ca.pem"
    authority.write_text(AUTHORITY)
    (tmp_path / "password").write_text(PASSWORD)
    found = complete_address("rediss://worker@host/0", tmp_path / "password", authority)
    assert parse_url(found)["ssl_ca_certs"] == str(authority)
    assert parse_url(found)["username"] == "worker"
    broker = Connection(broker_url(found))
    assert (broker.userid, broker.password) == ("worker", PASSWORD)
    assert broker.ssl == {"ssl_ca_certs": str(authority), "ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_celery_checks_the_certificate_without_an_authority_of_ones_own_too() -> None:
    assert Connection(broker_url("rediss://host/0")).ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert Connection(broker_url("rediss://host/0?ssl_cert_reqs=none")).ssl == {"ssl_cert_reqs": ssl.CERT_NONE}


@pytest.mark.parametrize(
    ("url", "content", "words"),
    [
        ("redis://host", AUTHORITY, "begins with rediss://"),
        ("rediss://host", "no certificate", "a file of certificates in PEM"),
        ("rediss://host", None, "a file of certificates in PEM"),
    ],
)
def test_an_authority_that_cannot_be_used_is_refused(url: str, content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ValueError, match=words):
        with_authority(url, tmp_path / "ca.pem")
    with pytest.raises(ValueError, match="`LADLE_REDIS_CA_FILE`"):
        complete_address(url, None, tmp_path / "ca.pem")


def test_a_socket_is_known_from_the_address() -> None:
    assert socket_of("unix://:x@/run/redis.sock?db=1") == Path("/run/redis.sock")
    assert socket_of("redis://host") is None
