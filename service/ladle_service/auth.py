"""Who sends a request: bearer tokens, stored as hashes. Without a tokens file everybody on this machine may do
everything."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.exceptions import RedisError

from ladle_contracts import ErrorCode
from ladle_contracts.tokens import ADVICE, Scope, StoredToken, TokensFileError, hash_token, parse_tokens
from ladle_service.problems import ApiError
from ladle_service.sessions import check_csrf, key_of, session_of
from ladle_service.store import JobStore

logger = logging.getLogger(__name__)
T = TypeVar("T")

OPEN_OWNER = "local"
"""The owner of jobs that were submitted without a token."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""What a token that may only read may do. Any other method changes something."""
RECHECK_S = 1.0
"""How soon a change of the tokens file takes effect."""
SESSION_LOOK_S = 5.0
"""How soon an open stream ends after its page has logged out."""
USE_EVERY_S = 60.0
"""How often the last use of a token is written."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sends a request."""

    owner: str
    """The name of the token, which owns the jobs that are submitted with it."""
    sees: str | None
    """The owner whose jobs are shown. None shows all jobs."""
    token_id: str | None = None
    scope: Scope = Scope.ADMIN
    session: str | None = None
    """`sessions.key_of` of a page that has logged in."""

    @property
    def may_submit(self) -> bool:
        """Whether it may change anything."""
        return self.scope.includes(Scope.SUBMIT)


OPEN_CALLER = Caller(owner=OPEN_OWNER, sees=None)


class TokenBook:
    """The hashes of all tokens."""

    def __init__(self, tokens: Sequence[StoredToken]) -> None:
        self.tokens = tuple(tokens)

    def find(self, token: str) -> StoredToken | None:
        """Whose token this is. It compares with every hash in constant time, so that the duration reveals nothing."""
        presented = hash_token(token)
        found = None
        for stored in self.tokens:
            if hmac.compare_digest(presented, stored.digest):
                found = stored
        return found

    def of_id(self, token_id: str | None) -> StoredToken | None:
        """The token of this id."""
        return next((stored for stored in self.tokens if stored.id == token_id), None)

    def has(self, token_id: str | None) -> bool:
        """Whether a token is there and has not expired."""
        stored = self.of_id(token_id)
        return stored is not None and not stored.has_expired(datetime.now(UTC))


class Tokens:
    """The tokens of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises `TokensFileError` or `OSError`: a service that nobody can use does not start."""
        self._path = path
        self._seen, self._book = _read(path)
        if not self._book.tokens:
            raise TokensFileError(
                f"{path} must have a line for each token, but has none, so nobody could use the service. {ADVICE}"
            )
        self._checked_at = time.monotonic()
        self._used_at: dict[str, float] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def find(self, token: str) -> StoredToken | None:
        """Whose token this is, by the file as it is now."""
        return (await self._current()).find(token)

    async def of_owner(self, owner: str) -> tuple[StoredToken, ...]:
        """All tokens of a name, by the file as it is now."""
        return tuple(stored for stored in (await self._current()).tokens if stored.name == owner)

    async def of_id(self, token_id: str) -> StoredToken | None:
        """The token of this id, by the file as it is now."""
        return (await self._current()).of_id(token_id)

    async def while_valid(self, caller: Caller, events: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """Ends a stream of events when its token is revoked or expires."""
        async with aclosing(events):
            async for event in events:
                if not (await self._current()).has(caller.token_id):
                    return
                yield event

    async def _current(self) -> TokenBook:
        if time.monotonic() - self._checked_at >= RECHECK_S:
            self._checked_at = time.monotonic()
            # The file may be on a network.
            await asyncio.to_thread(self._read_if_changed)
        return self._book

    def note_use(self, token: StoredToken, store: JobStore) -> None:
        """Writes when the token was used, now and then, and without making the request wait."""
        now = time.monotonic()
        if now - self._used_at.get(token.id, -USE_EVERY_S) < USE_EVERY_S:
            return
        self._used_at[token.id] = now
        task = asyncio.create_task(_write_use(store, token.id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _read_if_changed(self) -> None:
        try:
            now = _signature(self._path.stat())
            if now == self._seen:
                return
            self._seen, self._book = _read(self._path)
        except (OSError, TokensFileError) as error:
            now = (str(error),)
            if now != self._seen:
                self._seen = now
                logger.error("the tokens file has changed and cannot be used, so the old tokens stay valid: %s", error)
        else:
            count = len(self._book.tokens)
            logger.log(
                logging.INFO if count else logging.WARNING, "the tokens file has changed: it has %d tokens now", count
            )


def _signature(status: os.stat_result) -> tuple[object, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> tuple[tuple[object, ...], TokenBook]:
    with path.open(encoding="utf-8") as file:
        seen = _signature(os.fstat(file.fileno()))
        try:
            return seen, TokenBook(parse_tokens(file.read(), str(path)))
        except UnicodeDecodeError as error:
            raise TokensFileError(f"{path} must be text in UTF-8, but is not.") from error


async def while_logged_in(session: str, store: JobStore, events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Ends a stream of events when the page's session does, which the stream keeps open meanwhile."""
    looked_at = time.monotonic()
    async with aclosing(events):
        async for event in events:
            if time.monotonic() - looked_at >= SESSION_LOOK_S:
                looked_at = time.monotonic()
                if await store.session(session) is None:
                    return
            yield event


async def _write_use(store: JobStore, token_id: str) -> None:
    try:
        await store.note_use(token_id, int(time.time()))
    except RedisError as error:
        logger.warning("the last use of token %s could not be written: %s", token_id, error)


bearer = HTTPBearer(auto_error=False, description="Required if the operator has configured a tokens file.")


async def identify(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """The caller of this request, or 401. 403 if the token does not allow what the request is for."""
    tokens: Tokens | None = request.app.state.tokens
    if tokens is None:
        request.state.caller = OPEN_CALLER
        return OPEN_CALLER
    if credentials is not None:
        found = await tokens.find(credentials.credentials)
    else:
        found = await _of_session(request, tokens)
    if found is None:
        raise _unauthorized("The header `Authorization: Bearer TOKEN` must have a valid token, but does not.")
    session = None if credentials is not None else session_of(request)
    request.state.caller = caller = caller_of(found, session)
    if found.has_expired(datetime.now(UTC)):
        raise _unauthorized(f"The token {found.id} of {found.name} must be valid, but has expired. Ask for a new one.")
    if request.method not in READING and not caller.may_submit:
        detail = f"The token must have the scope `submit` for this, but has `{found.scope}`."
        raise ApiError(ErrorCode.FORBIDDEN, detail)
    if credentials is None and request.method not in READING:
        await check_csrf(request)
    tokens.note_use(found, request.app.state.store)
    return caller


def caller_of(token: StoredToken, session: str | None) -> Caller:
    """Whoever uses a token, perhaps by a page's session."""
    return Caller(
        owner=token.name,
        sees=None if token.scope is Scope.ADMIN else token.name,
        token_id=token.id,
        scope=token.scope,
        session=None if session is None else key_of(session),
    )


async def _of_session(request: Request, tokens: Tokens) -> StoredToken | None:
    """The token that the page's session stands for."""
    session = session_of(request)
    if session is None:
        return None
    store: JobStore = request.app.state.store
    token_id = await store.session(key_of(session))
    return None if token_id is None else await tokens.of_id(token_id)


async def operate(caller: Annotated[Caller, Depends(identify)]) -> Caller:
    """The caller of a request that is for an operator. 403 for anybody else."""
    if caller.sees is not None:
        raise ApiError(ErrorCode.FORBIDDEN, "The token must have the scope `admin` for this, but has not.")
    return caller


def _unauthorized(detail: str) -> ApiError:
    return ApiError(ErrorCode.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})


CallerDependency = Annotated[Caller, Depends(identify)]
OperatorDependency = Annotated[Caller, Depends(operate)]
