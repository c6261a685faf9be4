"""What every answer says to a browser."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ladle_service.middleware import HSTS, SECURITY_HEADERS
from tests.unit.service.fakes import Service, make_service

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/v1/jobs", {}, 200),
        ("GET", "/v1/jobs/nothing", {}, 404),
        ("GET", "/nothing", {}, 404),
        ("PUT", "/v1/jobs", {}, 405),
        ("GET", "/v1/jobs?x=1", {}, 422),
        ("GET", "/v1/jobs", {"Host": "evil.example"}, 403),
        ("POST", "/v1/jobs", {"Content-Length": "99999999", "Expect": "100-continue"}, 413),
        ("GET", "/v1/jobs/job1/events", {"Accept": "text/event-stream"}, 200),
    ],
)
def test_every_answer_has_the_headers(
    service: Service, run_async: RunAsync, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            await client.post("/v1/jobs/job1/cancel")
            answer = await client.request(method, path, headers=headers)
        assert answer.status_code == status
        assert {name: answer.headers.get_list(name) for name in SECURITY_HEADERS} == {
            name: [value] for name, value in SECURITY_HEADERS.items()
        }
        assert "strict-transport-security" not in answer.headers

    run_async(use())


def test_the_answer_to_a_mistake_of_ours_has_them_too(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        service.store.failure = RuntimeError("a bug")
        async with service.client() as client:
            answer = await client.get("/v1/jobs")
        assert answer.status_code == 500
        assert answer.headers["content-security-policy"] == SECURITY_HEADERS["Content-Security-Policy"]

    run_async(use())


def test_over_tls_a_browser_is_told_to_stay_there(tmp_path: Path, run_async: RunAsync) -> None:
    service = make_service(tmp_path, tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")

    async def use() -> None:
        async with service.client() as client:
            assert (await client.get("/healthz")).headers["strict-transport-security"] == HSTS

    run_async(use())
