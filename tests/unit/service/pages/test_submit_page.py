"""The addresses behind the form: who may use them, what makes a job, and what stays as it was typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from html import unescape
from typing import Any

import httpx2
import pytest

from ladle_contracts import ErrorCode
from tests.unit.service.fakes import Service
from tests.unit.service.pages.catalogs import CATALOG

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
HTML = {"Accept": "text/html"}


async def opened(client: httpx2.AsyncClient, path: str = "/submit") -> dict[str, str]:
    """The hidden fields of the form."""
    text = (await client.get(path, headers=HTML)).text
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', text)}


def paths(service: Service) -> dict[str, str]:
    return {"ckpt_dir": str(service.data / "checkpoints"), "val_set": str(service.data / "val")}


def test_a_form_that_is_sent_twice_makes_one_job_and_a_changed_one_another(
    service: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client() as client:
            form = {**await opened(client), **paths(service)}
            first = await client.post("/submit", data=form, headers=HTML)
            again = await client.post("/submit", data=form, headers=HTML)
            other = await client.post("/submit", data={**form, "seed": "1"}, headers=HTML)
        assert first.status_code == 303
        assert first.headers["location"] == again.headers["location"] == "/jobs/job1"
        assert other.headers["location"] == "/jobs/job2"

    run_async(use())


@pytest.mark.parametrize("path", ["/submit", "/submit/draft", "/nodes/node-1/drain"])
def test_what_another_page_sends_is_refused(service: Service, run_async: RunAsync, path: str) -> None:
    async def use() -> None:
        async with service.client() as client:
            await opened(client)
            for form in (paths(service), {**paths(service), "csrf": "0" * 64}):
                answer = await client.post(path, data=form, headers=HTML)
                assert answer.status_code == 403
                assert ErrorCode.FORBIDDEN in answer.text
        assert not service.store.jobs

    run_async(use())


TYPED = {
    "checkpoints.steps": "1, two",
    "labels": "who=<script>alert(1)</script>\nno sign",
    "method.name": "twa",
    "method.options.steps": '"><img src=x>',
    "task.name": "no-such-task",
    "metric": "no-such-metric",
    "resources.nodes": "zwei",
    "output.name": "not a name/",
    "checkpoints.take_from": "x",
    "judge_by": "a=b",
    "adapters.rank": "9" * 5000,
    "train_set.use": "coefficients",
}


def test_whatever_is_typed_stays_and_each_mistake_is_told_once(service: Service, run_async: RunAsync) -> None:
    service.store.known = CATALOG

    async def use() -> None:
        async with service.client() as client:
            form = {**await opened(client), **paths(service), **TYPED}
            answer = await client.post("/submit", data=form, headers=HTML)
        assert answer.status_code == 422
        text = unescape(answer.text)
        for name, value in TYPED.items():
            assert f'name="{name}"' in text
            assert value in text
        assert "<img src=x>" not in answer.text
        assert "<script>alert" not in answer.text
        wrong = re.findall(r'id="error-f-([\w-]+)"', answer.text)
        assert wrong == list(dict.fromkeys(wrong))
        assert set(wrong) == {
            *("output-name", "method-options-steps", "checkpoints-steps", "checkpoints-take_from", "adapters-rank"),
            *("train_set-path", "judge_by", "resources-nodes", "labels"),
        }
        assert not service.store.jobs

    run_async(use())


def test_a_job_of_somebody_else_fills_no_form(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            for job_id in ("unknown", "../x", "", "a\0b"):
                answer = await client.get("/submit", params={"from": job_id}, headers=HTML)
                assert answer.status_code == (404 if job_id else 200)

    run_async(use())


def test_fields_come_from_the_address_and_unknown_ones_do_not(service: Service, run_async: RunAsync) -> None:
    service.store.known = CATALOG

    async def use() -> None:
        async with service.client() as client:
            answer = await client.get(
                "/submit", params={"method.name": "twa", "ckpt_dir": '"><b>', "csrf": "x", "evil": "y"}, headers=HTML
            )
        assert "<option selected>twa</option>" in answer.text
        assert '"><b>' not in answer.text
        assert "evil" not in answer.text

    run_async(use())


@pytest.mark.parametrize(
    "do",
    ["", "use:", "add:/x", "page:x", "page:99999999999999999999", "open:\0", "browse:", "close", "inspect", "what"],
)
def test_no_button_that_a_page_may_send_fails(service: Service, run_async: RunAsync, do: str) -> None:
    async def use() -> None:
        async with service.client() as client:
            for field in ("", "ckpt_dir", "nothing"):
                form = {**await opened(client), "do": do, "browser.field": field, "browser.path": "/etc"}
                assert (await client.post("/submit/draft", data=form, headers=HTML)).status_code == 200

    run_async(use())


def test_the_browser_says_which_roots_the_service_does_not_see(service: Service, run_async: RunAsync) -> None:
    (service.data / "val").rmdir()
    (service.data / "checkpoints").rmdir()
    service.data.rmdir()

    async def use() -> None:
        async with service.client() as client:
            form = {**await opened(client), "do": "browse:ckpt_dir"}
            answer = await client.post("/submit/draft", data=form, headers=HTML)
        assert "This service does not see it" in answer.text
        assert str(service.data) in answer.text

    run_async(use())


def test_the_audit_log_has_the_job_and_not_each_letter_of_the_form(
    service: Service, run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        async with service.client() as client:
            form = {**await opened(client), **paths(service)}
            for _ in range(3):
                await client.post("/submit/draft", data=form, headers=HTML)
            await client.post("/submit", data=form, headers=HTML)

    with caplog.at_level("INFO", logger="ladle_service.audit"):
        run_async(use())
    entries = [json.loads(each.message) for each in caplog.records if each.name == "ladle_service.audit"]
    assert [(entry["action"], entry.get("job"), entry["result"]) for entry in entries] == [("submit", "job1", "done")]
