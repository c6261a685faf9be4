"""Neighbouring versions over the real parts: data of a newer one, written into Redis by hand, in both directions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ladle_contracts import TERMINAL_STATES, JobSpec, JobState, MethodChoice, Reason, UnknownEvent, keys
from tests.builders import make_inputs
from tests.integration.api_stack import NODE, ScriptedNode, Stack
from tests.integration.life import Cluster
from tests.integration.test_command import ladle, submitted
from tests.polling import DEADLINE_S, until
from tests.servers import Process, RedisServer, running, worker_process
from tests.unit.client.answers import RESULT

pytestmark = pytest.mark.slow

CATALOG = {
    "methods": [
        {
            "name": "twa-next", "summary": "s", "reference": "r", "reference_url": "u", "since": "9.0",
            "formula": ["a = 1"],
            "options": [
                {"name": "steps", "type": "int", "default": 1, "help": "h", "choices": ["1", "2"], "unit": "steps"}
            ],
        }
    ],
    "tasks": [],
    "placements": ["by-rack"],
}  # fmt: skip
PARTY = {"kind": "party", "guests": ["a", "b"], "at": {"x": 1}}


@pytest.fixture
def newer(node: ScriptedNode) -> ScriptedNode:
    """A node of a newer version than the service."""
    node.call("register", NODE, *("catalog", json.dumps(CATALOG), "firmware", "9"))
    return node


def report(node: ScriptedNode, job: str, attempt: int, progress: dict[str, Any], *bodies: dict[str, Any]) -> None:
    node.offset += 1
    events = [json.dumps(body) for body in bodies]
    assert node.call("report", job, attempt, node.offset, json.dumps(progress), len(events), "", *events) == "ok"


def test_an_older_service_and_client_show_what_a_newer_worker_writes(stack: Stack, newer: ScriptedNode) -> None:
    job = submitted(stack)
    attempt = newer.start(job)
    step = {"kind": "step", "stage": "train", "step": 1, "total": 2, "energy_j": 3.5}
    report(newer, job, attempt, {"stage": "distil", "stage_done": 1, "temperature": 0.5}, PARTY, step)
    with stack.client() as client:
        assert client.job(job).status().progress.model_extra == {"temperature": 0.5}
        assert client.methods()[0].model_extra == {"since": "9.0"}
    result = json.loads(RESULT.model_dump_json()) | {"carbon_g": 1.5}
    assert newer.call("finalize", job, attempt, NODE, 60_000) == "ok"
    assert newer.call("end", job, attempt, "succeeded", "", "", json.dumps(result), "[]", 0) == "succeeded"

    shown = json.loads(ladle(stack, "status", job, "--json").stdout)
    assert shown["result"] == result
    assert shown["progress"]["stage"] == "distil"
    assert json.loads(ladle(stack, "result", job, "--json").stdout) == result
    assert json.loads(ladle(stack, "methods", "--json").stdout) == json.loads(json.dumps(CATALOG))["methods"]
    watched = ladle(stack, "watch", job)
    assert watched.returncode == 0, watched.stderr
    assert 'party: {"guests": ["a", "b"], "at": {"x": 1}}' in watched.stdout
    assert RESULT.folder in watched.stdout
    lines = [json.loads(line) for line in ladle(stack, "watch", job, "--json").stdout.splitlines()]
    bodies = [line["body"] for line in lines if "body" in line]
    assert PARTY in bodies
    assert next(body for body in bodies if body["kind"] == "step")["energy_j"] == 3.5
    with httpx2.Client(base_url=stack.url) as plain:
        page = plain.get(f"/v1/jobs/{job}/events").json()["events"]
        assert PARTY in [event["body"] for event in page]
    with stack.client() as client:
        kinds = [event.body.kind for event in client.job(job).events() if isinstance(event.body, UnknownEvent)]
        assert kinds == ["party"]


def test_a_catalogue_that_cannot_be_read_does_not_stop_submits(stack: Stack, newer: ScriptedNode) -> None:
    other = json.dumps({"methods": {"twa-next": {"summary": 3}}, "tasks": "none"})
    about = ("host", "h", "ranks", "4", "gpus", "[]", "version", "9", "torch_version", "2")
    newer.call("register", "node-of-the-future", *about, "catalog", other)
    with stack.client() as client:
        assert [each.name for each in client.methods()] == ["twa-next"]
        assert client.job(submitted(stack)).status().state not in TERMINAL_STATES


def test_a_reason_and_a_state_of_a_newer_version_are_shown(stack: Stack, newer: ScriptedNode) -> None:
    job = submitted(stack)
    attempt = newer.start(job)
    newer.redis.hset(keys.job(job), "state", "thawing")
    assert "thawing" in ladle(stack, "status", job).stdout
    assert json.loads(ladle(stack, "list", "--json").stdout)[0]["state"] == "thawing"
    newer.redis.hset(keys.job(job), "state", "running")
    newer.fail(job, attempt, Reason.read("too-cold"), "It was too cold.", [])
    done = ladle(stack, "watch", job)
    assert done.returncode == 1
    assert "It was too cold. [too-cold]" in done.stderr


def test_an_older_service_shows_and_cancels_a_job_that_a_newer_one_took(stack: Stack) -> None:
    job = submitted(stack, "--priority", "-100")
    with stack.server.client() as redis:
        spec = json.loads(redis.hget(keys.job(job), "spec"))
        spec |= {"deadline_s": 60, "resources": {"nodes": 4, "ranks_per_node": 1, "precision": "int2", "racks": 2}}
        redis.hset(keys.job(job), "spec", json.dumps(spec))
    shown = json.loads(ladle(stack, "status", job, "--json").stdout)
    assert shown["spec"]["deadline_s"] == 60
    assert shown["spec"]["resources"] | {"nodes": 4, "precision": "int2", "racks": 2} == shown["spec"]["resources"]
    assert job in ladle(stack, "list").stdout
    assert ladle(stack, "cancel", job).returncode == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"), count=2)


def test_an_older_worker_runs_what_it_understands_and_refuses_the_rest(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    plain = JobSpec(
        ckpt_dir=str(data / "checkpoints"), val_set=str(data / "val.npz"), method=MethodChoice(name="uniform")
    )

    def submit(**fields: Any) -> str:
        """A spec of a newer version, as its service would write it."""
        job = made.submit(plain)
        spec = json.loads(plain.model_dump_json()) | fields
        with server.client() as redis:
            redis.hset(keys.job(job), "spec", json.dumps(spec))
        return job

    asked = submit(deadline_s=60, method={"name": "uniform", "options": {}, "hints": {"a": 1}})
    refused = submit(output={"name": None, "dtype": "float4", "max_shard_bytes": 1 << 20})
    kind = submit(val_set={"clean": {"path": str(data / "val.npz"), "share": 0.5}})
    process: Process = worker_process(tmp_path, server, data)
    process.environment = {**os.environ, **process.environment}
    with running(process):
        record = made.finish(asked)
        assert record.state is JobState.SUCCEEDED, record
        assert record.result is not None
        said = "\n".join(record.result.warnings)
        assert "`deadline_s` was ignored" in said
        assert "`method.hints` was ignored" in said
        warned = [event.body.message for event in made.events(asked) if event.body.kind == "warning"]
        assert any("`deadline_s` was ignored" in message for message in warned)
        record = made.finish(refused)
        assert (record.state, record.reason, record.failures) == (JobState.FAILED, Reason.VERSION_MISMATCH, 0)
        assert "`output.dtype` must be" in (record.message or "")
        record = made.finish(kind)
        assert (record.state, record.reason, record.failures) == (JobState.FAILED, Reason.VERSION_MISMATCH, 0)
        assert "`val_set.clean` must be" in (record.message or "")
        again = made.submit(plain)
        until(lambda: made.record(again).state is JobState.SUCCEEDED, timeout_s=DEADLINE_S, what="the next job")
