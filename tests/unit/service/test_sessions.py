"""Sessions of the dashboard: who is in, and what a browser may be made to do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ladle_contracts import JobState
from ladle_contracts.tokens import Scope, StoredToken, hash_token
from ladle_service import auth
from ladle_service.sessions import CSRF_HEADER
from tests.polling import DEADLINE_S
from tests.unit.service.fakes import Service, make_service
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
HTML = {"Accept": "text/html"}


def lines_of(*tokens: StoredToken) -> str:
    return "".join(f"{token.line()}\n" for token in tokens)


ELSEWHERE = ("//evil.example", "/\\evil.example", "https://evil.example", "/\tx", "javascript:x", "")
ANN = StoredToken(name="ann", digest=hash_token("ann-token"))
EVE = StoredToken(name="eve", digest=hash_token("eve-token"), scope=Scope.READ)


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(lines_of(ANN, EVE))
    return path


@pytest.fixture
def guarded(tmp_path: Path, tokens_file: Path) -> Service:
    return make_service(tmp_path / "service", tokens_file=tokens_file)


async def csrf_on(client: httpx2.AsyncClient, path: str) -> str:
    """What the forms of a page have."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', (await client.get(path, headers=HTML)).text)
    assert found is not None
    return found[1]


async def log_in(client: httpx2.AsyncClient, token: str) -> str:
    """The CSRF token of the session."""
    form = {"csrf": await csrf_on(client, "/login"), "token": token, "next": "/"}
    answer = await client.post("/login", data=form, headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return await csrf_on(client, "/")


def test_a_session_reads_like_its_token_and_its_cookie_is_for_our_pages_only(
    guarded: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            assert problem_of(await client.get("/v1/jobs"))[0] == 401
            await log_in(client, "ann-token")
            assert (await client.get("/v1/jobs")).status_code == 200
            cookie = (await client.post("/login", headers=HTML)).request.headers["cookie"]
            assert "ann-token" not in cookie
        async with guarded.client() as stranger:
            [set_cookie] = (await stranger.get("/login", headers=HTML)).headers.get_list("set-cookie")
        assert "HttpOnly" in set_cookie
        assert "samesite=strict" in set_cookie.lower()
        assert "Secure" not in set_cookie

    run_async(use())


def test_over_tls_the_cookie_is_secure_and_of_this_host_alone(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            answer = await client.get("https://localhost/login", headers=HTML)
        [set_cookie] = answer.headers.get_list("set-cookie")
        assert set_cookie.startswith("__Host-ladle=")
        assert "Secure" in set_cookie
        assert "Path=/" in set_cookie

    run_async(use())


def test_a_session_changes_nothing_without_what_only_our_pages_know(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            csrf = await log_in(client, "ann-token")
            for headers in ({}, {CSRF_HEADER: ""}, {CSRF_HEADER: "0" * 64}, {CSRF_HEADER: csrf[:-1]}):
                answer = await client.post("/v1/jobs", json=guarded.spec(), headers=headers)
                assert problem_of(answer)[:2] == (403, "forbidden")
            assert (await client.post("/jobs/job1/cancel", data={"csrf": "0" * 64})).status_code == 403
            assert not guarded.store.jobs
            sent = await client.post("/v1/jobs", json=guarded.spec(), headers={CSRF_HEADER: csrf})
            assert sent.status_code == 202
            done = await client.post("/jobs/job1/cancel", data={"csrf": csrf}, headers=HTML)
            assert done.status_code == 303
            assert guarded.store.jobs["job1"].state is JobState.CANCELLED

    run_async(use())


def test_another_sites_script_cannot_use_the_session(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            csrf = await log_in(client, "ann-token")
            for site in ("cross-site", "same-site"):
                headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", CSRF_HEADER: csrf}
                assert problem_of(await client.get("/v1/jobs", headers=headers))[0] == 401

    run_async(use())


def test_without_tokens_forms_need_it_too(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            assert problem_of(await client.post("/jobs/job1/cancel"))[:2] == (403, "forbidden")
            csrf = await csrf_on(client, "/jobs/job1")
            assert (await client.post("/jobs/job1/cancel", data={"csrf": csrf})).status_code == 303

    run_async(use())


def test_a_session_ends_when_its_token_is_revoked_or_expires(
    guarded: Service, tokens_file: Path, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "RECHECK_S", 0.0)
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    expired = StoredToken(name="ann", digest=ANN.digest, expires=past)

    async def use() -> None:
        async with guarded.client() as client:
            await log_in(client, "ann-token")
            for others in (lines_of(EVE), lines_of(EVE, expired)):
                await asyncio.to_thread(tokens_file.write_text, others)
                assert problem_of(await client.get("/v1/jobs"))[0] == 401
            await asyncio.to_thread(tokens_file.write_text, lines_of(ANN, EVE))
            assert (await client.get("/v1/jobs")).status_code == 200

    run_async(use())


def test_a_token_that_may_only_read_logs_in_and_changes_nothing(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            csrf = await log_in(client, "eve-token")
            answer = await client.post("/v1/jobs", json=guarded.spec(), headers={CSRF_HEADER: csrf})
            assert problem_of(answer)[:2] == (403, "forbidden")

    run_async(use())


def test_logging_in_and_out_each_make_a_new_session(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            await client.get("/login", headers=HTML)
            before = dict(client.cookies)
            csrf = await log_in(client, "ann-token")
            inside = dict(client.cookies)
            await client.post("/logout", data={"csrf": csrf})
            assert before != inside != dict(client.cookies)
            assert not guarded.store.sessions
            client.cookies = httpx2.Cookies(inside)
            assert problem_of(await client.get("/v1/jobs"))[0] == 401

    run_async(use())


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_login_leads_to_no_other_site(guarded: Service, run_async: RunAsync, path: str) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            form = {"csrf": await csrf_on(client, "/login"), "token": "ann-token", "next": path}
            assert (await client.post("/login", data=form)).headers["location"] == "/"

    run_async(use())


def test_a_code_logs_in_once(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client("ann-token") as program:
            code = (await program.post("/login/codes")).json()["code"]
        async with guarded.client() as client:
            await log_in(client, code)
            assert (await client.get("/v1/jobs")).status_code == 200
        async with guarded.client() as client:
            form = {"csrf": await csrf_on(client, "/login"), "token": code, "next": "/"}
            assert (await client.post("/login", data=form)).status_code == 401

    run_async(use())


def test_a_link_on_another_site_does_not_end_the_session(guarded: Service, run_async: RunAsync) -> None:
    """Browsers keep a strict cookie back then, and an answer without it must not set another one."""

    async def use() -> None:
        headers = {**HTML, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        async with guarded.client() as client:
            for path, led_to in (
                *((path, path) for path in ("/", "/jobs/x?a=1", "/login", "/nothing")),
                *(("//evil.example", "/"), ("/%5Cevil.example", "/%5Cevil.example")),
            ):
                answer = await client.get(f"http://localhost{path}", headers=headers)
                assert "set-cookie" not in answer.headers
                assert f'url={led_to}"' in answer.text

    run_async(use())


def test_an_open_stream_ends_when_its_page_logs_out(
    guarded: Service, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "SESSION_LOOK_S", 0.0)

    async def use() -> None:
        async with guarded.client() as client:
            csrf = await log_in(client, "ann-token")
            await client.post("/v1/jobs", json=guarded.spec(), headers={CSRF_HEADER: csrf})
            streaming = asyncio.create_task(client.get("/v1/jobs/job1/events", headers={"Accept": "text/event-stream"}))
            async with asyncio.timeout(DEADLINE_S):
                while not guarded.store.followers:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                async with guarded.client() as other_tab:
                    other_tab.cookies = client.cookies
                    await other_tab.post("/logout", data={"csrf": csrf})
                assert (await streaming).status_code == 200

    run_async(use())


@pytest.mark.parametrize("host", ["a:b", "[x", "", "localhost:99999999", "a b", "[::1]:8337"])
def test_any_host_header_gets_an_answer_with_a_code(guarded: Service, run_async: RunAsync, host: str) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            assert problem_of(await client.get("/v1/jobs", headers={"Host": host}))[:2] == (401, "unauthorized")
            assert (await client.get("/login", headers={"Host": host, **HTML})).status_code == 200
            assert (await client.get("/", headers={"Host": host, **HTML})).headers["location"] == "/login"

    run_async(use())
