"""Requests, answers, errors and repetition, against a service that is a function."""

from __future__ import annotations

import json

import httpx2
import pytest

from ladle import (
    Conflict,
    InvalidSpec,
    JobState,
    NotFound,
    ServiceError,
    ServiceUnreachable,
    TooMany,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from ladle._retry import Backoff, parse_retry_after
from ladle_contracts import ErrorCode, JobPage, NodeRecord
from ladle_contracts.api import MethodList, NodeChange, NodeList, TaskList, Version
from tests.unit.client.answers import NOW, Script, client, ok, problem, record

REFUSED = httpx2.ConnectError("connection refused")


def test_submit_sends_the_spec_the_token_and_a_key() -> None:
    script = Script(ok(record(), 202))
    job = client(script).submit("/c", "/v", method="twa")
    (request,) = script.requests
    assert (request.method, request.url.path) == ("POST", "/v1/jobs")
    assert json.loads(request.content) == {"ckpt_dir": "/c", "val_set": "/v", "method": {"name": "twa"}}
    assert request.headers["authorization"] == "Bearer secret-token"
    assert request.headers["idempotency-key"]
    assert job.id == "j1"


def test_a_submit_whose_answer_was_lost_is_sent_again_with_the_same_key() -> None:
    script = Script(httpx2.ReadError("reset"), problem(ErrorCode.UNAVAILABLE), ok(record()))
    assert client(script).submit("/c", "/v").id == "j1"
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    assert len(script.requests) == 3


def test_two_submits_have_two_keys() -> None:
    script = Script(ok(record(), 202), ok(record(), 202))
    both = client(script)
    both.submit("/c", "/v")
    both.submit("/c", "/v")
    assert script.requests[0].headers["idempotency-key"] != script.requests[1].headers["idempotency-key"]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_busy_service_is_asked_again(status: int) -> None:
    script = Script(httpx2.Response(status), ok(record()))
    assert client(script).job("j1").status().id == "j1"
    assert len(script.requests) == 2


def test_a_delete_is_not_sent_twice_when_its_answer_was_lost() -> None:
    script = Script(httpx2.ReadError("reset"))
    with pytest.raises(ServiceUnreachable):
        client(script).job("j1").delete()


def test_a_delete_that_never_left_is_sent_again() -> None:
    script = Script(REFUSED, httpx2.Response(204))
    client(script).job("j1").delete()
    assert len(script.requests) == 2


def test_when_patience_ends_the_error_names_the_address_and_what_to_do() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise REFUSED

    with pytest.raises(ServiceUnreachable, match=r"http://ladle\.test .*refused.*ladle up") as caught:
        client(away, patience=0.01).version()
    assert isinstance(caught.value, ConnectionError)


def test_a_service_that_stays_unavailable_is_reported_as_it_says() -> None:
    def unavailable(request: httpx2.Request) -> httpx2.Response:
        return problem(ErrorCode.UNAVAILABLE, "the store does not answer")

    with pytest.raises(Unavailable, match=r"the store does not answer \[unavailable\]"):
        client(unavailable, patience=0.01).version()


@pytest.mark.parametrize("code", [ErrorCode.TOO_MANY_REQUESTS, ErrorCode.TOO_MANY_STREAMS, ErrorCode.TOO_MANY_JOBS])
def test_whoever_wants_too_much_waits_as_told_and_then_hears_why(code: ErrorCode) -> None:
    script = Script(*[problem(code, "at most 3", **{"retry-after": "0"})] * 2, ok(record()))
    assert client(script).submit("/c", "/v").id == "j1"
    with pytest.raises(TooMany, match=f"at most 3 .{code}"):
        client(lambda _: problem(code, "at most 3", **{"retry-after": "9"}), patience=0.01).submit("/c", "/v")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCode.INVALID_SPEC, InvalidSpec),
        (ErrorCode.PATH_NOT_ALLOWED, InvalidSpec),
        (ErrorCode.UNKNOWN_METHOD, InvalidSpec),
        (ErrorCode.UNAUTHORIZED, Unauthorized),
        (ErrorCode.NOT_FOUND, NotFound),
        (ErrorCode.OUTPUT_EXISTS, Conflict),
        (ErrorCode.IDEMPOTENCY_CONFLICT, Conflict),
        (ErrorCode.INTERNAL, ServiceError),
    ],
)
def test_each_problem_is_an_exception_with_its_code(code: ErrorCode, kind: type[ServiceError]) -> None:
    script = Script(problem(code, "the detail"))
    with pytest.raises(kind, match="the detail") as caught:
        client(script).submit("/c", "/v")
    assert caught.value.code == code
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, content=b"<html>login</html>"),
        httpx2.Response(200, content=b'{"id": 1}'),
        httpx2.Response(404, content=b"nginx"),
        httpx2.Response(302, headers={"location": "/login"}),
    ],
)
def test_somebody_elses_answer_is_told_apart(answer: httpx2.Response) -> None:
    with pytest.raises(UnexpectedAnswer):
        client(Script(answer)).job("j1").status()


def test_a_field_that_a_newer_service_adds_is_no_error() -> None:
    fields = json.loads(record().model_dump_json()) | {"colour": "blue"}
    fields["progress"]["mood"] = "good"
    assert client(Script(httpx2.Response(200, json=fields))).job("j1").status().id == "j1"


def test_jobs_come_page_by_page_as_they_are_needed() -> None:
    script = Script(
        ok(JobPage(jobs=(record(id="j3"), record(id="j2")), next_cursor="c1")), ok(JobPage(jobs=(record(id="j1"),)))
    )
    jobs = client(script).jobs(state=JobState.QUEUED, labels={"run": "7"})
    assert next(jobs).id == "j3"
    assert len(script.requests) == 1
    assert [job.id for job in jobs] == ["j2", "j1"]
    assert dict(script.requests[0].url.params) == {"limit": "200", "state": "queued", "label": "run=7"}
    assert script.requests[1].url.params["cursor"] == "c1"


def test_nodes_methods_tasks_and_version_are_asked_where_they_are() -> None:
    script = Script(
        ok(NodeList(nodes=())), ok(MethodList(methods=())), ok(TaskList(tasks=())), ok(Version(version="1.2"))
    )
    with client(script) as asking:
        assert (asking.nodes(), asking.methods(), asking.tasks()) == ((), (), ())
        assert asking.version().version == "1.2"
    assert [request.url.path for request in script.requests] == ["/v1/nodes", "/v1/methods", "/v1/tasks", "/version"]


def test_an_operator_says_whether_a_node_takes_jobs() -> None:
    change = NodeChange(
        node=NodeRecord(
            id="n/1", host="h", ranks=1, version="1", torch_version="2", started_at=NOW, heartbeat_at=NOW, alive=True
        ),
        changed=True,
    )
    script = Script(ok(change), ok(change), ok(change))
    with client(script) as asking:
        assert asking.cordon("n/1", reason="a disk") == change
        assert asking.drain("n/1", now=True) == change
        assert asking.uncordon("n/1") == change
    assert [(request.method, request.url.raw_path) for request in script.requests] == [
        ("POST", b"/v1/nodes/n%2F1/cordon?reason=a+disk"),
        ("POST", b"/v1/nodes/n%2F1/drain?now=true"),
        ("POST", b"/v1/nodes/n%2F1/uncordon"),
    ]


def test_a_job_id_cannot_lead_to_another_address() -> None:
    script = Script(problem(ErrorCode.NOT_FOUND))
    with pytest.raises(NotFound):
        client(script).job("../nodes").status()
    assert script.requests[0].url.raw_path == b"/v1/jobs/..%2Fnodes"


def test_pauses_grow_to_a_limit_and_are_drawn_at_random() -> None:
    now = 0.0
    backoff = Backoff(patience_s=100, first_s=0.1, longest_s=1.0, clock=lambda: now, draw=lambda low, high: high)
    assert [backoff.next_pause() for _ in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    bounds: list[tuple[float, float]] = []
    Backoff(patience_s=1, first_s=0.1, draw=lambda low, high: bounds.append((low, high)) or low).next_pause()
    assert bounds == [(0.05, 0.1)]


def test_patience_is_for_failures_in_a_row() -> None:
    now = 0.0
    backoff = Backoff(patience_s=5, clock=lambda: now)
    assert backoff.next_pause() is not None
    now = 6.0
    assert backoff.next_pause() is None
    backoff.succeeded()
    assert backoff.next_pause() is not None


def test_who_answers_without_use_is_borne_with_longer_pauses() -> None:
    now = 0.0
    backoff = Backoff(patience_s=5, first_s=0.1, longest_s=1.0, clock=lambda: now, draw=lambda low, high: high)
    pauses = []
    for now in range(0, 60, 4):  # noqa: B007  the clock reads it
        backoff.answered()
        pauses.append(backoff.next_pause())
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert None not in pauses


def test_the_services_own_wish_for_a_pause_is_obeyed_within_patience() -> None:
    assert Backoff(patience_s=5, clock=lambda: 0.0).next_pause(2.0) == 2.0
    assert Backoff(patience_s=5, clock=lambda: 0.0).next_pause(3600.0) == 5.0
    assert parse_retry_after("7") == 7.0
    assert parse_retry_after("Wed, 21 Oct 2026 07:28:00 GMT") is None
    assert parse_retry_after("-1") is None
