"""The audit log: who changed what, and who was refused."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from logging.handlers import QueueListener
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from ladle_contracts import JobState
from ladle_contracts.repeats import Repeats
from ladle_contracts.tokens import Scope, StoredToken, hash_token
from ladle_service import audit
from tests.hostile import HOSTILE, unsafe_in
from tests.unit.service.fakes import Service, make_service

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
TOKENS = {"ann-token": Scope.SUBMIT, "reader-token": Scope.READ}


@dataclass
class Log:
    """The audit log's file."""

    path: Path
    writer: QueueListener

    def flush(self) -> None:
        self.writer.stop()
        self.writer.start()

    def text(self) -> str:
        """All that was written."""
        self.flush()
        return self.path.read_text()

    def entries(self) -> list[dict[str, Any]]:
        text = self.text()
        assert not unsafe_in(text)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    writer = audit.log_to(tmp_path / "audit.jsonl")
    yield Log(tmp_path / "audit.jsonl", writer)
    writer.stop()
    for handler in writer.handlers:
        handler.close()
    audit.logger.handlers.clear()
    audit.logger.propagate = True


@pytest.fixture
def service(tmp_path: Path) -> Service:
    tokens = tmp_path / "tokens"
    lines = [StoredToken(name="ann", digest=hash_token(token), scope=scope).line() for token, scope in TOKENS.items()]
    tokens.write_text("\n".join(lines))
    return make_service(tmp_path / "service", tokens_file=tokens)


def test_every_change_is_recorded_with_who_where_and_how_it_ended(
    service: Service, log: Log, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client("ann-token") as client:
            await client.get("/v1/jobs")
            await client.post("/v1/jobs", json=service.spec())
            await client.post("/v1/jobs", json={"ckpt_dir": HOSTILE})
            await client.post("/v1/jobs/job1/cancel")
            await client.post("/v1/jobs/job1/cancel")
            service.store.jobs["job1"] = service.store.jobs["job1"].model_copy(update={"state": JobState.CANCELLED})
            await client.delete("/v1/jobs/job1")
            await client.delete("/v1/jobs/job1")

    run_async(use())
    found = log.entries()
    told = [(entry["action"], entry["job"], entry["status"], entry["result"]) for entry in found]
    assert told == [
        ("submit", "job1", 202, "done"),
        ("submit", None, 422, "refused"),
        ("cancel", "job1", 202, "done"),
        ("cancel", "job1", 409, "refused"),
        ("delete", "job1", 204, "done"),
        ("delete", "job1", 404, "refused"),
    ]
    for entry in found:
        assert (entry["token"], entry["token_id"]) == ("ann", hash_token("ann-token")[:12])
        assert entry["client"] == "127.0.0.1"
        assert entry["time"].endswith("+00:00")
    assert "ann-token" not in log.text()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_refusals_are_recorded_whatever_was_asked_for(service: Service, log: Log, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client("guessed-token") as client:
            await client.get("/v1/jobs")
            await client.put("/v1/jobs/" + quote(HOSTILE, safe=""))
            await client.delete("/v1/jobs/" + "x" * 5000)
        async with service.client("reader-token") as client:
            await client.post("/v1/jobs", json=service.spec())

    run_async(use())
    first, hostile, long, reader = log.entries()
    assert (first["action"], first["method"], first["path"]) == ("request", "GET", "/v1/jobs")
    assert (first["token"], first["status"], first["result"]) == (None, 401, "refused")
    assert (hostile["action"], hostile["method"]) == ("request", "PUT")
    assert hostile["path"].startswith("/v1/jobs/run\x1b]8;;")
    assert len(long["path"]) == audit.LONGEST_PATH
    assert (reader["action"], reader["token"], reader["status"]) == ("submit", "ann", 403)
    assert "guessed-token" not in log.text()


def test_a_mistake_of_ours_is_recorded_as_a_failure(service: Service, log: Log, run_async: RunAsync) -> None:
    async def use() -> None:
        service.store.failure = RuntimeError("a bug")
        async with service.client("ann-token") as client:
            assert (await client.post("/v1/jobs/job1/cancel")).status_code == 500

    run_async(use())
    assert [(entry["action"], entry["status"], entry["result"]) for entry in log.entries()] == [
        ("cancel", 500, "failed")
    ]


def test_nobody_fills_the_disk_with_refusals(
    service: Service, log: Log, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = 0
    monkeypatch.setattr("ladle_service.audit.time.monotonic", lambda: second)

    async def use() -> None:
        nonlocal second
        async with service.client("guessed-token") as guessing, service.client("ann-token") as ann:
            for _ in range(audit.REFUSALS_PER_S + 30):
                await guessing.get("/v1/jobs")
            await ann.post("/v1/jobs", json=service.spec())
            second = 1
            await guessing.get("/v1/jobs")

    run_async(use())
    found = log.entries()
    assert len(found) == audit.REFUSALS_PER_S + 2, "changes are never left out"
    assert [entry.get("refusals_omitted") for entry in found[-2:]] == [30, None]


def test_without_a_file_it_goes_into_the_log(
    service: Service, run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        async with service.client("ann-token") as client:
            await client.post("/v1/jobs", json=service.spec())

    with caplog.at_level(logging.INFO):
        run_async(use())
    told = [record for record in caplog.records if record.name == "ladle_service.audit"]
    assert [json.loads(record.getMessage())["action"] for record in told] == ["submit"]
    often = Repeats(clock=lambda: 0.0)
    assert all(often.filter(told[0]) for _ in range(10_000)), "the filter of the log leaves none out"


def test_a_log_that_is_rotated_away_goes_on_in_a_new_file(service: Service, log: Log, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client("ann-token") as client:
            await client.post("/v1/jobs", json=service.spec())
            log.flush()
            log.path.rename(log.path.with_suffix(".1"))
            await client.post("/v1/jobs", json=service.spec(seed=1))

    run_async(use())
    assert '"job": "job1"' in log.path.with_suffix(".1").read_text()
    assert [entry["job"] for entry in log.entries()] == ["job2"]


def test_over_a_socket_there_is_no_address(service: Service, log: Log, run_async: RunAsync) -> None:
    async def use() -> None:
        transport = httpx2.ASGITransport(service.app, client=None)  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.get("/v1/jobs")

    run_async(use())
    assert log.entries()[0]["client"] is None


def test_who_logs_into_the_dashboard_is_recorded_without_the_token(
    service: Service, log: Log, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client() as client:
            for token in ("wrong", "ann-token"):
                form = (await client.get("/login")).text
                csrf = form.partition('name="csrf" value="')[2][:64]
                await client.post("/login", data={"csrf": csrf, "token": token, "next": "/"})

    run_async(use())
    found = [(entry["action"], entry["token"], entry["status"]) for entry in log.entries()]
    assert found == [("log in", None, 401), ("log in", "ann", 303)]
    assert "wrong" not in log.text()
    assert "ann-token" not in log.text()
