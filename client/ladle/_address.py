"""Where the service is: the argument, else the environment, else the stack that `ladle up` started here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ladle._errors import ConfigurationError
from ladle._stack_file import read_stack
from ladle_contracts.network import is_loopback

URL_VARIABLE = "LADLE_URL"
TOKEN_VARIABLE = "LADLE_TOKEN"  # noqa: S105  the variable's name
CA_VARIABLE = "LADLE_CA_FILE"


@dataclass(frozen=True, kw_only=True)
class Address:
    """One service."""

    base_url: str
    """`http://host:port`. Over a socket the host has no meaning."""
    uds: str | None = None
    """The path of the unix socket, if the service listens on one."""
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    """For `https://`: the certificates of the authority that is trusted, instead of the well-known ones."""
    is_own_stack: bool = False
    """Whether it is the stack that `ladle up` started here, which sees the same files as we do."""

    @property
    def is_local(self) -> bool:
        """Whether the service is on this machine. Then no proxy is used."""
        return self.uds is not None or is_loopback(urlsplit(self.base_url).hostname or "")

    def __str__(self) -> str:
        return f"unix://{self.uds}" if self.uds else self.base_url


@dataclass(frozen=True)
class _Setting:
    """A value and its name in messages, which says where it came from and so where to change it."""

    value: str | None
    name: str


def find_address(
    url: str | None = None,
    token: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    stack_file: Path | None = None,
) -> Address:
    """The service to talk to. A token from the stack file is sent to that stack only."""
    where = _setting(url, "`url=`", URL_VARIABLE, environment)
    secret = _setting(token, "`token=`", TOKEN_VARIABLE, environment)
    if where.value:
        return replace(_parse(where.value, where.name, secret), ca_file=environment.get(CA_VARIABLE) or None)
    stack = read_stack(stack_file)
    if stack is None:
        raise ConfigurationError(
            "No Ladle service is known. Start one with `ladle up`, set LADLE_URL (and LADLE_TOKEN), or pass `url=`."
        )
    address = _parse(stack.url, "the stack's address", secret if secret.value else _Setting(stack.token, secret.name))
    return replace(address, is_own_stack=True)


def parse_address(url: str, token: str | None = None) -> Address:
    """Takes `http://host:port`, `https://...`, `unix:///path/of/socket` and `http+unix://%2Fpath%2Fof%2Fsocket`."""
    return _parse(url, "`url=`", _Setting(token, "`token=`"))


def _setting(given: str | None, name: str, variable: str, environment: Mapping[str, str]) -> _Setting:
    return _Setting(given, name) if given else _Setting(environment.get(variable), f"`{variable}`")


def _parse(url: str, name: str, secret: _Setting) -> Address:
    parts, token = _split(url), secret.value
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigurationError(f"{secret.name} must be printable ASCII without spaces, but is not.")
    if parts.scheme in ("http", "https") and parts.hostname and _has_good_port(parts):
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{name} must not contain a password, a query or a fragment, but does. Pass `token=` instead."
            )
        return Address(base_url=url.rstrip("/"), token=token)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address(base_url="http://localhost", uds=parts.path, token=token)
    if parts.scheme == "http+unix" and parts.netloc:
        return Address(base_url="http://localhost", uds=unquote(parts.netloc), token=token)
    raise ConfigurationError(f"{name} must be http://host:port, https://host or unix:///path, but is {url!r}.")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as an IPv6 address without its closing bracket
        return SplitResult("", "", "", "", "")


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:  # not a number, or above 65535
        return False
