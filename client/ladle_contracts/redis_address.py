"""The address of Redis, with what comes from files: its password, and the authority that signed its certificate.

Both files are named by variables. A password itself is in none, because variables are shown by too many tools.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

AUTHORITY = "ssl_ca_certs"
"""How redis-py and kombu call it in an address."""


def complete_address(url: str, password_file: Path | None, ca_file: Path | None) -> str:
    """The URL with both. Raises ValueError, which says which variable is wrong."""
    try:
        url = with_password(url, password_file)
    except ValueError as error:
        raise ValueError(f"`LADLE_REDIS_PASSWORD_FILE` {error}.") from None
    try:
        return with_authority(url, ca_file)
    except ValueError as error:
        raise ValueError(f"`LADLE_REDIS_CA_FILE` {error}.") from None


def with_password(url: str, file: Path | None) -> str:
    """The URL with the password that the file holds; as it is without a file. Raises ValueError."""
    if file is None:
        return url
    parts = urlsplit(url)
    if parts.password:
        raise ValueError("must not be set when `LADLE_REDIS_URL` has a password too")
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"must be a file that can be read, but is {str(file)!r}: {error}") from error
    if not password:
        raise ValueError(f"must hold the password, but {str(file)!r} is empty")
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(parts.username or '', safe='')}:{quote(password, safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def with_authority(url: str, file: Path | None) -> str:
    """The URL with the file of certificates that the server's must be signed by. Raises ValueError."""
    if file is None:
        return url
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        raise ValueError("must only be set when `LADLE_REDIS_URL` begins with rediss://, but it does not")
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        raise ValueError(f"must be a file of certificates in PEM, but is {str(file)!r}: {error}") from error
    query = dict(parse_qsl(parts.query)) | {AUTHORITY: str(file)}
    return urlunsplit(parts._replace(query=urlencode(query)))


def socket_of(url: str) -> Path | None:
    """The unix socket that the URL names, if it names one."""
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme == "unix" else None
