"""Logging in with a token, and out. A service without tokens has neither."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from ladle_contracts import ErrorCode
from ladle_contracts.tokens import StoredToken
from ladle_service.auth import CallerDependency, Tokens, caller_of
from ladle_service.dependencies import StoreDependency
from ladle_service.limits import LimitsDependency, count_request
from ladle_service.pages.templates import page
from ladle_service.problems import ApiError
from ladle_service.sessions import check_csrf, form_of, key_of, new_session, own_path, session_of, set_cookie
from ladle_service.store import JobStore

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def show_login(request: Request) -> Response:
    """The form. Without tokens there is nothing to log in to."""
    after = own_path(request.query_params.get("next", ""))
    if request.app.state.tokens is None:
        return RedirectResponse(after, status_code=303)
    return page(request, "login.html", after=after, mistake=None)


@router.post("/login")
async def log_in(request: Request, store: StoreDependency, limits: LimitsDependency) -> Response:
    """Begins a session under a new cookie, so that nobody knows it from before."""
    tokens: Tokens | None = request.app.state.tokens
    form = await form_of(request)
    after = own_path(form.get("next", ""))
    if tokens is None:
        return RedirectResponse(after, status_code=303)
    await check_csrf(request)
    token = form.get("token", "").strip()
    found = await tokens.find(token) or await _of_code(token, tokens, store)
    if found is None or found.has_expired(datetime.now(UTC)):
        return page(request, "login.html", status=401, after=after, mistake=_mistake(token, found))
    limits.count_request(found.name)
    session = new_session(request)
    await store.begin_session(key_of(session), found.id)
    request.state.caller = caller_of(found, session)
    response = RedirectResponse(after, status_code=303)
    set_cookie(request, response, session)
    return response


@router.post("/login/codes", dependencies=[Depends(count_request)])
async def make_code(caller: CallerDependency, store: StoreDependency) -> dict[str, str]:
    """A code for the caller's browser, in place of the token: it can be used once, and for a minute."""
    if caller.token_id is None:
        raise ApiError(ErrorCode.NOT_FOUND, "There is no login, because this service has no tokens.")
    code = secrets.token_urlsafe(32)
    await store.offer_login(key_of(code), caller.token_id)
    return {"code": code}


async def _of_code(code: str, tokens: Tokens, store: JobStore) -> StoredToken | None:
    token_id = await store.take_login(key_of(code)) if code else None
    return None if token_id is None else await tokens.of_id(token_id)


@router.post("/logout")
async def log_out(request: Request, store: StoreDependency) -> Response:
    """Ends the session for good: its cookie is worth nothing afterwards."""
    await check_csrf(request)
    session = session_of(request)
    assert session is not None, "the check has seen it"
    await store.end_session(key_of(session))
    response = RedirectResponse("/login", status_code=303)
    set_cookie(request, response, new_session(request))
    return response


def _mistake(token: str, found: StoredToken | None) -> str:
    if not token:
        return "Enter a token. `ladle token create NAME` makes one."
    if found is not None:
        return f"The token {found.id} of {found.name} has expired. Ask for a new one."
    return "This is no token of this service. Copy the whole line that `ladle token create` printed."
