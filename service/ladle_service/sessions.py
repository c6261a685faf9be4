"""Sessions of the dashboard: a cookie stands for a token, so that a browser need not keep the token itself.

The cookie is random. Redis has its hash with the token's id, for as long as the session is used; whether the token is
still valid is looked up at each request. What changes something also needs a second secret that only our own pages know
(CSRF): it is made from the cookie, which pages of other sites cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import parse_qsl, quote

from fastapi import Request, Response

from ladle_contracts import ErrorCode
from ladle_service.problems import ApiError

CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf"
FORM = "application/x-www-form-urlencoded"
IDLE_S = 24 * 3600
"""A session ends when it was not used for so long."""
CODE_S = 60
"""How long a code to log in with can be used."""
_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_PORT = re.compile(r":([0-9]{1,5})$")
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")


def is_from_elsewhere(request: Request) -> bool:
    """Whether the page of another site sends the request, or leads to it. `same-site` is another port."""
    return request.headers.get("sec-fetch-site") in ("cross-site", "same-site")


def session_of(request: Request) -> str | None:
    """The browser's session: it may be logged in or not. None if it has none, or another site's page asks."""
    if is_from_elsewhere(request) and request.headers.get("sec-fetch-mode") != "navigate":
        return None
    value: str | None = getattr(request.state, "new_session", None) or request.cookies.get(cookie_name(request))
    return value if value is not None and _VALUE.fullmatch(value) else None


def new_session(request: Request) -> str:
    """A session that is not logged in. The answer of this request sets its cookie."""
    request.state.new_session = secrets.token_urlsafe(32)
    return str(request.state.new_session)


def key_of(session: str) -> str:
    """What Redis has of it."""
    return hashlib.sha256(session.encode()).hexdigest()


def csrf_of(session: str) -> str:
    """What each form and each change by a page of this session must have."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


async def check_csrf(request: Request) -> None:
    """Raises `forbidden` unless one of our own pages sends the request."""
    session = session_of(request)
    sent = request.headers.get(CSRF_HEADER) or (await form_of(request)).get(CSRF_FIELD, "")
    if session is None or not hmac.compare_digest(sent.encode(), csrf_of(session).encode()):
        detail = "The form must be from a page of your session, but that has ended. Load the page again."
        raise ApiError(ErrorCode.FORBIDDEN, detail)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form. Empty if the body is something else. Of a field that is sent twice the last one counts."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return {}
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=1000))
    except ValueError as error:
        raise ApiError(ErrorCode.INVALID_REQUEST, "The form must be text in UTF-8, but is not.") from error


def set_cookie(request: Request, response: Response, session: str) -> None:
    """JavaScript cannot read it, and the browser sends it only with requests of our own pages."""
    response.set_cookie(cookie_name(request), session, httponly=True, samesite="strict", secure=_over_tls(request))


def cookie_name(request: Request) -> str:
    """Cookies are shared by all ports of a machine, so each service has its own name."""
    port = _PORT.search(request.headers.get("host", ""))
    return "__Host-ladle" if _over_tls(request) else f"ladle-{port[1] if port else 80}"


def own_path(wanted: str) -> str:
    """The same if it is a path of this service, else `/`. Browsers take two slashes, or a backslash, as the beginning
    of another site."""
    return wanted if _OWN_PATH.fullmatch(wanted) else "/"


def asked_for(request: Request) -> str:
    """The path and the query of a request, for a link."""
    query = request.scope["query_string"].decode("latin-1")
    return own_path(quote(request.scope["path"]) + (f"?{query}" if query else ""))


def _over_tls(request: Request) -> bool:
    return str(request.scope["scheme"]) == "https"
