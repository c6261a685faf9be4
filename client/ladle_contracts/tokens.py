"""The tokens file: `ladle token` writes it, the service reads it. Each line is one token, of which only a hash is kept.

    ann:SHA256
    ann:SHA256 scope=read created=2026-01-31T12:00:00Z expires=2026-05-01T12:00:00Z

Several lines may have one name, so that a token can be replaced before the old one is revoked. Empty lines and lines
that begin with `#` are skipped.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
NAME_RULE = "must consist of a-z, 0-9, `_`, `.` and `-`, begin with a letter or digit, and have at most 64 characters"
ADVICE = "`ladle token create NAME` makes such a line."
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class TokensFileError(ValueError):
    """The tokens file cannot be used."""


class Scope(StrEnum):
    """What a token allows. Each scope includes those before it."""

    READ = "read"
    """See the jobs of its name, and the nodes, methods and tasks."""
    SUBMIT = "submit"
    """Submit jobs, and cancel and delete those of its name."""
    ADMIN = "admin"
    """See, cancel and delete everybody's jobs, and say which nodes take jobs."""

    def includes(self, other: Scope) -> bool:
        scopes = list(Scope)
        return scopes.index(self) >= scopes.index(other)


@dataclass(frozen=True, kw_only=True)
class StoredToken:
    """One line of the file."""

    name: str
    """Who has it, and who owns the jobs that are submitted with it."""
    digest: str
    """The SHA-256 of the token, in hex."""
    scope: Scope = Scope.SUBMIT
    created: datetime | None = None
    expires: datetime | None = None

    @property
    def id(self) -> str:
        """What to call it by: the beginning of its digest."""
        return self.digest[:12]

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    def line(self) -> str:
        """The token as a line of the file."""
        times = {"created": self.created, "expires": self.expires}
        fields = [f"scope={self.scope}", *(f"{name}={time.strftime(_TIME)}" for name, time in times.items() if time)]
        return " ".join([f"{self.name}:{self.digest}", *fields])


def make_token() -> str:
    """A new token of 256 random bits."""
    return secrets.token_hex(32)


def hash_token(token: str) -> str:
    """What is stored of a token. Tokens are long and random, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def parse_tokens(text: str, where: str) -> list[StoredToken]:
    """The tokens in the text of a file. Raises `TokensFileError`, which never repeats a line: it may hold a secret."""
    found: list[StoredToken] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.strip().startswith("#"):
            try:
                found.append(parse_line(line))
            except ValueError as error:
                raise TokensFileError(f"{where}, line {number}, {error}. {ADVICE}") from None
            if any(token.digest == found[-1].digest for token in found[:-1]):
                raise TokensFileError(f"{where}, line {number}: a token must occur only once, but occurs twice.")
    return found


def parse_line(line: str) -> StoredToken:
    """One line that is not empty. Raises `ValueError` with the rule that it breaks."""
    head, *fields = line.split()
    name, _, digest = head.partition(":")
    if not (NAME.fullmatch(name) and _DIGEST.fullmatch(digest)):
        raise ValueError("must be `name:sha256 in hex`, but is not")
    values = dict(field.split("=", 1) for field in fields if "=" in field)
    if len(values) != len(fields) or not values.keys() <= {"scope", "created", "expires"}:
        raise ValueError("may have `scope=`, `created=` and `expires=`, each once, but has something else")
    if values.get("scope", Scope.SUBMIT) not in list(Scope):
        raise ValueError(f"must have a scope of {', '.join(Scope)}, but has not")
    return StoredToken(
        name=name,
        digest=digest,
        scope=Scope(values.get("scope", Scope.SUBMIT)),
        created=_time(values.get("created")),
        expires=_time(values.get("expires")),
    )


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError("must have times like 2026-01-31T12:00:00Z, but has not") from None
