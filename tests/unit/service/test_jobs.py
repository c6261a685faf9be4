"""Submit, list, look at, cancel and delete jobs."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ladle_contracts import JobRecord, JobSpec, JobState, Reason
from ladle_service.specs import digest_of
from tests.unit.client.answers import RESULT
from tests.unit.service.fakes import CATALOG, Service, make_service, node

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


def problem_of(answer: httpx2.Response) -> tuple[int, str, str]:
    """Status, code and detail; a problem that is not sent as one fails."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    return answer.status_code, body["code"], body["detail"]


def test_a_spec_is_accepted_queued_and_found_at_its_location(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(method={"name": "twa"}))
            assert answer.status_code == 202
            record = JobRecord.model_validate_json(answer.content)
            assert (record.state, record.spec.method.name) == (JobState.QUEUED, "twa")
            again = await client.get(answer.headers["location"])
            assert again.json() == answer.json()

    run_async(use())


def test_the_same_key_and_body_answer_with_the_same_job(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client(**{"Idempotency-Key": "k1"}) as client:
            first = await client.post("/v1/jobs", json=service.spec(output={"name": "out"}))
            # The same, spelt otherwise, and after the job has made its output.
            (service.results / "out").mkdir()
            body = b'  {"output": {"name": "out"}, "val_set": "%s", "ckpt_dir": "%s", "seed": 0}' % (
                str(service.data / "val").encode(),
                str(service.data / "checkpoints").encode(),
            )
            again = await client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
            assert (first.status_code, again.status_code) == (202, 200)
            assert first.json() == again.json()
            assert first.headers["location"] == again.headers["location"]
            assert len(service.store.jobs) == 1

    run_async(use())


EQUAL: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"labels": {"a": "1", "b": "2"}}, {"labels": {"b": "2", "a": "1"}}),
    (
        {"method": {"name": "twa", "options": {"steps": 4, "inner": {"x": 1, "y": [1, {"p": 1, "q": 2}]}}}},
        {"method": {"options": {"inner": {"y": [1, {"q": 2, "p": 1}], "x": 1}, "steps": 4}, "name": "twa"}},
    ),
    ({"task": {"options": {"a": 1, "b": None}}}, {"task": {"options": {"b": None, "a": 1}, "name": None}}),
    (
        {},
        {"seed": 0, "priority": 0, "labels": {}, "select_fraction": 0.5, "train_set": None, "method": {"name": "auto"}},
    ),
    ({}, {"task": None, "checkpoints": {"exclude": []}, "output": {}, "resources": {"nodes": 1}}),
    ({}, {"task": {}}),
    (
        {"val_set": {"a": "/x", "b": "/y"}, "judge_by": "mean"},
        {"val_set": {"b": "/y", "a": "/x"}, "judge_by": "mean", "no_set_worse": False},
    ),
    ({"val_set": {"a": "/x", "b": "/y"}}, {"val_set": {"a": "/x", "b": "/y"}, "judge_by": "first"}),
    ({"checkpoints": {"steps": [100, 0.5]}}, {"checkpoints": {"steps": [100.0, 0.5]}}),
    ({"method": {"name": "twa", "options": {"steps": 40}}}, {"method": {"name": "twa", "options": {"steps": 40.0}}}),
    ({"checkpoints": {"exclude": "best*"}}, {"checkpoints": {"exclude": ["best*"]}}),
]
DIFFERENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"seed": 1}),
    ({"labels": {"a": "1"}}, {"labels": {"a": "2"}}),
    ({"val_set": {"a": "/x", "b": "/y"}}, {"val_set": {"b": "/y", "a": "/x"}}),
    ({"val_set": {"a": "/x", "b": "/y"}}, {"val_set": {"a": "/x", "c": "/y"}}),
    ({"val_set": {"a": "/v"}}, {}),
    ({"no_set_worse": True}, {}),
    ({"labels": {"a": "b"}}, {"labels": {"b": "a"}}),
    ({"checkpoints": {"steps": [1, 2]}}, {"checkpoints": {"steps": [2, 1]}}),
    ({"method": {"options": {"a": True}}}, {"method": {"options": {"a": 1}}}),
    ({"method": {"options": {"a": "1"}}}, {"method": {"options": {"a": 1}}}),
    ({"method": {"options": {"a": {}}}}, {"method": {"options": {}}}),
    ({"method": {"options": {"a": 1}}}, {"task": {"options": {"a": 1}}}),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=str)
def test_two_bodies_that_ask_for_the_same_have_one_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_two_bodies_that_ask_for_something_else_have_two_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) != digest(other)


def digest(fields: dict[str, Any]) -> str:
    return digest_of(JobSpec.model_validate_json(json.dumps({"ckpt_dir": "/c", "val_set": "/v", **fields})))


def test_the_same_key_with_another_body_is_a_conflict(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client(**{"Idempotency-Key": "k1"}) as client:
            await client.post("/v1/jobs", json=service.spec())
            answer = await client.post("/v1/jobs", json=service.spec(seed=1))
            assert problem_of(answer)[:2] == (409, "idempotency-conflict")
            assert len(service.store.jobs) == 1

    run_async(use())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"methd": {"name": "twa"}}, "methd"),
        ({"method": {"name": "twa", "option": {}}}, "method.option"),
        ({"seed": "1"}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": True}, "seed"),
        ({"select_fraction": 0}, "select_fraction"),
        ({"ckpt_dir": None}, "ckpt_dir"),
        ({"ckpt_dir": "/a\0b"}, "ckpt_dir"),
        ({"output": {"name": "../evil"}}, "output.name"),
        ({"output": {"name": "a/b"}}, "output.name"),
        ({"checkpoints": {"steps": []}}, "checkpoints.steps"),
    ],
)
def test_a_spec_that_breaks_the_schema_is_refused_by_field(
    service: Service, run_async: RunAsync, fields: dict[str, Any], named: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(**fields))
            assert problem_of(answer)[:2] == (422, "invalid-spec")
            assert [error["field"] for error in answer.json()["errors"]] == [named]
            assert '"input"' not in answer.text
            assert not service.store.jobs

    run_async(use())


@pytest.mark.parametrize(
    ("fields", "message", "absent"),
    [
        ({"seed": "1"}, 'but is "1"', ""),
        ({"output": {"name": "x" * 10_000}}, "xxx...", "x" * 200),
        ({"ckpt_dir": "/nowhere/at-all"}, 'but is "/nowhere/at-all"', ""),
        ({"passwort": "hunter2"}, "must be left out, because there is no such field", "hunter2"),
    ],
)
def test_a_wrong_value_is_named_but_cut_short_and_an_unknown_fields_value_is_not(
    service: Service, run_async: RunAsync, fields: dict[str, Any], message: str, absent: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(**fields))
            assert answer.status_code == 422
            assert any(message in error["message"] for error in answer.json()["errors"]), answer.text
            assert not absent or absent not in answer.text

    run_async(use())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"ckpt_dir": "/a", "val_set": "/b", "method": {"options": {"x": NaN}}}',
        b'{"ckpt_dir": "/a", "val_set": "/b", "method": {"options": {"x": 1e999}}}',
        b'{"ckpt_dir": "/a", "ckpt_dir": "/c", "val_set": "/b"}',
        b'{"ckpt_dir": "\\ud800", "val_set": "/b"}',
    ],
)
def test_what_is_not_strictly_json_is_refused(service: Service, run_async: RunAsync, body: bytes) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
            assert problem_of(answer)[:2] == (422, "invalid-spec")

    run_async(use())


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_kind_of_body_is_refused_because_browsers_send_those_for_anybody(
    service: Service, run_async: RunAsync, kind: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", content=b"{}", headers={"content-type": kind})
            assert problem_of(answer)[:2] == (415, "unsupported-media-type")

    run_async(use())


def refusal_of(service: Service, **fields: Any) -> Coroutine[Any, Any, tuple[int, str, str]]:
    async def ask() -> tuple[int, str, str]:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(**fields))
            assert not service.store.jobs
            return problem_of(answer)

    return ask()


def test_paths_that_are_missing_or_outside_get_one_answer(
    service: Service, run_async: RunAsync, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (service.data / "link").symlink_to(secret)
    (service.data / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(service.data / "pipe")
    paths = [
        str(service.data / "pipe"),
        str(service.data / "missing"),
        str(secret),
        str(tmp_path / "nowhere"),
        f"{service.data}/../secret",
        f"{service.data}/link",
        f"{service.data}/dangling",
        f"{service.data}/link/../link/x",
        "relative/checkpoints",
        "~/checkpoints",
        "/" + "x" * 4000,
        "/proc/self/root/etc",
        str(tmp_path / "data2"),
    ]
    (tmp_path / "data2").mkdir()  # begins like a root, and is none

    async def use() -> None:
        answers = {await refusal_of(service, ckpt_dir=path) for path in paths}
        assert len(answers) == 1
        status, code, detail = answers.pop()
        assert (status, code) == (422, "path-not-allowed")
        assert "`ckpt_dir` must be an existing file or folder inside the allowed folders" in detail
        globs = [f"{secret}/*", str(tmp_path / "*"), f"{service.data}/link/*", f"{service.data}/*/../../secret"]
        for path in globs:
            _, code, detail = await refusal_of(service, ckpt_dir=[f"{service.data}/*", path])
            assert code == "path-not-allowed"
            assert "`ckpt_dir.1` must be an existing file or folder inside the allowed folders" in detail
        _, _, detail = await refusal_of(service, val_set=str(secret), train_set={"path": "/x\0y"})
        assert "`val_set` and `train_set.path`" in detail
        _, code, detail = await refusal_of(service, adapters={"base_model": str(secret)})
        assert code == "path-not-allowed"
        assert "`adapters.base_model` must be an existing file or folder" in detail
        _, code, detail = await refusal_of(service, base=str(secret))
        assert code == "path-not-allowed"
        assert "`base` must be an existing file or folder" in detail
        sets = {"clean": f"{service.data}/val", "noisy": str(secret), "far": "val"}
        _, code, detail = await refusal_of(service, val_set=sets)
        assert code == "path-not-allowed"
        assert "`val_set.noisy` and `val_set.far`" in detail
        assert "clean" not in detail

    run_async(use())


def test_a_link_that_stays_inside_the_roots_is_followed(service: Service, run_async: RunAsync) -> None:
    (service.data / "latest").symlink_to(service.data / "checkpoints")

    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(ckpt_dir=f"{service.data}/val/../latest"))
            assert answer.status_code == 202

    run_async(use())


def test_an_output_name_that_is_taken_is_refused(service: Service, run_async: RunAsync) -> None:
    (service.results / "taken").mkdir()
    (service.results / "dangling").symlink_to("/nowhere")

    async def use() -> None:
        for name in ("taken", "dangling"):
            assert (await refusal_of(service, output={"name": name}))[:2] == (409, "output-exists")

    run_async(use())


def test_names_are_checked_against_what_the_workers_have(service: Service, run_async: RunAsync) -> None:
    service.store.known = CATALOG

    async def use() -> None:
        status, code, detail = await refusal_of(service, method={"name": "twaa"})
        assert (status, code) == (422, "unknown-method")
        assert "must be one of twa, uniform" in detail
        assert "Did you mean `twa`?" in detail
        assert (await refusal_of(service, task={"name": "chess"}))[1] == "unknown-task"
        _, code, detail = await refusal_of(service, method={"name": "twa", "options": {"epoch": 1}})
        assert code == "unknown-option"
        assert "Did you mean `epochs`?" in detail
        _, code, detail = await refusal_of(service, method={"name": "uniform", "options": {"epochs": 1}})
        assert code == "unknown-option"
        assert "there are no options" in detail
        task = {"name": "image-classification", "options": {"x": 1}}
        assert (await refusal_of(service, task=task))[1] == "unknown-option"
        _, code, detail = await refusal_of(service, metric="acuracy")
        assert code == "invalid-spec"
        assert "Did you mean `accuracy`?" in detail

    run_async(use())


def test_auto_is_always_there_and_any_name_while_no_worker_is_known(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            unknown = await client.post("/v1/jobs", json=service.spec(method={"name": "from-a-plug-in"}))
            assert unknown.status_code == 202
            service.store.known = CATALOG
            assert (await client.post("/v1/jobs", json=service.spec(method={"name": "auto"}))).status_code == 202

    run_async(use())


def test_a_job_that_no_cluster_of_this_size_can_run_is_refused(service: Service, run_async: RunAsync) -> None:
    service.store.machines = [node("a", ranks=2), node("b", ranks=4)]

    async def use() -> None:
        assert (await refusal_of(service, resources={"ranks_per_node": 5}))[:2] == (422, "not-enough-nodes")
        assert (await refusal_of(service, resources={"nodes": 3}))[:2] == (422, "not-enough-nodes")
        assert (await refusal_of(service, resources={"nodes": 2, "ranks_per_node": 3}))[:2] == (422, "not-enough-nodes")
        async with service.client() as client:
            for resources in ({"ranks_per_node": 4}, {"nodes": 2, "ranks_per_node": 2}):
                body = service.spec(resources=resources)
                assert (await client.post("/v1/jobs", json=body)).status_code == 202

    run_async(use())


def test_a_job_that_can_start_with_fewer_nodes_is_refused_only_where_not_even_these_are_known(
    service: Service, run_async: RunAsync
) -> None:
    service.store.machines = [node("a"), node("b")]

    async def use() -> None:
        _, _, detail = await refusal_of(service, resources={"nodes": 4, "min_nodes": 3})
        assert detail == "`resources.min_nodes` must be at most 2, because no more nodes are known, but is 3."
        async with service.client() as client:
            body = service.spec(resources={"nodes": 4, "min_nodes": 2})
            assert (await client.post("/v1/jobs", json=body)).status_code == 202

    run_async(use())


def test_the_operator_lets_large_jobs_wait_and_sets_how_many_nodes_a_job_may_have(
    tmp_path: Path, run_async: RunAsync
) -> None:
    service = make_service(tmp_path, oversized_jobs="wait", max_nodes_per_job=8)
    service.store.machines = [node("a")]

    async def use() -> None:
        _, _, detail = await refusal_of(service, resources={"nodes": 9, "min_nodes": 1})
        assert detail == "`resources.nodes` must be at most 8, because this service allows no more for a job, but is 9."
        async with service.client() as client:
            for resources in ({"nodes": 8}, {"ranks_per_node": 4}):
                assert (await client.post("/v1/jobs", json=service.spec(resources=resources))).status_code == 202

    run_async(use())


def test_jobs_are_listed_newest_first_by_page_state_and_label(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            for number in range(5):
                await client.post("/v1/jobs", json=service.spec(labels={"run": str(number % 2), "who": "a=b"}))
            service.store.move("job3", JobState.RUNNING)
            page = (await client.get("/v1/jobs", params={"limit": 2})).json()
            assert [job["id"] for job in page["jobs"]] == ["job5", "job4"]
            rest = (await client.get("/v1/jobs", params={"cursor": page["next_cursor"]})).json()
            assert [job["id"] for job in rest["jobs"]] == ["job3", "job2", "job1"]
            assert rest["next_cursor"] is None
            running = (await client.get("/v1/jobs", params={"state": "running"})).json()
            assert [job["id"] for job in running["jobs"]] == ["job3"]
            labelled = await client.get("/v1/jobs", params=[("label", "run=1"), ("label", "who=a=b")])
            assert [job["id"] for job in labelled.json()["jobs"]] == ["job4", "job2"]

    run_async(use())


@pytest.mark.parametrize(
    "query", ["stat=queued", "state=asleep", "limit=0", "limit=501", "limit=x", "label=nothing", "label=a=1&label=a=2"]
)
def test_a_query_that_is_misspelt_is_an_error_and_not_everything(
    service: Service, run_async: RunAsync, query: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            assert problem_of(await client.get(f"/v1/jobs?{query}"))[:2] == (422, "invalid-request")

    run_async(use())


def test_cancel_ends_a_job_once(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            service.store.move("job1", JobState.RUNNING)
            answer = await client.post("/v1/jobs/job1/cancel")
            assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
            service.store.move("job1", JobState.CANCELLED)
            again = await client.post("/v1/jobs/job1/cancel")
            assert problem_of(again)[:2] == (409, "already-finished")

    run_async(use())


def test_a_result_is_there_when_the_job_has_succeeded(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            assert problem_of(await client.get("/v1/jobs/job1/result"))[:2] == (409, "not-finished")
            service.store.move("job1", JobState.SUCCEEDED, result=RESULT)
            assert (await client.get("/v1/jobs/job1/result")).json()["folder"] == RESULT.folder
            service.store.move(
                "job1", JobState.FAILED, result=None, reason=Reason.NON_FINITE_LOSS, message="the loss is NaN"
            )
            status, code, detail = problem_of(await client.get("/v1/jobs/job1/result"))
            assert (status, code) == (404, "no-result")
            assert "the loss is NaN [non-finite-loss]" in detail

    run_async(use())


def test_only_a_job_that_has_ended_is_deleted(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            assert problem_of(await client.delete("/v1/jobs/job1"))[:2] == (409, "not-finished")
            service.store.move("job1", JobState.CANCELLED)
            assert (await client.delete("/v1/jobs/job1")).status_code == 204
            assert problem_of(await client.delete("/v1/jobs/job1"))[:2] == (404, "not-found")

    run_async(use())


@pytest.mark.parametrize("job_id", ["nothing", "job1:events", "job1%0A", "%2e%2e", "a" * 65, "*", "job1%00"])
def test_an_id_that_is_no_jobs_is_not_found_and_reaches_no_other_key(
    service: Service, run_async: RunAsync, job_id: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            for path in ("", "/events", "/logs", "/result"):
                assert problem_of(await client.get(f"/v1/jobs/{job_id}{path}"))[:2] == (404, "not-found")

    run_async(use())


def test_a_large_body_is_refused_with_and_without_a_declared_length(service: Service, run_async: RunAsync) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1 << 20
            yield b" " * (1 << 20)

    async def use() -> None:
        async with service.client(**{"content-type": "application/json"}) as client:
            chunked = await client.post("/v1/jobs", content=chunks())
            assert problem_of(chunked)[:2] == (413, "body-too-large")
            declared = await client.post("/v1/jobs", content=b" " * (50 << 20))
            assert problem_of(declared)[:2] == (413, "body-too-large")
            # What is left of it is read, so that a client that only writes gets to the answer.
            assert sent == 50 << 20
            fits = await client.post("/v1/jobs", content=b" " * (1 << 20))
            assert problem_of(fits)[:2] == (422, "invalid-spec")

    run_async(use())


@pytest.mark.parametrize("key", ["", "a b", "k" * 201, "\tx"])
def test_a_key_that_is_none_is_refused(service: Service, run_async: RunAsync, key: str) -> None:
    async def use() -> None:
        async with service.client(**{"Idempotency-Key": key}) as client:
            answer = await client.post("/v1/jobs", json=service.spec())
            assert problem_of(answer)[:2] == (422, "invalid-request")

    run_async(use())
