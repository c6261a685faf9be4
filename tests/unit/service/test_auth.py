"""Tokens: who may ask, and who sees what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ladle_contracts import JobState
from ladle_contracts.tokens import Scope, StoredToken, TokensFileError, hash_token
from ladle_service import auth
from ladle_service.auth import TokenBook, Tokens
from tests.polling import DEADLINE_S
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


def stored(name: str, token: str, **fields: Any) -> StoredToken:
    return StoredToken(name=name, digest=hash_token(token), **fields)


CHANGES = (("POST", "/v1/jobs"), ("POST", "/v1/jobs/job1/cancel"), ("DELETE", "/v1/jobs/job1"))


def test_a_token_that_may_only_read_changes_nothing(tmp_path: Path, run_async: RunAsync) -> None:
    path = tmp_path / "tokens"
    path.write_text("\n".join(token.line() for token in (stored("ann", "a"), stored("ann", "r", scope=Scope.READ))))
    service = make_service(tmp_path / "service", tokens_file=path)

    async def use() -> None:
        async with service.client("a") as writer, service.client("r") as reader:
            await writer.post("/v1/jobs", json=service.spec())
            service.store.move("job1", JobState.FAILED)
            assert (await reader.get("/v1/jobs/job1")).json()["id"] == "job1", "the jobs of its name"
            for method, address in (*CHANGES, ("DELETE", "/v1/jobs/nothing")):
                answer = await reader.request(method, address, json=service.spec())
                assert problem_of(answer)[:2] == (403, "forbidden"), address
            assert list(service.store.jobs) == ["job1"]
            assert (await writer.delete("/v1/jobs/job1")).status_code == 204

    run_async(use())


def test_an_admin_sees_and_changes_everybodys_jobs(tmp_path: Path, run_async: RunAsync) -> None:
    path = tmp_path / "tokens"
    path.write_text("\n".join(token.line() for token in (stored("ann", "a"), stored("root", "r", scope=Scope.ADMIN))))
    service = make_service(tmp_path / "service", tokens_file=path)

    async def use() -> None:
        async with service.client("a") as ann, service.client("r") as admin:
            await ann.post("/v1/jobs", json=service.spec())
            await admin.post("/v1/jobs", json=service.spec(seed=1))
            service.store.machines = [node("n1", job_id="job1")]
            assert [job["id"] for job in (await admin.get("/v1/jobs")).json()["jobs"]] == ["job2", "job1"]
            assert [job["id"] for job in (await ann.get("/v1/jobs")).json()["jobs"]] == ["job1"]
            assert (await admin.get("/v1/nodes")).json()["nodes"][0]["job_id"] == "job1"
            assert (await admin.post("/v1/jobs/job1/cancel")).status_code == 202
            assert (await admin.delete("/v1/jobs/job1")).status_code == 204
            assert service.store.owners["job2"] == "root"

    run_async(use())


def test_a_token_ends_when_it_expires_and_its_owner_is_told(tmp_path: Path, run_async: RunAsync) -> None:
    path, now = tmp_path / "tokens", datetime.now(UTC)
    tokens = stored("ann", "old", expires=now), stored("ann", "new", expires=now + timedelta(hours=1))
    path.write_text("\n".join(token.line() for token in tokens))
    service = make_service(tmp_path / "service", tokens_file=path)

    async def use() -> None:
        async with service.client("old") as old, service.client("new") as new:
            status, code, detail = problem_of(await old.get("/v1/jobs"))[:3]
            assert (status, code) == (401, "unauthorized")
            assert "has expired" in detail
            assert (await new.get("/v1/jobs")).status_code == 200

    run_async(use())


class TokensFile:
    """A service whose tokens file changes, and is looked at again with every request."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auth, "RECHECK_S", 0.0)
        self.path = folder / "tokens"
        self.write(stored("ann", "a"), stored("bob", "b"))
        self.service = make_service(folder / "service", tokens_file=self.path)

    def write(self, *tokens: StoredToken) -> None:
        self.path.write_text("".join(f"{token.line()}\n" for token in tokens))

    async def allowed(self) -> str:
        """Which of the tokens a, b and c are taken."""
        taken = ""
        for token in "abc":
            async with self.service.client(token) as client:
                taken += token if (await client.get("/v1/jobs")).status_code == 200 else ""
        return taken


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokensFile:
    return TokensFile(tmp_path, monkeypatch)


def test_a_change_of_the_file_takes_effect_without_a_restart(changing: TokensFile, run_async: RunAsync) -> None:
    async def use() -> None:
        assert await changing.allowed() == "ab"
        changing.write(stored("ann", "a"), stored("carl", "c"))
        assert await changing.allowed() == "ac"
        replaced = changing.path.with_name("new")
        replaced.write_text(stored("bob", "b").line())
        replaced.replace(changing.path)
        assert await changing.allowed() == "b"
        changing.write()
        assert await changing.allowed() == "", "emptied: everybody is refused"
        changing.write(stored("ann", "a"))
        assert await changing.allowed() == "a"

    run_async(use())


@pytest.mark.parametrize("content", [b"half a line", b"ann:\xff\xfe", None])
def test_a_file_that_is_wrong_keeps_the_old_tokens_and_is_told_once(
    changing: TokensFile, run_async: RunAsync, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    async def use() -> None:
        changing.path.unlink() if content is None else changing.path.write_bytes(content)
        for _ in range(3):
            assert await changing.allowed() == "ab"
        told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(told) == 1
        assert "the old tokens stay valid" in told[0]
        assert "half a line" not in told[0]
        changing.write(stored("carl", "c"))
        assert await changing.allowed() == "c"

    run_async(use())


def test_the_last_use_is_written_now_and_then_and_never_in_the_way(
    changing: TokensFile, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uses = changing.service.store.uses

    async def use() -> None:
        for _ in range(5):
            assert await changing.allowed() == "ab"
        assert {token for token, _ in uses} == {stored("ann", "a").id, stored("bob", "b").id}
        assert len(uses) == 2, "five requests within a minute"
        monkeypatch.setattr(auth, "USE_EVERY_S", 0.0)
        changing.service.store.note_use = _redis_is_gone  # type: ignore[method-assign]
        assert await changing.allowed() == "ab"
        await asyncio.sleep(0)
        assert "could not be written" in caplog.text

    run_async(use())


def test_an_open_stream_ends_when_its_token_is_revoked(changing: TokensFile, run_async: RunAsync) -> None:
    service = changing.service

    async def use() -> None:
        async with service.client("a") as client:
            await client.post("/v1/jobs", json=service.spec())
            address, headers = "/v1/jobs/job1/events", {"Accept": "text/event-stream"}
            asking = asyncio.create_task(client.get(address, headers=headers))
            while not service.store.followers:  # noqa: ASYNC110  the fake has no event for it
                await asyncio.sleep(0)
            changing.write(stored("bob", "b"))
            answer = await asyncio.wait_for(asking, DEADLINE_S)
            assert answer.status_code == 200
            assert (await client.get(address, headers=headers)).status_code == 401
        assert service.store.followers == 0

    run_async(use())


async def _redis_is_gone(token_id: str, seconds: int) -> None:
    raise RedisConnectionError


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
        ({"Host": "LOCALHOST:8337"}, 202),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example@127.0.0.1"}, 403),
        ({"Host": "127.0.0.1/.evil.example"}, 403),
        ({"Host": "127.0.0.1#.evil.example"}, 403),
        ({"Host": "127.0.0.1,evil.example"}, 403),
        ({"Host": "localhost."}, 403),
        ({"Host": "0.0.0.0:8337"}, 403),
        ({"Host": "2130706433"}, 403),
        ({"Host": "[::]:8337"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:8337", "Origin": "https://localhost:8337"}, 403),
        ({"Host": "localhost:8337", "Origin": "localhost:8337"}, 403),
        ({"Host": "localhost:8337", "Origin": "http://localhost:8337.evil.example"}, 403),
        ({"Host": "localhost:8337", "Origin": ""}, 403),
        ({"Host": "localhost:8337", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Host": "localhost:8337", "Sec-Fetch-Site": "none"}, 202),
        ({"Host": "localhost:8337", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "localhost:8337", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_without_tokens_web_pages_of_other_sites_are_kept_out(
    service: Service, run_async: RunAsync, headers: dict[str, str], status: int
) -> None:
    async def use() -> None:
        async with service.client(**headers) as client:
            assert (await client.post("/v1/jobs", json=service.spec())).status_code == status

    run_async(use())


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "localhost"), ("Host", "evil.example")],
        [("Host", "evil.example"), ("Host", "localhost")],
        [("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "https://evil.example")],
    ],
)
def test_a_header_sent_twice_does_not_hide_the_other(
    service: Service, run_async: RunAsync, headers: list[tuple[str, str]]
) -> None:
    async def use() -> None:
        async with service.client() as client:
            request = client.build_request("POST", "/v1/jobs", json=service.spec())
            del request.headers["host"]
            request.headers = httpx2.Headers([*request.headers.multi_items(), *headers])
            assert problem_of(await client.send(request))[:2] == (403, "forbidden")

    run_async(use())


def test_a_page_of_another_site_reads_nothing_either(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client(**{"Sec-Fetch-Site": "cross-site"}) as client:
            for path in ("/v1/jobs", "/healthz", "/openapi.json"):
                assert problem_of(await client.get(path))[:2] == (403, "forbidden")

    run_async(use())


def test_reading_by_dns_rebinding_is_kept_out_too(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client(Host="evil.example") as client:
            assert problem_of(await client.get("/v1/jobs"))[:2] == (403, "forbidden")

    run_async(use())
