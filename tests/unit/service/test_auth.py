"""Tokens: who may ask, and who sees what."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import JobState
from ladle_contracts.tokens import Scope, StoredToken, TokensFileError, hash_token
from ladle_service import auth
from ladle_service.auth import TokenBook, Tokens
from tests.unit.service.fakes import Service, make_service, node
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def guarded(tmp_path: Path) -> Service:
    """With the tokens of two people."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# people\nann:{hash_token('ann-token')}\n\nbob:{hash_token('bob-token')}\n")
    return make_service(tmp_path / "service", tokens_file=tokens)


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", "Bearer", "Basic YTpi", "ann-token", "Bearer ann-token x"]
)
def test_every_job_address_needs_a_valid_token(guarded: Service, run_async: RunAsync, header: str | None) -> None:
    async def use() -> None:
        headers = {"Authorization": header} if header is not None else {}
        async with guarded.client(**headers) as client:
            for method, path in (
                ("GET", "/v1/jobs"),
                ("POST", "/v1/jobs"),
                ("GET", "/v1/jobs/job1"),
                ("GET", "/v1/jobs/job1/events"),
                ("POST", "/v1/jobs/job1/cancel"),
                ("DELETE", "/v1/jobs/job1"),
                ("GET", "/v1/nodes"),
                ("GET", "/v1/methods"),
                ("GET", "/v1/tasks"),
            ):
                answer = await client.request(method, path)
                assert problem_of(answer)[:2] == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"

    run_async(use())


def test_a_stored_hash_is_no_token(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client(token=hash_token("ann-token")) as client:
            assert (await client.get("/v1/jobs")).status_code == 401

    run_async(use())


def test_health_needs_none(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client() as client:
            for path in ("/healthz", "/readyz", "/version"):
                assert (await client.get(path)).status_code == 200

    run_async(use())


def test_a_token_sees_its_own_jobs_and_the_others_do_not_exist(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client("ann-token") as ann, guarded.client("bob-token") as bob:
            key = {"Idempotency-Key": "the-same-key"}
            assert (await ann.post("/v1/jobs", json=guarded.spec(), headers=key)).json()["id"] == "job1"
            # Keys are each token's own, too.
            assert (await bob.post("/v1/jobs", json=guarded.spec(seed=1), headers=key)).json()["id"] == "job2"
            assert [job["id"] for job in (await ann.get("/v1/jobs")).json()["jobs"]] == ["job1"]
            missing = problem_of(await bob.get("/v1/jobs/nothing"))
            guarded.store.move("job1", JobState.FAILED)
            for method, path in (
                ("GET", "/v1/jobs/job1"),
                ("GET", "/v1/jobs/job1/events"),
                ("GET", "/v1/jobs/job1/logs"),
                ("GET", "/v1/jobs/job1/result"),
                ("POST", "/v1/jobs/job1/cancel"),
                ("DELETE", "/v1/jobs/job1"),
            ):
                assert problem_of(await bob.request(method, path)) == missing, path
            assert "job1" in guarded.store.jobs

    run_async(use())


def test_which_job_a_node_is_busy_with_is_its_owners_business(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client("ann-token") as ann, guarded.client("bob-token") as bob:
            await ann.post("/v1/jobs", json=guarded.spec())
            guarded.store.machines = [node("n1", job_id="job1"), node("n2")]
            assert [item["job_id"] for item in (await ann.get("/v1/nodes")).json()["nodes"]] == ["job1", None]
            assert [item["job_id"] for item in (await bob.get("/v1/nodes")).json()["nodes"]] == [None, None]

    run_async(use())


def test_every_hash_is_compared_whether_or_not_one_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(left: str, right: str) -> bool:
        compared.append(right)
        return left == right

    monkeypatch.setattr("ladle_service.auth.hmac.compare_digest", compare)
    book = TokenBook([StoredToken(name=name, digest=hash_token(name)) for name in ("a", "b", "c")])
    found = book.find("a")
    assert found is not None
    assert found.name == "a"
    assert len(compared) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has none"),
        ("# only a comment\n", "has none"),
        ("ann\n", "line 1"),
        (f"ann:{hash_token('x')}\nbob:plain-text-token\n", "line 2"),
        (f"Ann Smith:{hash_token('x')}\n", "line 1"),
        (f"ann:{hash_token('x')}\nbob:{hash_token('x')}\n", "twice"),
        (f"ann:{hash_token('x')} scope=root\n", "must have a scope of read, submit, admin"),
        (f"ann:{hash_token('x')} scope=read scope=admin\n", "each once"),
        (f"ann:{hash_token('x')} colour=red\n", "something else"),
        (f"ann:{hash_token('x')} expires=tomorrow\n", "times like"),
        (f"ann:{hash_token('x')} plain-text-token\n", "something else"),
        (f"ann:{hash_token('x').upper()}\n", "line 1"),
    ],
)
def test_a_tokens_file_that_is_wrong_stops_the_start_and_shows_no_secret(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(TokensFileError, match=message) as caught:
        Tokens(path)
    assert "plain-text-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8337"}, 202),
        ({"Host": "127.0.0.1:8337"}, 202),
        ({"Host": "[::1]:8337"}, 202),
        ({"Host": "127.0.0.1:8337", "Origin": "http://127.0.0.1:8337"}, 202),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1:8337", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:8337", "Origin": "http://127.0.0.1:9999"}, 403),
        ({"Host": "127.0.0.1:8337", "Origin": "null"}, 403),
        ({"Host": "["}, 403),
    ],
)
def test_without_tokens_web_pages_of_other_sites_are_kept_out(
    service: Service, run_async: RunAsync, headers: dict[str, str], status: int
) -> None:
    async def use() -> None:
        async with service.client(**headers) as client:
            assert (await client.post("/v1/jobs", json=service.spec())).status_code == status

    run_async(use())


def test_reading_by_dns_rebinding_is_kept_out_too(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client(Host="evil.example") as client:
            assert problem_of(await client.get("/v1/jobs"))[:2] == (403, "forbidden")

    run_async(use())
