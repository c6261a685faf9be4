"""The client against the real service and a real Redis; a scripted node plays the worker."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from ladle import (
    AsyncClient,
    Client,
    Conflict,
    Event,
    InvalidSpec,
    JobCancelled,
    JobFailed,
    JobState,
    NotFound,
    Unauthorized,
    Unavailable,
)
from ladle_contracts import Reason, StateChanged, StepDone, Warned, keys
from ladle_contracts.output_names import ID_CHARS
from ladle_contracts.tokens import hash_token
from ladle_service.app import create_app
from ladle_service.settings import Settings
from tests.integration.api_stack import CuttingProxy, ScriptedNode, Stack, api_stack
from tests.polling import DEADLINE_S, SOON_S, until
from tests.unit.client.answers import RESULT


def http(stack: Stack, **options: Any) -> httpx2.Client:
    """A plain HTTP client."""
    return httpx2.Client(base_url=stack.url, **options)


def states(events: list[Event]) -> list[JobState]:
    return [event.body.state for event in events if isinstance(event.body, StateChanged)]


def test_a_job_goes_from_submit_to_its_result(stack: Stack, node: ScriptedNode) -> None:
    with stack.client() as client:
        job = client.submit(*stack.paths, method="twa", labels={"run": "first"})
        attempt = node.start(job.id)
        assert job.running()
        node.report(job.id, attempt, Warned(message="careful"), lines=("one", "two", "three"))
        assert job.logs(tail=2) == ("two", "three")
        node.succeed(job.id, attempt, RESULT)
        assert job.result(timeout=DEADLINE_S) == RESULT
        assert job.exception() is None
        seen = list(job.events())
        assert states(seen) == ["queued", "scheduled", "running", "finalizing", "succeeded"]
        assert list(job.events(follow=False)) == seen
        assert list(job.events(after=seen[-1].id)) == []
        assert [record.id for record in client.jobs(labels={"run": "first"})] == [job.id]
        assert [machine.id for machine in client.nodes()] == ["scripted-node"]


def test_a_job_that_fails_raises_its_reason_and_the_logs_tail(stack: Stack, node: ScriptedNode) -> None:
    with stack.client() as client:
        job = client.submit(*stack.paths)
        attempt = node.start(job.id)
        tail = ["reading step-3.safetensors", "the header is longer than the file"]
        node.fail(job.id, attempt, Reason.CORRUPT_CHECKPOINT, "`step-3.safetensors` must be whole, but is cut", tail)
        with pytest.raises(JobFailed) as caught:
            job.result(timeout=DEADLINE_S)
        assert caught.value.reason is Reason.CORRUPT_CHECKPOINT
        assert caught.value.log_tail == tuple(tail)
        assert "must be whole" in str(caught.value)
        assert "longer than the file" in str(caught.value)
        with http(stack) as plain:
            assert plain.get(f"/v1/jobs/{job.id}/result").json()["code"] == "no-result"


def test_a_stream_that_is_cut_again_and_again_shows_every_event_once(stack: Stack, node: ScriptedNode) -> None:
    count = 300
    with stack.client() as client, CuttingProxy(stack.url, cut_after=7_001) as proxy:
        job = client.submit(*stack.paths)
        attempt = node.start(job.id)

        def work() -> None:
            for step in range(count):
                node.report(job.id, attempt, StepDone(stage="train", step=step, total=count, loss=1 / (step + 1)))
            node.succeed(job.id, attempt, RESULT)

        working = threading.Thread(target=work)
        working.start()
        with Client(proxy.url) as far:
            seen = list(far.job(job.id).events())
        working.join()
        assert [event.body.step for event in seen if isinstance(event.body, StepDone)] == list(range(count))
        assert len({event.id for event in seen}) == len(seen)
        assert seen == list(job.events(follow=False))
        assert proxy.cuts > 5


def test_the_async_client_sees_the_same(stack: Stack, node: ScriptedNode) -> None:
    async def use() -> None:
        async with AsyncClient(stack.url) as client:
            job = await client.submit(*stack.paths)
            attempt = await asyncio.to_thread(node.start, job.id)
            assert await job.running()
            node.succeed(job.id, attempt, RESULT)
            assert await job.result(timeout=DEADLINE_S) == RESULT
            seen = [event async for event in job.events()]
            assert states(seen)[-1] == "succeeded"
            assert job.id in {record.id async for record in client.jobs(state="succeeded")}

    asyncio.run(use())


def test_one_key_makes_one_job_however_many_ask_at_once(stack: Stack) -> None:
    with http(stack, headers={"Idempotency-Key": "once"}) as plain, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: plain.post("/v1/jobs", json=stack.body), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        other = plain.post("/v1/jobs", json=stack.body | {"seed": 1})
        assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")
        plain.post(f"{answers[0].headers['location']}/cancel")


def test_a_queued_job_is_cancelled_at_once_and_then_deleted(stack: Stack) -> None:
    with stack.client() as client:
        job = client.submit(*stack.paths)
        with pytest.raises(Conflict, match="not-finished"):
            job.delete()
        assert job.cancel()
        with pytest.raises(JobCancelled):
            job.result(timeout=DEADLINE_S)
        assert not job.cancel()
        job.delete()
        with pytest.raises(NotFound):
            client.job(job.id).status()


def test_the_name_of_a_result_is_known_at_once_and_of_two_jobs_only_one_may_have_it(stack: Stack) -> None:
    with stack.client() as client:
        plain = client.submit(*stack.paths, method="twa")
        assert (plain.status().output_name or "").endswith(f"-twa-{plain.id[:ID_CHARS]}")
        named = client.submit(*stack.paths, output="may")
        assert named.status().output_name == "may"
        with pytest.raises(Conflict, match=r"`output\.name` .* is the name of a job that has not ended.*output-exists"):
            client.submit(*stack.paths, output="may")
        other = client.submit(*stack.paths, output="june")
        named.cancel()
        again = client.submit(*stack.paths, output="may")
        named.delete()
        with pytest.raises(Conflict, match="output-exists"):
            client.submit(*stack.paths, output="may")
        for job in (plain, other, again):
            job.cancel()
            job.delete()
        with stack.server.client() as redis:
            assert not redis.exists(keys.NAMES)


def test_a_running_job_is_asked_to_end(stack: Stack, node: ScriptedNode) -> None:
    with stack.client() as client:
        job = client.submit(*stack.paths)
        attempt = node.start(job.id)
        assert job.cancel()
        assert job.status().state is JobState.CANCELLING
        assert node.call("end", job.id, attempt, "crashed", "", "", "", "[]", 0) == "cancelled"
        assert job.cancelled()


def test_all_jobs_are_listed_over_many_pages_each_once(stack: Stack) -> None:
    with http(stack) as plain:
        labels = {"labels": {"many": "1"}}
        made = [plain.post("/v1/jobs", json=stack.body | labels).json()["id"] for _ in range(25)]
        listed, cursor = [], {}
        while True:
            page = plain.get("/v1/jobs", params={"label": "many=1", "limit": 10} | cursor).json()
            listed += [job["id"] for job in page["jobs"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert listed == list(reversed(made))
        for job_id in made:
            plain.post(f"/v1/jobs/{job_id}/cancel")


@pytest.mark.parametrize(
    "name",
    ["missing", "../secret", "link", "checkpoints/../../secret", "checkpoints/\N{SNOWMAN}"],
)
def test_a_path_outside_the_roots_is_refused_like_one_that_is_missing(stack: Stack, name: str) -> None:
    secret = stack.folder / "secret"
    secret.mkdir(exist_ok=True)
    link = stack.folder / "data" / "link"
    if not link.is_symlink():
        link.symlink_to(secret)
    with (
        stack.client() as client,
        pytest.raises(InvalidSpec, match="`ckpt_dir` must be an existing file or folder") as caught,
    ):
        client.submit(stack.folder / "data" / name, stack.paths[1])
    assert caught.value.code == "path-not-allowed"


def test_fifty_megabytes_are_refused_with_an_answer_that_arrives(stack: Stack) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * (1 << 20)

    with http(stack, headers={"content-type": "application/json"}) as plain:
        for content in (b" " * (50 << 20), chunks()):
            answer = plain.post("/v1/jobs", content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
    assert stack.process.tree()[0].memory_info().rss < 400 << 20


def test_a_client_that_asks_before_it_sends_is_told_at_once(stack: Stack) -> None:
    port = urlsplit(stack.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as raw:
        raw.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 52428800\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_redis_that_is_full_takes_no_job_and_says_so(stack: Stack) -> None:
    redis = stack.server.client()
    redis.config_set("maxmemory", 1)
    try:
        with http(stack) as plain:
            answer = plain.post("/v1/jobs", json=stack.body)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    finally:
        redis.config_set("maxmemory", 0)


def test_a_redis_that_hangs_is_soon_reported(stack: Stack) -> None:
    process = stack.server.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with http(stack, timeout=DEADLINE_S) as plain:
            assert plain.get("/readyz").status_code == 503
        assert time.monotonic() - began < SOON_S
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_record_in_redis_that_is_no_job_is_our_mistake_and_shows_nothing(stack: Stack) -> None:
    with http(stack) as plain:
        stack.server.client().set(keys.job("broken"), "secret")
        answer = plain.get("/v1/jobs/broken")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.text


def test_a_token_sees_its_own_jobs_only(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{hash_token('ann-token')}\nbob:{hash_token('bob-token')}\n")
    with (
        api_stack(tmp_path / "s", TOKENS_FILE=str(tokens)) as stack,
        stack.client("ann-token") as ann,
        stack.client("bob-token") as bob,
        stack.client("eve") as eve,
    ):
        job = ann.submit(*stack.paths)
        assert [record.id for record in ann.jobs()] == [job.id]
        assert list(bob.jobs()) == []
        theirs = bob.job(job.id)
        for ask in (theirs.status, theirs.cancel, theirs.delete, theirs.logs, lambda: list(theirs.events())):
            with pytest.raises(NotFound):
                ask()
        with pytest.raises(Unauthorized):
            eve.job(job.id).status()
        assert job.status().state is JobState.QUEUED


def test_redis_away_is_unavailable_and_back_again_is_well(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s") as stack, stack.client(patience=0.0) as client, http(stack) as plain:
        job = client.submit(*stack.paths)
        stack.server.stop()
        with pytest.raises(Unavailable, match="unavailable"):
            job.status()
        assert plain.get("/readyz").status_code == 503
        assert plain.get("/healthz").status_code == 200
        stack.server.start()
        until(lambda: plain.get("/readyz").status_code == 200, what="the service to be ready again")
        assert job.status().state is JobState.QUEUED
        node = ScriptedNode(stack.server)
        node.succeed(job.id, node.start(job.id), RESULT)
        assert job.result(timeout=DEADLINE_S) == RESULT


def test_the_service_stops_at_once_though_a_stream_is_open_and_the_client_goes_on_later(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s") as stack, stack.client() as client:
        job = client.submit(*stack.paths)
        node = ScriptedNode(stack.server)
        attempt = node.start(job.id)
        seen: list[Event] = []
        following = threading.Thread(target=lambda: seen.extend(job.events()))
        following.start()
        until(lambda: stack.server.client().info("clients")["blocked_clients"] >= 1, what="somebody to follow")
        began = time.monotonic()
        assert stack.process.stop() == 0
        assert time.monotonic() - began < SOON_S
        stack.process.start()
        node.report(job.id, attempt, Warned(message="after the restart"))
        node.succeed(job.id, attempt, RESULT)
        following.join(timeout=DEADLINE_S)
        assert [event.body.message for event in seen if isinstance(event.body, Warned)] == ["after the restart"]
        assert states(seen) == ["queued", "scheduled", "running", "finalizing", "succeeded"]


def test_nothing_blocks_the_event_loop(stack: Stack, node: ScriptedNode) -> None:
    """The whole service in this process, scheduler and Celery's sending too: a blocking call of its own fails."""
    settings = Settings(
        redis_url=SecretStr(stack.server.url), roots=(stack.folder / "data",), results_dir=stack.folder / "results"
    )

    async def use() -> None:
        app = create_app(settings)
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as plain,
        ):
            assert (await plain.get("/readyz")).status_code == 200
            job = (await plain.post("/v1/jobs", json=stack.body)).json()["id"]
            attempt = await asyncio.to_thread(node.start, job)
            await asyncio.to_thread(node.succeed, job, attempt, RESULT)
            for path in ("", "/events", "/logs", "/result"):
                assert (await plain.get(f"/v1/jobs/{job}{path}")).status_code == 200
            events = await plain.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
            assert '"succeeded"' in events.text
            for path in ("/v1/jobs", "/v1/nodes", "/v1/methods", "/v1/tasks"):
                assert (await plain.get(path)).status_code == 200
            assert (await plain.delete(f"/v1/jobs/{job}")).status_code == 204

    with blockbuster_ctx("ladle_service"):
        asyncio.run(use())


def test_a_service_that_is_killed_leaves_its_followers_nothing_to_miss(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s") as stack, stack.client() as client:
        job = client.submit(*stack.paths)
        node = ScriptedNode(stack.server)
        attempt = node.start(job.id)
        seen: list[Event] = []
        following = threading.Thread(target=lambda: seen.extend(job.events()))
        following.start()
        for round_ in range(2):
            node.report(job.id, attempt, Warned(message=f"before {round_}"))
            until(lambda: seen and seen[-1].body.kind == "warning", what="the event to arrive")
            stack.process.kill()
            node.report(job.id, attempt, Warned(message=f"while it is away {round_}"))
            stack.process.start()
        node.succeed(job.id, attempt, RESULT)
        following.join(timeout=DEADLINE_S)
        messages = [event.body.message for event in seen if isinstance(event.body, Warned)]
        assert messages == ["before 0", "while it is away 0", "before 1", "while it is away 1"]


def test_over_a_socket_that_its_owner_alone_can_open(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s", over_socket=True) as stack, stack.client() as client:
        path = tmp_path / "s" / "api.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        assert client.submit(*stack.paths).status().state is JobState.QUEUED
        assert stack.process.stop() == 0
        assert not path.exists()
