"""Logging in and out, in a browser."""

from __future__ import annotations

from tests.browser.pages import Visit
from tests.integration.api_stack import Stack


def test_a_wrong_token_is_told_and_a_right_one_opens_the_page_that_was_asked_for(ann: Visit) -> None:
    page = ann.open("/jobs/unknown")
    assert page.get_by_role("heading", name="Log in").is_visible()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    assert "no token of this service" in page.get_by_role("alert").inner_text()
    ann.check_accessibility()
    page.get_by_label("Token").fill("ann-token")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(ann.url + "/jobs/unknown")
    assert "not-found" in page.get_by_role("main").inner_text()


def test_who_logs_out_is_out_with_the_old_cookie_too(ann: Visit) -> None:
    page = ann.log_in("ann")
    cookies = page.context.cookies()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(ann.url + "/login")
    page.context.clear_cookies()
    page.context.add_cookies(cookies)  # type: ignore[arg-type]  # what it gave
    ann.open("/")
    assert page.url == ann.url + "/login"


def test_a_token_behind_the_hash_logs_in_and_disappears(ann: Visit) -> None:
    page = ann.open("/login#ann-token")
    page.wait_for_url(ann.url + "/")
    assert page.get_by_text("ann", exact=True).is_visible()


def test_without_tokens_nobody_has_to_log_in(visit: Visit, stack: Stack) -> None:
    page = visit.open("/login")
    assert page.url == stack.url + "/"
    assert page.get_by_role("button", name="Log out").count() == 0
    visit.check_accessibility()
    visit.check_phone_width()
