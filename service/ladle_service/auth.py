"""Who sends a request: bearer tokens, stored as hashes. Without a tokens file everybody on this machine may do
everything."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ladle_contracts import ErrorCode
from ladle_service.problems import ApiError

TOKEN_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
OPEN_OWNER = "local"
"""The owner of jobs that were submitted without a token."""


class TokensFileError(ValueError):
    """The tokens file cannot be used, so the service does not start."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sends a request."""

    owner: str
    """The name of the token, which owns the jobs that are submitted with it."""
    sees: str | None
    """The owner whose jobs are shown. None shows all jobs."""


OPEN_CALLER = Caller(owner=OPEN_OWNER, sees=None)


class TokenBook:
    """The hashes of all tokens."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)

    def find(self, token: str) -> Caller | None:
        """Who has this token. It compares with every hash in constant time, so that the duration reveals nothing."""
        presented = hash_token(token)
        found = None
        for name, digest in self._hashes.items():
            if hmac.compare_digest(presented, digest):
                found = Caller(owner=name, sees=name)
        return found


def hash_token(token: str) -> str:
    """What is stored of a token. Tokens are long and random, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token() -> str:
    """A new token of 256 random bits."""
    return secrets.token_hex(32)


def read_tokens(path: Path) -> TokenBook:
    """Reads lines `name:sha256hex`. Empty lines and those that begin with `#` are skipped."""
    hashes: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, digest = text.partition(":")
        if not (TOKEN_NAME.fullmatch(name) and SHA256_HEX.fullmatch(digest)):
            raise TokensFileError(
                f"{path}, line {number}, must be `name:sha256 in hex`, but is not. "
                "`python -m ladle_service hash-token NAME` makes such a line."
            )
        if name in hashes:
            raise TokensFileError(f"{path}, line {number}: the name {name!r} must occur only once, but occurs twice.")
        hashes[name] = digest
    if not hashes:
        raise TokensFileError(
            f"{path} must have a line for each token, but has none, so nobody could use the service. "
            "`python -m ladle_service hash-token NAME` makes such a line."
        )
    return TokenBook(hashes)


_bearer = HTTPBearer(auto_error=False, description="Required if the operator has configured a tokens file.")


async def identify(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """The caller of this request, or 401."""
    tokens: TokenBook | None = request.app.state.tokens
    if tokens is None:
        return OPEN_CALLER
    caller = tokens.find(credentials.credentials) if credentials is not None else None
    if caller is None:
        detail = "The header `Authorization: Bearer TOKEN` must have a valid token, but does not."
        raise ApiError(ErrorCode.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
    return caller


CallerDependency = Annotated[Caller, Depends(identify)]
