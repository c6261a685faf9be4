"""Renders pages. Whatever comes from outside is text in them: templates escape it, and none may say `|safe`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import DictLoader, Environment, StrictUndefined

from ladle_service.auth import Caller
from ladle_service.pages import markup, words
from ladle_service.pages.static import static_url
from ladle_service.sessions import asked_for, csrf_of, is_from_elsewhere, new_session, session_of, set_cookie

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing from elsewhere, and no script or style inside the page."""

HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
"""With `no-referrer`, browsers hide from us too which site a form is from: `Origin: null`."""


@dataclass(frozen=True)
class Link:
    """One entry of the navigation."""

    name: str
    path: str


NAVIGATION = (
    *(Link("Jobs", "/"), Link("Submit", "/submit"), Link("Nodes", "/nodes"), Link("Methods", "/methods")),
    *(Link("Tasks", "/tasks"), Link("Settings", "/settings")),
)

environment = Environment(
    # Read now: a page must not wait for the disk.
    loader=DictLoader({path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html")}),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=words.visible,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.globals.update(static_url=static_url, navigation=NAVIGATION, stages_in_words=words.STAGES)
environment.filters.update(words.FILTERS | markup.FILTERS)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for the browser's session, which begins now if it has none.

    Every template has: `csrf` for its forms, `caller` (None when nobody is logged in), `has_tokens`, `path`, `now`.
    """
    session = session_of(request)
    if session is None and is_from_elsewhere(request):
        return _again(request)
    session = session or new_session(request)
    caller: Caller | None = getattr(request.state, "caller", None)
    text = environment.get_template(template).render(
        csrf=csrf_of(session),
        caller=caller,
        has_tokens=request.app.state.tokens is not None,
        path=request.scope["path"],
        now=datetime.now(UTC),
        **values,
    )
    response = HTMLResponse(text, status_code=status, headers=HEADERS)
    if getattr(request.state, "new_session", None) == session:
        set_cookie(request, response, session)
    return response


def _again(request: Request) -> Response:
    """After a link on another site: browsers keep the cookie back, and a new one would end the session that is there.
    This page leads to the same address, now from here."""
    asked = asked_for(request) if request.method == "GET" else "/"
    text = environment.get_template("again.html").render(asked=asked)
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})
