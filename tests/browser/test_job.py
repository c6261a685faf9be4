"""One job, in a browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ladle_contracts import JobState, keys
from tests.browser import jobs_made
from tests.browser.jobs_made import HOSTILE
from tests.browser.pages import Visit
from tests.integration.api_stack import ScriptedNode, Stack, is_ready
from tests.polling import until


def state_of(stack: Stack, job_id: str) -> str:
    with stack.server.client() as redis:
        return str(redis.hget(keys.job(job_id), "state"))


@pytest.mark.slow
def test_a_job_is_watched_from_its_submit_to_its_report(visit: Visit, stack: Stack, node: ScriptedNode) -> None:
    job_id = jobs_made.submit(stack, output={"name": "watched"}, labels={"run": "night"})
    page = visit.open(f"/jobs/{job_id}")
    summary, stages = page.locator("#summary"), page.locator("#stages")
    attempt = jobs_made.begin(node, job_id)
    expect(summary).to_contain_text("running")
    expect(stages).to_contain_text("Evaluate the checkpoints")
    expect(page.locator("#about")).to_contain_text("456 MB per rank of 12.3 GB")
    jobs_made.train(node, job_id, attempt, range(0, 120, 10))
    expect(page.locator("#step-words")).to_contain_text("110 of 200, 27 s left")
    expect(page.locator("#curve-words")).to_contain_text("twa: 0.2540 at step 110")
    assert page.locator("#plot canvas").count() == 1
    jobs_made.judge(node, job_id, attempt, *jobs_made.candidates()[:2])
    expect(page.get_by_role("img", name="Gain of each candidate")).to_contain_text("uniform (8)")
    jobs_made.warn(node, job_id, attempt, "The select split is small.")
    expect(page.locator("#warnings")).to_contain_text("The select split is small.")
    visit.check_accessibility()
    visit.check_phone_width()
    folder = stack.folder / "results" / "watched"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>What came out</h1><script>document.title = 'taken over'</script>")
    node.succeed(job_id, attempt, jobs_made.result(str(folder)))
    expect(summary).to_contain_text("Accuracy 94.8 % instead of 91.5 % of your best checkpoint")
    expect(page).to_have_title(f"Succeeded: job {job_id} · Ladle")
    visit.check_accessibility()
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("heading", name="What came out")).to_be_visible()
    assert page.title() != "taken over"
    assert page.evaluate("window.origin") == "null", "the report must not have the dashboard's rights"
    visit.complaints.clear()  # Chromium tells that it has kept the script from running


@pytest.mark.slow
def test_a_result_that_the_service_cannot_see_is_said(visit: Visit, stack: Stack, node: ScriptedNode) -> None:
    job_id = jobs_made.submit(stack)
    attempt = jobs_made.begin(node, job_id)
    node.succeed(job_id, attempt, jobs_made.result("/elsewhere/resnet50"))
    page = visit.open(f"/jobs/{job_id}/report")
    expect(page.get_by_role("main")).to_contain_text("ladle report /elsewhere/resnet50 --open")
    visit.check_accessibility()


def test_a_job_is_cancelled(visit: Visit, stack: Stack) -> None:
    job_id = jobs_made.submit(stack)
    page = visit.open(f"/jobs/{job_id}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator("#summary")).to_contain_text("cancelled")
    assert state_of(stack, job_id) == JobState.CANCELLED
    expect(page.get_by_role("button", name="Cancel job")).to_have_count(0)


def test_a_hidden_page_gives_its_stream_back_and_goes_on_where_it_was(
    visit: Visit, stack: Stack, node: ScriptedNode
) -> None:
    """Browsers have few connections to a service, and a stream is one."""
    job_id = jobs_made.submit(stack)
    attempt = jobs_made.begin(node, job_id)
    page = visit.open(f"/jobs/{job_id}")
    jobs_made.train(node, job_id, attempt, range(0, 30, 10))
    words = page.locator("#curve-words")
    expect(words).to_contain_text("at step 20")
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    page.evaluate("document.getElementById('curve-words').textContent = ''")
    jobs_made.train(node, job_id, attempt, range(30, 60, 10))
    with stack.client() as client:
        until(lambda: client.job(job_id).status().progress.step == 50, what="the steps to be known")
    assert words.inner_text() == ""
    page.evaluate(hide, False)
    expect(words).to_contain_text("at step 50")


@pytest.mark.slow
def test_the_page_comes_back_after_the_service_was_restarted(visit: Visit, stack: Stack, node: ScriptedNode) -> None:
    job_id = jobs_made.submit(stack)
    attempt = jobs_made.begin(node, job_id)
    page = visit.open(f"/jobs/{job_id}")
    jobs_made.train(node, job_id, attempt, range(0, 30, 10))
    expect(page.locator("#curve-words")).to_contain_text("at step 20")
    stack.process.stop()
    expect(page.locator("#connection")).to_contain_text("Reconnecting")
    jobs_made.train(node, job_id, attempt, range(30, 60, 10))
    stack.process.start()
    until(lambda: is_ready(stack), what="the service to be ready again")
    expect(page.locator("#curve-words")).to_contain_text("at step 50")
    expect(page.locator("#connection")).to_be_hidden()
    jobs_made.fail(node, job_id, attempt, "`step-250` must be a complete safetensors file, but ends early.")
    expect(page.locator("#summary")).to_contain_text("ends early")
    expect(page.locator("#stages")).to_contain_text("Ended in: Choose coefficients")
    visit.check_accessibility()


def test_the_log_is_searched_and_hostile_names_are_text(visit: Visit, stack: Stack, node: ScriptedNode) -> None:
    job_id = jobs_made.submit(stack, labels={HOSTILE[:4]: HOSTILE})
    attempt = jobs_made.begin(node, job_id, names=("step-1", HOSTILE))
    jobs_made.warn(node, job_id, attempt, HOSTILE)
    hostile = [each.model_copy(update={"label": HOSTILE}) for each in jobs_made.candidates()]
    jobs_made.judge(node, job_id, attempt, *hostile)
    node.report(job_id, attempt, lines=(HOSTILE, "loss 0.25", "loss 0.24", "done"))
    page = visit.open(f"/jobs/{job_id}")
    expect(page.locator("#log-lines")).to_contain_text("<script>alert(2)</script>")
    page.get_by_label("Search the log").fill("loss")
    expect(page.locator("#log-lines mark")).to_have_count(2)
    expect(page.locator("#log-found")).to_have_text("2 of 6 lines")
    for part in ("#warnings", "#candidates", "#about"):
        expect(page.locator(part)).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("img[src=x]").count() == 0
    assert "\u202e" not in page.get_by_role("main").inner_text()
    visit.check_accessibility()
    visit.check_phone_width()


def test_what_is_not_there_is_a_page_with_the_code(visit: Visit) -> None:
    for path, code in (("/jobs/unknown", "not-found"), ("/nothing", "not-found"), ("/?page=0", "invalid-request")):
        page = visit.open(path)
        expect(page.get_by_role("main")).to_contain_text(code)
        visit.check_accessibility()
