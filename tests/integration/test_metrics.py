"""`/metrics` over a real Redis: what it says is what is there, at a bounded price."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from ladle_contracts import JobState, Reason, StageStarted, StepDone, keys
from ladle_contracts.counts import stage_took
from ladle_service.metrics import Measured, Metrics
from ladle_service.store import JobStore
from tests.integration.api_stack import ScriptedNode, Stack, api_stack
from tests.integration.machine import Machine
from tests.polling import until
from tests.servers import RedisServer

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = REPOSITORY / "docker" / "grafana" / "ladle.json"
MANY = 10_000


def families(text: str) -> dict[str, Metric]:
    """As Prometheus reads them."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], sample: str, **labels: str) -> float:
    values = [
        each.value
        for family in found.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    assert values, f"{sample} {labels}"
    return sum(values)


def measured(server: RedisServer) -> Measured:
    async def run() -> Measured:
        async with Redis.from_url(server.url_of("service"), decode_responses=True) as redis:
            return await JobStore(redis, redis).measure()

    return asyncio.run(run())


def scraped(server: RedisServer) -> dict[str, Metric]:
    return families(Metrics("1").text(measured(server)).decode())


def test_jobs_ends_nodes_and_the_queue_are_counted_as_they_are(machine: Machine) -> None:
    for name in ("a", "b", "c"):
        machine.node(name)
    ended, failed, running, waiting = (machine.submit() for _ in range(4))
    for job in (ended, failed, running):
        node = machine.schedule(job)[2]
        machine.claim(job, 1, node)
        if job != running:
            machine.finalize(job, 1, node)
            machine.end(
                job, 1, "succeeded" if job == ended else "failed", "" if job == ended else Reason.EMPTY_DATA, node
            )
    machine.call("cordon", "c", "cordon", "by a test")
    found = scraped(machine.server)
    for state, number in (("queued", 1), ("running", 1), ("succeeded", 1), ("failed", 1), ("cancelled", 0)):
        assert value(found, "ladle_jobs", state=state) == number, state
    assert value(found, "ladle_jobs_ended_total", state="failed", reason="empty-data") == 1
    assert value(found, "ladle_jobs_ended_total", state="succeeded", reason="") == 1
    states = {sample.labels["state"]: sample.value for sample in found["ladle_nodes"].samples}
    assert states == {"ready": 1, "busy": 1, "cordoned": 1, "draining": 0, "drained": 0, "gone": 0}
    assert value(found, "ladle_webhook_jobs_waiting") == 2
    machine.redis.zadd(keys.state_jobs("queued"), {waiting: 1000})
    assert value(scraped(machine.server), "ladle_queue_oldest_age_seconds") > 1e6


def test_what_workers_report_is_counted_once_however_often_it_is_sent(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a")
    counted = json.dumps({**stage_took("train", 2.5), "steps": 7, "bytes_read": 1e12})
    for _ in range(2):
        assert machine.call("report", job, 1, 5, "", 0, counted) == "ok"
    assert machine.call("report", job, 1, 6, "", 0, json.dumps(stage_took("<odd>\n", 100_000.0))) == "ok"
    found = scraped(machine.server)
    assert value(found, "ladle_training_steps_total") == 7
    assert value(found, "ladle_read_bytes_total") == 1e12
    assert value(found, "ladle_stage_seconds_bucket", stage="train", le="1.0") == 0
    assert value(found, "ladle_stage_seconds_bucket", stage="train", le="5.0") == 1
    assert value(found, "ladle_stage_seconds_count", stage="train") == 1
    assert value(found, "ladle_stage_seconds_sum", stage="train") == 2.5
    assert value(found, "ladle_stage_seconds_bucket", stage="other", le="86400.0") == 0
    assert value(found, "ladle_stage_seconds_bucket", stage="other", le="+Inf") == 1


def test_a_scrape_of_many_jobs_is_one_call_of_redis(shared_server: RedisServer, machine: Machine) -> None:
    """Its work in Redis grows with nodes and states, never with jobs."""
    with machine.redis.pipeline(transaction=False) as pipe:
        for number in range(MANY):
            pipe.zadd(keys.state_jobs(list(JobState)[number % 8]), {f"job-{number}": number + 1})
        pipe.execute()
    machine.redis.config_resetstat()
    found = scraped(shared_server)
    assert sum(sample.value for sample in found["ladle_jobs"].samples) == MANY
    stats = machine.redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    own = {"config|resetstat", "info", "client|setinfo", "auth", "hello", "select"}
    called = {name: number for name, number in calls.items() if name not in own}
    assert called.pop("evalsha") <= 2, "a second time where Redis does not know the script yet"
    assert called.pop("script|load", 0) <= 1
    assert sum(called.values()) < 30, called


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("metrics")
    tokens = folder / "tokens"
    from ladle_contracts.tokens import Scope, StoredToken, hash_token

    lines = [
        StoredToken(name=name, digest=hash_token(name), scope=scope).line()
        for name, scope in (("ann", Scope.ADMIN), ("bob", Scope.SUBMIT))
    ]
    tokens.write_text("\n".join(lines) + "\n")
    tokens.chmod(0o600)
    with api_stack(folder / "stack", TOKENS_FILE=str(tokens), LOG_FORMAT="json") as made:
        yield made


def get(stack: Stack, path: str, token: str | None = None, **headers: str) -> httpx2.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx2.get(stack.url + path, headers=headers)


def test_only_an_admin_reads_them_and_requests_are_counted_by_route(open_stack: Stack) -> None:
    assert get(open_stack, "/metrics").status_code == 401
    assert get(open_stack, "/metrics", "bob").status_code == 403
    for _ in range(3):
        get(open_stack, "/v1/jobs/no-such-job", "bob")
    get(open_stack, "/made/up/by/anybody")
    answer = get(open_stack, "/metrics", "ann")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = families(answer.text)
    assert value(found, "ladle_http_requests_total", route="/v1/jobs/{job_id}", method="GET", status="404") == 3
    assert value(found, "ladle_http_requests_total", route="other") == 1
    assert "made" not in answer.text
    assert value(found, "ladle_redis_up") == 1


def test_a_request_has_an_id_in_its_answer_its_problem_and_the_log(open_stack: Stack) -> None:
    answer = get(open_stack, "/v1/jobs/none", "bob", **{"X-Request-ID": "from-a-proxy.1"})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "from-a-proxy.1"
    hostile = get(open_stack, "/v1/jobs/none", "bob", **{"X-Request-ID": '"} forged\t{'})
    assert re.fullmatch("[0-9a-f]{16}", hostile.headers["X-Request-ID"])

    def logged() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in open_stack.process.text().splitlines()]
        return [entry for entry in entries if entry.get("request_id") == "from-a-proxy.1"]

    [entry] = until(logged, what="the line of the request")
    assert (entry["level"], entry["logger"]) == ("info", "uvicorn.access")
    assert "/v1/jobs/none" in entry["message"]


def test_names_and_units_are_as_prometheus_wants_them(open_stack: Stack) -> None:
    found = families(get(open_stack, "/metrics", "ann").text)
    ours = {name: family for name, family in found.items() if name.startswith("ladle_")}
    assert len(ours) > 12
    for name, family in ours.items():
        assert re.fullmatch("[a-z][a-z0-9_]*", name)
        assert family.documentation.endswith("."), name
        assert not re.search("_(count|sum|bucket|total)$", name), name
        assert not re.search("_(ms|milliseconds|minutes|mb|kb)(_|$)", name), "base units: seconds and bytes"
        assert family.type != "counter" or all(each.name.endswith(("_total", "_created")) for each in family.samples), (
            name
        )
        assert all(label not in ("job", "instance") for each in family.samples for label in each.labels), name


def test_every_query_of_the_dashboard_uses_what_is_there(open_stack: Stack) -> None:
    node = ScriptedNode(open_stack.server)
    with open_stack.client("bob") as client:
        job = client.submit(*open_stack.paths)
        attempt = node.start(job.id)
        node.report(job.id, attempt, StageStarted(stage="train"), StepDone(stage="train", step=1, total=2))
        assert node.call("report", job.id, attempt, 99, "", 0, json.dumps(stage_took("train", 1.0))) == "ok"
        node.fail(job.id, attempt, Reason.CRASHED, "m", [])
    node.close()
    found = families(get(open_stack, "/metrics", "ann").text)
    there = {each.name: set(each.labels) for family in found.values() for each in family.samples}
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 8
    for query in queries:
        names = set(re.findall(r"\b(?:ladle|process)_[a-z_]+", query))
        assert names, query
        assert names <= there.keys(), query
        labels = {word for inside in re.findall(r"by \(([^)]*)\)", query) for word in re.split(r"[, ]+", inside)}
        known = set().union(*(there[name] for name in names)) | {"instance", "job"}
        assert labels - {"le"} <= known, query


def test_without_redis_that_is_what_they_say() -> None:
    found = families(Metrics("1").text(None).decode())
    assert value(found, "ladle_redis_up") == 0
    assert "ladle_jobs" not in found


def test_the_states_of_nodes_are_those_of_their_records(machine: Machine) -> None:
    """`measure.lua` says them in its own words."""
    for name in ("ready", "busy", "cordoned", "draining", "drained", "gone"):
        machine.node(name)
    for name in ("busy", "draining"):
        machine.redis.hset(keys.node(name), "job", "some-job")
    for name, verb in (("cordoned", "cordon"), ("draining", "drain"), ("drained", "drain")):
        machine.call("cordon", name, verb, "why")
    machine.redis.hset(keys.node("gone"), "heartbeat_at", 0)
    fields = {"host": "h", "gpus": "[]", "version": "1", "torch_version": "2"}
    for name in machine.redis.smembers(keys.NODES):
        machine.redis.hset(keys.node(name), mapping=fields)

    async def records() -> list[str]:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            return sorted(node.state for node in await JobStore(redis, redis).nodes())

    assert (
        asyncio.run(records())
        == sorted(measured(machine.server).nodes)
        == sorted(("ready", "busy", "cordoned", "draining", "drained", "gone"))
    )
