"""The list of jobs, in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as ChromiumBrowser
from playwright.sync_api import expect

from ladle_contracts import keys
from tests.browser import jobs_made
from tests.browser.conftest import TOKENS
from tests.browser.jobs_made import HOSTILE
from tests.browser.pages import Visit, visiting
from tests.integration.api_stack import ScriptedNode, Stack, api_stack

MANY = 1000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with a thousand jobs that have ended, written as the scripts write them."""
    with api_stack(tmp_path_factory.mktemp("crowded")) as made, made.server.client() as redis:
        spec = json.dumps({**made.body, "labels": {"sweep": "night"}})
        for number in range(MANY):
            job_id, moment = f"job{number:04}", 1_764_000_000_000 + number * 1000
            gain = (number % 97) / 1000
            result = jobs_made.result(f"/results/run-{number:04}", gain=gain, gain_low=gain / 2, gain_high=gain * 2)
            fields = {"id": job_id, "owner": "local", "spec": spec, "state": "succeeded", "created_at": moment}
            times = {"started_at": moment, "finished_at": moment + 60_000}
            counts = {"attempt": 1, "failures": 0, "max_failures": 3, "nodes": "[]"}
            named = {"output": f"run-{number:04}", "result": result.model_dump_json()}
            redis.hset(keys.job(job_id), mapping=fields | times | counts | named)
            redis.zadd(keys.JOBS, {job_id: moment})
        yield made


def test_before_the_first_job_it_says_how_to_submit_one(visit: Visit) -> None:
    page = visit.open()
    assert "ladle submit" in page.get_by_role("main").inner_text()
    visit.check_accessibility()
    visit.check_phone_width()


def test_a_job_appears_and_changes_without_loading_the_page_again(
    visit: Visit, stack: Stack, node: ScriptedNode
) -> None:
    page = visit.open()
    page.evaluate("window.mark = 1")
    job_id = jobs_made.submit(stack, labels={"run": "first", HOSTILE[:4]: HOSTILE})
    row = page.get_by_role("row").filter(has=page.locator(f"#job-{job_id}"))
    expect(row).to_be_visible()
    page.locator(f"#job-{job_id}").focus()
    attempt = jobs_made.begin(node, job_id)
    expect(row).to_contain_text("running")
    jobs_made.train(node, job_id, attempt, range(0, 50, 10))
    expect(row).to_contain_text("Choose coefficients: twa")
    node.succeed(job_id, attempt, jobs_made.result("/results/x"))
    expect(row).to_contain_text("accuracy 3.27 points higher")
    assert page.evaluate("window.mark") == 1
    assert page.evaluate("document.activeElement.id") == f"job-{job_id}"
    expect(row).to_contain_text("<img src=x onerror=alert(1)></script><script>alert(2)</script>")
    assert page.locator("img[src=x]").count() == 0
    visit.check_accessibility()
    visit.check_phone_width()


@pytest.mark.slow
def test_two_people_do_not_see_each_others_jobs_and_an_admin_sees_whose_they_are(
    chromium: ChromiumBrowser, guarded: Stack
) -> None:
    owned = {name: jobs_made.submit(guarded, f"{name}-token") for name in ("ann", "bob")}
    for name in TOKENS:
        with visiting(chromium, guarded.url) as visit:
            page = visit.log_in(name)
            seen = {owner for owner, job_id in owned.items() if page.locator(f"#job-{job_id}").count()}
            assert seen == {"root": {"ann", "bob"}, "eve": set()}.get(name, {name})
            assert (page.get_by_role("columnheader", name="Owner").count() == 1) == (name == "root")
            visit.open(f"/jobs/{owned['bob']}")
            assert ("There is no such job" in page.get_by_role("main").inner_text()) == (name in ("ann", "eve"))


@pytest.mark.slow
def test_a_thousand_jobs_are_paged_searched_filtered_and_sorted(chromium: ChromiumBrowser, crowded: Stack) -> None:
    with visiting(chromium, crowded.url) as visit:
        page = visit.open()
        assert page.locator("td.job").count() == 50
        assert page.locator("td.job a").first.inner_text() == "run-0999"
        page.get_by_role("link", name="Older").click()
        assert page.locator("td.job a").first.inner_text() == "run-0949"
        page.get_by_role("link", name="Outcome").click()
        assert "9.60 points higher" in page.locator("td.outcome").first.inner_text()
        page.keyboard.press("/")
        page.keyboard.type("night run-0123")
        expect(page.locator("td.job")).to_have_count(1)
        assert page.locator("td.job a").inner_text() == "run-0123"
        expect(page.locator("#found")).to_have_text("1 job found")
        assert "q=night+run-0123" in page.url
        page.get_by_role("link", name="Failed 0").click()
        assert "No job is like that" in page.get_by_role("main").inner_text()
        visit.open("/?page=20")
        visit.check_accessibility()
        visit.check_phone_width()


def test_a_link_on_another_site_leads_to_the_page_with_the_session(ann: Visit) -> None:
    page = ann.log_in("ann")
    link = f'<a href="{ann.url}/?state=failed">jobs</a>'
    page.route("http://elsewhere.test/", lambda route: route.fulfill(body=link, content_type="text/html"))
    page.goto("http://elsewhere.test/")
    page.get_by_role("link").click()
    page.wait_for_url(f"{ann.url}/?state=failed")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
