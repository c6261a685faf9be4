"""The address of a stack's dashboard, and a browser that opens it logged in."""

from __future__ import annotations

import os
import sys
import webbrowser

import httpx2

ANSWER_S = 10.0


def login_link(url: str, secret: str) -> str:
    """What stands behind the `#` is not sent with the request, so it is in no log of the service."""
    return f"{url}/login#{secret}"


def open_dashboard(url: str, token: str) -> bool:
    """Opens it in the user's browser. False if there is none.

    Other users of this machine see how programs are called, so the browser is given a code that can be used once.
    """
    if not _has_browser():
        return False
    answer = httpx2.post(
        f"{url}/login/codes", headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER_S, trust_env=False
    )
    answer.raise_for_status()
    return webbrowser.open(login_link(url, answer.json()["code"]))


def _has_browser() -> bool:
    """Without a display `webbrowser` would start one for terminals, in the middle of what the stack prints."""
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in shown)
