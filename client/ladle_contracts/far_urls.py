"""Addresses of far folders and files, such as `s3://bucket/runs/7`. The service and the engine have this same file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

SCHEMES = ("s3", "gs", "az", "hf", "http", "https")
OVER_HTTP = ("http", "https")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
AS_PATH = re.compile(rf"({'|'.join(SCHEMES)}|file):/(?!/)")
"""What `Path("s3://bucket")` begins with."""
PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\?#]")
UNQUOTED_TIMES = 4


class BadUrl(ValueError):
    """The text goes on from "must be an address, but"."""


@dataclass(frozen=True)
class FarUrl:
    """A far folder or file."""

    scheme: str
    place: str
    """The bucket, the container, or the host with its port."""
    path: str
    """Without a slash at either end."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}/{self.path}".rstrip("/")

    def lies_in(self, root: FarUrl) -> bool:
        same = (self.scheme, self.place) == (root.scheme, root.place)
        return same and (not root.path or f"{self.path}/".startswith(f"{root.path}/"))

    def below(self, name: str) -> FarUrl:
        return FarUrl(self.scheme, self.place, f"{self.path}/{name}".strip("/"))


def as_url(path: object) -> str | None:
    """The text of a path that is an address, of whatever scheme; None for any other. `Path` takes away a slash."""
    if isinstance(path, str):
        return path if SCHEME.match(path) else None
    text = os.fspath(path) if isinstance(path, os.PathLike) else ""
    match = AS_PATH.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    return f"{match[1]}://{'/' if match[1] == 'file' else ''}{text[match.end() :]}"


def is_url(path: object) -> bool:
    return as_url(path) is not None


def parse_url(text: str) -> FarUrl:
    """Raises `BadUrl`, which repeats nothing that may be a secret."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise BadUrl(f"`{scheme}` is not one of the schemes {', '.join(SCHEMES)} and file")
    place, _, path = rest.partition("/")
    if "@" in place:
        raise BadUrl("it has a user or password in it. Credentials come from the operator, never from a job")
    if "?" in rest:
        raise BadUrl(
            "it has a query. Addresses that are signed for one file hold a credential, which a job must not: give the "
            "address without it, and let the operator's environment have the credentials"
        )
    if FORBIDDEN.search(rest):
        raise BadUrl("it has a fragment, a backslash or a control character")
    if not PLACE.fullmatch(place):
        raise BadUrl("it has no proper bucket or host")
    if scheme in OVER_HTTP:
        place = place.lower().removesuffix(":80" if scheme == "http" else ":443")
    path = path.rstrip("/")
    if path and any(_is_odd(segment) for segment in path.split("/")):
        raise BadUrl("one of its folders is empty, `.` or `..`")
    return FarUrl(scheme, place, path)


def local_path(text: str) -> str | None:
    """The path that `file:///path` stands for; None for any other scheme. Raises `BadUrl`."""
    if not text.lower().startswith("file://"):
        return None
    path = text[len("file://") :].removeprefix("localhost")
    if not path.startswith("/"):
        raise BadUrl("a file must be given as `file:///absolute/path`")
    return unquote(path)


def shown_url(text: str) -> str:
    """Without what may be a secret: a user, a password, a query."""
    scheme, _, rest = text.partition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def is_allowed(url: FarUrl, roots: Iterable[str]) -> bool:
    return any(url.lies_in(parse_url(root)) for root in roots)


def _is_odd(segment: str) -> bool:
    """Also where a server that takes `%2e` for a dot would say so."""
    for _ in range(UNQUOTED_TIMES):
        if segment in ("", ".", "..") or "/" in segment or "\\" in segment:
            return True
        segment = unquote(segment)
    return False
