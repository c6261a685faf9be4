"""Where the service is: argument, then environment, then the stack that `ladle up` started here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ladle._errors import ConfigurationError
from ladle._stack_file import read_stack

URL_VARIABLE = "LADLE_URL"
TOKEN_VARIABLE = "LADLE_TOKEN"  # noqa: S105  the variable's name


@dataclass(frozen=True, kw_only=True)
class Address:
    """One service."""

    base_url: str
    """`http://host:port`; the host means nothing over a socket."""
    uds: str | None = None
    """The path of the unix socket, if it listens on one."""
    token: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """On this machine, so that no proxy may stand between."""
        return self.uds is not None or _is_loopback(urlsplit(self.base_url).hostname or "")

    def __str__(self) -> str:
        return f"unix://{self.uds}" if self.uds else self.base_url


def find_address(
    url: str | None = None,
    token: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    stack_file: Path | None = None,
) -> Address:
    """The service to talk to. A token from the stack file goes nowhere but to that stack."""
    url = url or environment.get(URL_VARIABLE)
    token = token or environment.get(TOKEN_VARIABLE)
    if url:
        return parse_address(url, token)
    stack = read_stack(stack_file)
    if stack is None:
        raise ConfigurationError(
            "no Ladle service is known: start one with `ladle up`, or say where one is, with LADLE_URL (and "
            "LADLE_TOKEN), `--url` on the command line or `url=` in Python."
        )
    return parse_address(stack.url, token or stack.token)


def parse_address(url: str, token: str | None = None) -> Address:
    """Takes `http://host:port`, `https://...`, `unix:///path/of/socket` and `http+unix://%2Fpath%2Fof%2Fsocket`."""
    parts = urlsplit(url)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigurationError("The token must be printable ASCII without spaces, but is not.")
    if parts.scheme in ("http", "https") and parts.hostname and _has_good_port(parts):
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigurationError(
                "The service's address must hold no password, query or fragment, but does. The token goes apart."
            )
        return Address(base_url=url.rstrip("/"), token=token)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address(base_url="http://localhost", uds=parts.path, token=token)
    if parts.scheme == "http+unix" and parts.netloc:
        return Address(base_url="http://localhost", uds=unquote(parts.netloc), token=token)
    raise ConfigurationError(
        f"The service's address must be http://host:port, https://host or unix:///path, but is {url!r}."
    )


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:  # no number, or past 65535
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
