"""Whatever goes wrong leaves as a problem with a code, and nothing of the inside is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ladle_contracts import PROBLEM_TITLES, ErrorCode
from tests.unit.service.fakes import CATALOG, Service, node
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize(
    "error", [RedisConnectionError("x"), RedisTimeoutError("x"), BusyLoadingError("x"), OutOfMemoryError("x")]
)
def test_a_store_that_is_away_is_unavailable_and_worth_a_retry(
    service: Service, run_async: RunAsync, error: Exception
) -> None:
    service.store.failure = error

    async def use() -> None:
        async with service.client() as client:
            for path in ("/v1/jobs", "/v1/jobs/job1", "/readyz"):
                answer = await client.get(path)
                assert problem_of(answer)[:2] == (503, "unavailable")
                assert answer.headers["retry-after"] == "1"
            assert (await client.get("/healthz")).json() == {"status": "alive"}

    run_async(use())


@pytest.mark.parametrize("error", [ResponseError("WRONGTYPE secret"), ZeroDivisionError("secret"), KeyError("secret")])
def test_our_own_mistakes_are_internal_and_show_nothing(
    service: Service, run_async: RunAsync, error: Exception
) -> None:
    service.store.failure = error

    async def use() -> None:
        async with service.client() as client:
            answer = await client.get("/v1/jobs")
            assert problem_of(answer)[:2] == (500, "internal")
            assert "secret" not in answer.text

    run_async(use())


def test_a_client_that_leaves_while_it_sends_is_nobodys_mistake(service: Service, run_async: RunAsync) -> None:
    """Whatever the application raised, the server would log."""
    arriving = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": headers, "query_string": b""}
    sent: list[Any] = []

    async def receive() -> Any:
        return arriving.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def use() -> None:
        await service.app(scope, receive, send)

    run_async(use())
    assert sent[0]["status"] == 422


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/v1/jobs/", 404, "not-found"),
        ("GET", "/docs", 404, "not-found"),
        ("PUT", "/v1/jobs", 405, "method-not-allowed"),
        ("PATCH", "/v1/jobs/job1", 405, "method-not-allowed"),
        ("GET", "/v1/jobs/job1/cancel", 405, "method-not-allowed"),
        ("BREW", "/v1/jobs", 405, "method-not-allowed"),
    ],
)
def test_wrong_addresses_and_methods_are_problems_too(
    service: Service, run_async: RunAsync, method: str, path: str, status: int, code: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.request(method, path)
            assert problem_of(answer)[:2] == (status, code)
            assert answer.json()["instance"] == path

    run_async(use())


def test_allow_lists_every_method_of_the_address(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            for path, methods in (("/v1/jobs", "GET, POST"), ("/v1/jobs/x", "DELETE, GET"), ("/healthz", "GET")):
                assert (await client.options(path)).headers["allow"] == methods

    run_async(use())


def test_a_body_of_nothing_but_unknown_fields_is_not_sent_back(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json={f"{'x' * 900}{number}": 1 for number in range(900)})
            assert problem_of(answer)[:2] == (422, "invalid-spec")
            assert len(answer.content) < 20_000

    run_async(use())


def test_every_code_has_a_status_and_a_title() -> None:
    assert set(PROBLEM_TITLES) == set(ErrorCode)
    assert all(400 <= status < 600 and title.endswith(".") for status, title in PROBLEM_TITLES.values())


def test_every_route_declares_its_problems_and_the_spec(service: Service) -> None:
    document = service.app.openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            assert {"500", "503"} <= statuses, (method, path)
            if path.startswith("/v1"):
                assert {"401", "422"} <= statuses, (method, path)
            if "{job_id}" in path:
                assert "404" in statuses, (method, path)
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobSpec"}
    assert document["components"]["schemas"]["JobSpec"]["additionalProperties"] is False
    assert "HTTPValidationError" not in json.dumps(document)


def test_the_catalogue_and_the_nodes_are_listed(service: Service, run_async: RunAsync) -> None:
    service.store.known, service.store.machines = CATALOG, [node("n1", ranks=2)]

    async def use() -> None:
        async with service.client() as client:
            assert [item["name"] for item in (await client.get("/v1/methods")).json()["methods"]] == ["twa", "uniform"]
            (task,) = (await client.get("/v1/tasks")).json()["tasks"]
            assert task["metrics"] == ["accuracy"]
            assert (await client.get("/v1/nodes")).json()["nodes"][0]["ranks"] == 2
            assert (await client.get("/version")).json()["api"] == "v1"

    run_async(use())
