"""The address of Redis, with its password from a file: variables are shown by too many tools."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit


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


def socket_of(url: str) -> Path | None:
    """The unix socket that the URL names, if it names one."""
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme == "unix" else None
