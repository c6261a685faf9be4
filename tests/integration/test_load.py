"""The real service with many clients, with slow ones and with ones that want too much."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from ladle import Client, TooMany
from ladle_contracts import StepDone, Warned
from ladle_contracts.tokens import hash_token
from ladle_service.backend import COMMAND_CONNECTIONS
from ladle_service.connections import RESERVED
from tests.integration.api_stack import ScriptedNode, Stack, api_stack
from tests.polling import DEADLINE_S, until
from tests.unit.client.answers import RESULT

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIST = HEALTH.replace(b"/healthz", b"/v1/jobs")
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connect(stack: Stack, *, buffer_bytes: int | None = None) -> socket.socket:
    """A plain connection to the service."""
    if stack.url.startswith("unix:"):
        raw = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = stack.url.removeprefix("unix://")
    else:
        raw = socket.socket(socket.AF_INET)
        port = urlsplit(stack.url).port
        assert port is not None
        address = ("127.0.0.1", port)
    if buffer_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    raw.settimeout(DEADLINE_S)
    raw.connect(address)
    return raw


def answer_to(raw: socket.socket, *, drip: bytes = b"") -> bytes:
    """What comes until the service closes, while one byte after another is sent."""
    received = b""
    raw.settimeout(0.02 if drip else DEADLINE_S)
    while True:
        try:
            data = raw.recv(65536)
        except TimeoutError:
            try:
                raw.sendall(drip)
            except OSError:
                drip = b""
                raw.settimeout(DEADLINE_S)
            continue
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def ask(stack: Stack, request: bytes) -> bytes:
    """The answer to one request over a connection of its own."""
    with connect(stack) as raw:
        raw.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return answer_to(raw)


@contextmanager
def half_open(stack: Stack, count: int) -> Iterator[list[socket.socket]]:
    """Connections that send nothing, half a header or half a body, or nothing more after an answer."""
    parts = (b"", b"GET /v1/jobs HTT", POST + b"Content-Length: 100\r\n\r\n{", HEALTH)
    with ExitStack() as opened:
        made = []
        for number in range(count):
            made.append(opened.enter_context(connect(stack)))
            made[-1].sendall(parts[number % len(parts)])
        yield made


def files(stack: Stack) -> int:
    """How many files the service has open."""
    return int(psutil.Process(stack.process.pid).num_fds())


def connections(stack: Stack) -> int:
    """How many connections of clients the service has."""
    process = psutil.Process(stack.process.pid)
    if stack.url.startswith("unix:"):
        path = stack.url.removeprefix("unix://")
        return sum(one.laddr == path for one in process.net_connections("unix")) - 1  # one is the listening socket
    port = urlsplit(stack.url).port
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in process.net_connections("tcp"))


@pytest.fixture(scope="module", params=["tcp", "socket"])
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Waits one second for clients."""
    folder = tmp_path_factory.mktemp("hasty")
    with api_stack(folder, over_socket=request.param == "socket", CLIENT_TIMEOUT_S="1") as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"GET /healthz HT", b""),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"x"),
        (b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"),
        (POST + b"Content-Length: 1000\r\n\r\n{", b""),
        (POST + b"Content-Length: 1000\r\n\r\n{", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (POST + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n", b""),
    ],
)
def test_a_request_that_does_not_arrive_is_refused(hasty: Stack, sent: bytes, drip: bytes) -> None:
    with connect(hasty) as raw:
        raw.sendall(sent)
        answer = answer_to(raw, drip=drip).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"request-timeout"' in answer
    assert b"application/problem+json" in answer


def test_a_connection_that_says_nothing_is_closed(hasty: Stack) -> None:
    with connect(hasty) as raw:
        assert answer_to(raw) == b""


def test_the_second_request_of_a_connection_must_arrive_as_well(hasty: Stack) -> None:
    with connect(hasty) as raw:
        raw.sendall(HEALTH)
        raw.sendall(b"GET /healthz")
        answer = answer_to(raw, drip=b"z")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in answer


def test_requests_one_after_the_other_on_one_connection_are_all_answered(hasty: Stack) -> None:
    with connect(hasty) as raw:
        raw.sendall(
            HEALTH * 3 + POST + b"Content-Length: 2\r\n\r\n{}" + HEALTH + HEALTH[:-2] + b"Connection: close\r\n\r\n"
        )
        answer = answer_to(raw)
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    assert answer.count(b"HTTP/1.1 422 ") == 1


def test_a_stream_stays_open_however_long_it_is_silent(hasty: Stack) -> None:
    node = ScriptedNode(hasty.server)
    with hasty.client() as client, connect(hasty) as stream:
        job = client.submit(*hasty.paths)
        attempt = node.start(job.id)
        stream.sendall(stream_of(job.id))
        for _ in range(3):  # each waits as long as the service waits
            with connect(hasty) as raw:
                assert answer_to(raw) == b""
        node.succeed(job.id, attempt, RESULT)
        received = answer_to(stream)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b'"succeeded"' in received
    node.close()


@pytest.mark.slow
def test_a_client_that_does_not_read_its_stream_is_cut_off_and_misses_nothing_later(hasty: Stack) -> None:
    node = ScriptedNode(hasty.server)
    with hasty.client() as client:
        job = client.submit(*hasty.paths).id
    attempt = node.start(job)
    with connect(hasty, buffer_bytes=4096) as deaf:
        deaf.sendall(stream_of(job))
        until(lambda: connections(hasty) == 1, what="the deaf client to be there alone")
        for number in range(300):
            node.report(job, attempt, Warned(message=f"{number} " + 30_000 * "x"))
        until(lambda: connections(hasty) == 0, what="the deaf client to be cut off")
        node.succeed(job, attempt, RESULT)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        part = answer_to(deaf)
    assert b'"succeeded"' not in part
    seen = ids_in(part)[:-1]  # the last may be cut short
    with hasty.client() as client:
        everything = [event.id for event in client.job(job).events()]
        assert seen == everything[: len(seen)]
        assert [event.id for event in client.job(job).events(after=seen[-1])] == everything[len(seen) :]
    node.close()


def test_a_client_that_asks_much_and_reads_nothing_is_cut_off(hasty: Stack) -> None:
    until(lambda: connections(hasty) == 0, what="earlier clients to be gone")
    with connect(hasty, buffer_bytes=4096) as deaf:
        deaf.sendall(HEALTH.replace(b"/healthz", b"/openapi.json") * 100)
        assert deaf.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
        until(lambda: connections(hasty) == 0, what="the deaf client to be cut off")
        assert answer_to(deaf).count(b"HTTP/1.1 200") < 100


def test_two_hundred_watchers_need_a_file_each_and_one_connection_to_redis(tmp_path: Path) -> None:
    watchers, steps = 200, 20
    with api_stack(tmp_path / "s") as stack, stack.client() as client, ExitStack() as opened:
        node = ScriptedNode(stack.server)
        job = client.submit(*stack.paths)
        attempt = node.start(job.id)
        alone = files(stack)
        redis = stack.server.client()
        clients = redis.info("clients")["connected_clients"]
        watching = [opened.enter_context(connect(stack)) for _ in range(watchers)]
        for raw in watching:
            raw.sendall(stream_of(job.id))
        for raw in watching:
            assert raw.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
        for step in range(steps):
            node.report(job.id, attempt, StepDone(stage="train", step=step, total=steps))
        assert files(stack) <= alone + watchers + COMMAND_CONNECTIONS + 10
        assert redis.info("clients")["connected_clients"] <= clients + COMMAND_CONNECTIONS + 10
        assert redis.info("clients")["blocked_clients"] <= 1
        node.succeed(job.id, attempt, RESULT)
        everything = [event.id for event in job.events(follow=False)]
        assert len(everything) == steps + 5
        for raw in watching:
            assert ids_in(answer_to(raw)) == everything


def stream_of(job: str, token: str | None = None) -> bytes:
    """A request for the events of a job."""
    lines = [f"GET /v1/jobs/{job}/events HTTP/1.1", "Host: localhost", "Accept: text/event-stream", "Connection: close"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def ids_in(stream: bytes) -> list[str]:
    """The ids of the events."""
    return [line.removeprefix(b"id: ").decode() for line in stream.splitlines() if line.startswith(b"id: ")]


def test_half_open_connections_give_way_to_those_that_ask(tmp_path: Path) -> None:
    most = 30
    with api_stack(tmp_path / "s", MAX_CONNECTIONS=str(most)) as stack:
        alone = files(stack)
        with half_open(stack, 5 * most):
            for _ in range(20):
                assert ask(stack, HEALTH).startswith(b"HTTP/1.1 200 ")
            with stack.client(patience=0.0) as client:
                assert client.submit(*stack.paths).status().id
                assert files(stack) <= alone + most + RESERVED + 34


def test_when_all_connections_are_in_use_only_monitoring_is_answered(tmp_path: Path) -> None:
    most = 10
    with api_stack(tmp_path / "s", MAX_CONNECTIONS=str(most)) as stack:
        with stack.client() as client:
            job = client.submit(*stack.paths)
        with ExitStack() as opened:
            streams = [opened.enter_context(connect(stack)) for _ in range(most)]
            for raw in streams:
                raw.sendall(stream_of(job.id))
                assert raw.recv(12) == b"HTTP/1.1 200"
            refusal = ask(stack, LIST)
            assert refusal.startswith(b"HTTP/1.1 503 ")
            assert b'"overloaded"' in refusal
            assert b"retry-after: " in refusal.lower()
            for address in (b"/healthz", b"/readyz"):
                assert ask(stack, HEALTH.replace(b"/healthz", address)).startswith(b"HTTP/1.1 200 ")
            with half_open(stack, 3 * RESERVED):
                assert ask(stack, HEALTH).startswith(b"HTTP/1.1 200 ")
            streams[0].close()
            until(
                lambda: ask(stack, LIST).startswith(b"HTTP/1.1 200 "),
                what="a place to be free",
            )


def test_a_low_limit_of_open_files_is_said_and_kept(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s", wrap=_few_files) as stack:
        assert "may open only 300 files, so it takes 44 connections instead of 8192" in stack.process.text()
        with half_open(stack, 400):
            for _ in range(10):
                assert ask(stack, HEALTH).startswith(b"HTTP/1.1 200 ")
            with stack.client() as client:
                assert client.submit(*stack.paths).status().id
        log = stack.process.text()
        assert "out of system resource" not in log
        assert len(log) < 50_000


def _few_files(arguments: list[str]) -> list[str]:
    """The service with a soft limit of 64 open files, and a hard one of 300."""
    code = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300)); "
        "runpy.run_module('ladle_service', run_name='__main__')"
    )
    assert arguments[1:] == ["-m", "ladle_service"]
    return [sys.executable, "-c", code]


def test_what_is_said_to_each_of_many_is_logged_a_few_times(tmp_path: Path) -> None:
    with api_stack(tmp_path / "s") as stack:
        for _ in range(100):
            with connect(stack) as raw:
                raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
                assert answer_to(raw).startswith(b"HTTP/1.1 400 ")
        assert 0 < stack.process.text().count("Invalid HTTP request") < 20


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With tokens of ann and bob, and small limits."""
    folder = tmp_path_factory.mktemp("owned")
    tokens = folder / "tokens"
    tokens.write_text(f"ann:{hash_token('ann-token')}\nbob:{hash_token('bob-token')}\n")
    with api_stack(
        folder / "s", TOKENS_FILE=str(tokens), MAX_STREAMS_PER_OWNER="5", MAX_QUEUED_JOBS_PER_OWNER="3"
    ) as stack:
        yield stack


def test_streams_of_one_owner_do_not_starve_another(owned: Stack) -> None:
    with owned.client("ann-token") as ann, owned.client("bob-token") as bob, ExitStack() as opened:
        hers, his = ann.submit(*owned.paths), bob.submit(*owned.paths)
        for _ in range(5):
            raw = opened.enter_context(connect(owned))
            raw.sendall(stream_of(hers.id, "ann-token"))
            assert raw.recv(12) == b"HTTP/1.1 200"
        with connect(owned) as raw:
            raw.sendall(stream_of(hers.id, "ann-token"))
            assert raw.recv(12) == b"HTTP/1.1 429"
        his.cancel()
        assert [event.body.kind for event in his.events()] == ["state", "state"]
        assert hers.cancel()
        until(lambda: len(list(hers.events())) == 2, what="her streams to have ended")


def test_the_streams_of_one_owner_take_half_of_the_connections_at_the_most(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{hash_token('ann-token')}\nbob:{hash_token('bob-token')}\n")
    with (
        api_stack(tmp_path / "s", TOKENS_FILE=str(tokens), MAX_CONNECTIONS="10") as stack,
        stack.client("ann-token") as ann,
        stack.client("bob-token") as bob,
        ExitStack() as opened,
    ):
        statuses = []
        for client, token in ((ann, "ann-token"), (bob, "bob-token")):
            job = client.submit(*stack.paths).id
            for _ in range(6 if client is ann else 2):
                raw = opened.enter_context(connect(stack))
                raw.sendall(stream_of(job, token))
                statuses.append(raw.recv(12)[-3:])
        assert statuses == [b"200"] * 5 + [b"429"] + [b"200"] * 2


def test_the_queue_of_one_owner_is_bounded(owned: Stack) -> None:
    with Client(owned.url, "ann-token", patience=0.0) as ann, Client(owned.url, "bob-token", patience=0.0) as bob:
        jobs = [ann.submit(*owned.paths) for _ in range(3)]
        with pytest.raises(TooMany, match=r"At most 3 of your jobs .*too-many-jobs"):
            ann.submit(*owned.paths)
        bob.submit(*owned.paths).cancel()
        with httpx2.Client(base_url=owned.url, headers={"Authorization": "Bearer ann-token"}) as plain:
            refusal = plain.post("/v1/jobs", json=owned.body, headers={"Idempotency-Key": "k"})
            assert (refusal.status_code, refusal.json()["code"]) == (429, "too-many-jobs")
            assert int(refusal.headers["retry-after"]) > 0
            jobs[0].cancel()
            created = plain.post("/v1/jobs", json=owned.body, headers={"Idempotency-Key": "k"})
            assert created.status_code == 202
            again = plain.post("/v1/jobs", json=owned.body, headers={"Idempotency-Key": "k"})
            assert (again.status_code, again.json()["id"]) == (200, created.json()["id"])
