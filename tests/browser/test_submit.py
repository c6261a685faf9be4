"""The form of a job, with a real worker: from a folder of checkpoints to a result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.pages import Visit, visiting
from tests.builders import make_inputs
from tests.integration.api_stack import Stack
from tests.polling import DEADLINE_S, SOON_S, until
from tests.servers import running, worker_process

HOSTILE = "<img src=x onerror=alert(1)>"
expect.set_options(timeout=SOON_S * 1000)


@pytest.fixture(scope="module", autouse=True)
def data(stack: Stack) -> Iterator[Path]:
    """The allowed folder, with checkpoints in it, and a worker that knows its methods and tasks."""
    folder = stack.folder / "data"
    make_inputs(folder / "digits")
    for number in range(120):
        (folder / "checkpoints" / f"step-{number}").mkdir()
    (folder / "val" / HOSTILE).mkdir()
    (folder / "val" / HOSTILE / f"{HOSTILE}.safetensors").write_bytes(b"no header")
    with running(worker_process(stack.folder, stack.server, folder)), stack.client() as client:
        until(client.methods, what="the worker's methods")
        yield folder


def fill_paths(page: Page, data: Path) -> None:
    page.get_by_label("Checkpoints required").fill(str(data / "digits/checkpoints"))
    page.get_by_label("Validation set required").fill(str(data / "digits/val.npz"))


@pytest.mark.slow
def test_a_job_is_submitted_by_the_form_and_has_a_result(visit: Visit, data: Path, stack: Stack) -> None:
    page = visit.open("/submit")
    page.get_by_role("button", name="Browse for checkpoints").click()
    page.get_by_role("button", name="Open digits").click()
    page.get_by_role("button", name="Use checkpoints").click()
    expect(page.get_by_role("heading", name="A job can average these checkpoints")).to_be_visible()
    expect(page.get_by_role("region", name="Inspection").get_by_text("small-cnn")).to_be_visible()
    expect(page.get_by_label("Checkpoints required")).to_have_value(str(data / "digits/checkpoints"))
    page.get_by_role("button", name="Browse for validation set").click()
    page.get_by_role("button", name="Open digits").click()
    page.get_by_role("button", name="Use val.npz").click()
    page.get_by_label("Method", exact=True).select_option("last-k")
    page.get_by_text("Options of the method").click()
    page.get_by_label("K", exact=True).fill("2")
    page.get_by_label("Name of the result").fill("my-average")
    command = page.get_by_role("region", name="Command")
    expect(command).to_contain_text("--method-option k=2")
    expect(command).to_contain_text("--name my-average")
    expect(page.get_by_text(f"{stack.folder}/results/my-average")).to_be_visible()
    page.get_by_role("button", name="Submit the job").click()
    page.wait_for_url(re.compile("/jobs/[0-9a-f]+$"))
    expect(page.locator("#summary")).to_have_attribute("data-state", "succeeded", timeout=DEADLINE_S * 1000)
    assert (stack.folder / "results/my-average/report.json").is_file()
    with stack.client() as client:
        [job] = client.jobs()
    assert (job.spec.method.name, job.spec.method.options) == ("last-k", {"k": 2})


@pytest.mark.slow
def test_a_job_is_submitted_again_with_another_method(visit: Visit, data: Path, stack: Stack) -> None:
    with stack.client() as client:
        paths = data / "digits/checkpoints", data / "digits/val.npz"
        options = {"labels": {"who": HOSTILE}, "output": {"name": "first"}, "seed": 7}
        first = client.submit(*paths, method="uniform", **options)  # type: ignore[arg-type]  # its options
        page = visit.open(f"/jobs/{first.id}")
        page.get_by_role("button", name="Submit again").click()
        page.wait_for_url(re.compile("/submit"))
        expect(page.get_by_label("Seed")).to_have_value("7")
        expect(page.get_by_label("Labels")).to_have_value(f"who={HOSTILE}")
        expect(page.get_by_label("Name of the result")).to_have_value("")
        page.get_by_label("Method", exact=True).select_option("best")
        page.get_by_role("button", name="Submit the job").click()
        page.wait_for_url(re.compile("/jobs/[0-9a-f]+$"))
        again = client.job(page.url.rpartition("/")[2]).status().spec
        before = first.status().spec
    assert again.method.name == "best"
    assert (again.ckpt_dir, again.val_set, again.labels, again.seed) == (*map(str, paths), {"who": HOSTILE}, 7)
    assert before.method.name == "uniform"


def test_wrong_input_names_the_fields_and_keeps_everything(visit: Visit, data: Path) -> None:
    page = visit.open("/submit?method.name=twa")
    page.get_by_label("Checkpoints required").fill("/etc")
    page.get_by_label("Validation set required").fill(str(data / "digits/val.npz"))
    page.get_by_text("Options of the method").click()
    page.get_by_label("Steps", exact=True).first.fill("many")
    page.get_by_text("Machines and queue").click()
    page.get_by_label("Nodes", exact=True).fill("0")
    page.get_by_label("Labels").fill("no sign")
    page.get_by_role("button", name="Submit the job").click()
    summary = page.get_by_role("alert").filter(has=page.get_by_role("heading", name="The job was not submitted"))
    expect(summary).to_be_focused()
    expect(summary).to_contain_text("invalid-spec")
    links = summary.get_by_role("link")
    expect(links).to_have_text(["Steps", "Nodes", "Labels"])
    nodes = page.get_by_label("Nodes", exact=True)
    expect(nodes).to_have_value("0")
    expect(nodes).to_have_attribute("aria-invalid", "true")
    expect(nodes).to_have_accessible_description(re.compile("must be at least 1, but is 0"))
    visit.check_accessibility()
    page.get_by_label("Steps", exact=True).first.fill("3")
    nodes.fill("1")
    page.get_by_label("Labels").fill("a=b")
    page.get_by_role("button", name="Submit the job").click()
    expect(summary).to_contain_text("path-not-allowed")
    expect(page.get_by_label("Checkpoints required")).to_have_accessible_description(re.compile('but is "/etc"'))
    expect(page.get_by_label("Labels")).to_have_value("a=b")


def test_the_form_stays_when_the_service_does_not_answer(visit: Visit, data: Path) -> None:
    page = visit.open("/submit")
    fill_paths(page, data)
    page.route("**/submit", lambda route: route.abort())
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_text("What you have typed is still here")).to_be_visible()
    expect(page.get_by_label("Checkpoints required")).to_have_value(str(data / "digits/checkpoints"))


def test_a_folder_that_is_being_left_takes_no_clicks(visit: Visit, data: Path) -> None:
    page = visit.open("/submit")
    page.get_by_role("button", name="Browse for checkpoints").click()
    use = page.get_by_role("button", name="Use checkpoints")
    expect(use).to_be_visible()
    held: list[Route] = []
    page.route("**/submit/draft", lambda route: held.append(route))
    leave = page.get_by_role("button", name="Open digits")
    box = use.bounding_box()
    assert box is not None
    leave.click()
    expect(page.locator("[inert]").filter(has=use)).to_have_count(1)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.get_by_label("Checkpoints required")).to_have_value("")
    [request] = held
    request.abort()
    expect(page.get_by_text("What you have typed is still here")).to_be_visible()
    expect(use).to_be_visible()
    expect(leave).to_be_focused()
    page.unroute("**/submit/draft")
    leave.click()
    expect(page.get_by_role("button", name="Use val.npz")).to_be_visible()


def test_the_form_works_without_a_script(chromium: Browser, stack: Stack, data: Path) -> None:
    with visiting(chromium, stack.url, java_script_enabled=False) as visit:
        page = visit.open("/submit")
        page.get_by_label("Name of the result").fill("kept")
        page.get_by_label("Validation set required").fill(str(data / "digits/val.npz"))
        page.get_by_role("button", name="Browse for checkpoints").click()
        page.get_by_role("button", name="Open checkpoints").click()
        expect(page.get_by_text("Page 1 of 2")).to_be_visible()
        page.get_by_role("button", name="Next").click()
        expect(page.get_by_text("step-119")).to_be_visible()
        page.get_by_label("Filter by name").fill("P-11")
        page.get_by_label("Filter by name").press("Enter")
        expect(page.get_by_text("11 entries")).to_be_visible()
        page.get_by_role("button", name="Use this folder").click()
        expect(page.get_by_label("Checkpoints required")).to_have_value(str(data / "checkpoints"))
        page.get_by_role("button", name="Inspect the checkpoints").click()
        expect(page.get_by_role("heading", name="A job would refuse this folder")).to_be_visible()
        expect(page.get_by_label("Name of the result")).to_have_value("kept")
        page.get_by_label("Checkpoints required").fill("")
        page.get_by_role("button", name="Submit the job").click()
        expect(page.get_by_role("heading", name="The job was not submitted")).to_be_visible()
        expect(page.get_by_label("Name of the result")).to_have_value("kept")


@pytest.mark.slow
def test_hostile_names_are_text(visit: Visit, data: Path) -> None:
    page = visit.open("/submit")
    page.get_by_role("button", name="Browse for checkpoints").click()
    page.get_by_role("button", name="Open val").click()
    expect(page.get_by_role("button", name=f"Open {HOSTILE}")).to_be_visible()
    visit.check_accessibility()
    visit.check_phone_width()
    page.get_by_role("button", name=f"Use {HOSTILE}").click()
    expect(page.get_by_role("heading", name="A job would refuse this folder as it is")).to_be_visible()
    inspection = page.get_by_role("region", name="Inspection")
    expect(inspection.get_by_role("rowheader", name=f"{HOSTILE}.safetensors")).to_be_visible()
    expect(inspection.get_by_text("corrupt-checkpoint").first).to_be_visible()
    expect(page.get_by_role("region", name="Command")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    visit.check_accessibility()
    visit.check_phone_width()
