"""Whatever is sent is accepted, or refused with a code: no mistake of ours, and no page that is empty for no reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle_contracts import JobState
from ladle_contracts.field_types import OPTIONS_BYTES, OPTIONS_DEPTH
from ladle_service.cursors import Cursor
from tests.unit.service.fakes import Service, make_service
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
JSON = {"content-type": "application/json"}


def nested(depth: int, inner: Any = 1, *, as_object: bool = False) -> Any:
    for _ in range(depth):
        inner = {"x": inner} if as_object else [inner]
    return inner


def options(value: Any) -> dict[str, Any]:
    return {"method": {"name": "twa", "options": {"x": value}}}


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "many labels": ({"labels": {str(number): "x" for number in range(51)}}, "labels"),
    "a label's name": ({"labels": {"n" * 201: "x"}}, "labels."),
    "a megabyte of a label's name": ({"labels": {"n" * 900_000: "x"}}, "labels."),
    "a label's name with many dots": ({"labels": {"n." * 400_000: "x"}}, "labels."),
    "a label's value": ({"labels": {"n": "x" * 201}}, "labels.n"),
    "a label without a name": ({"labels": {"": "x"}}, "labels."),
    "a label that no filter can name": ({"labels": {"a=b": "x"}}, "labels."),
    "options within options": (options(nested(OPTIONS_DEPTH)), "method.options"),
    "options 100 deep": (options(nested(100)), "method.options"),
    "objects within options": (options(nested(OPTIONS_DEPTH, as_object=True)), "method.options"),
    "an empty list too deep": (options(nested(OPTIONS_DEPTH - 1, [])), "method.options"),
    "long options": (options("x" * OPTIONS_BYTES), "method.options"),
    "many options": (options(list(range(OPTIONS_BYTES))), "method.options"),
    "an option's name": ({"method": {"options": {"n" * 101: 1}}}, "method.options."),
    "a huge number": (options(10**100), "method.options"),
    "a huge number inside": (options([{"y": -(2**63) - 1}]), "method.options"),
    "a task's options": ({"task": {"name": "t", "options": {"x": nested(20)}}}, "task.options"),
    "a method's name": ({"method": {"name": "m" * 101}}, "method.name"),
    "a method's name in capitals": ({"method": {"name": "TWA"}}, "method.name"),
    "a method's name of other digits": ({"method": {"name": "twa\u0663"}}, "method.name"),
    "a task's name": ({"task": {"name": "t\n"}}, "task.name"),
    "a metric": ({"metric": "\u202eaccuracy"}, "metric"),
    "a pattern": ({"checkpoints": {"pattern": "*" * 501}}, "checkpoints.pattern"),
    "many patterns": ({"checkpoints": {"exclude": ["*"] * 101}}, "checkpoints.exclude"),
    "an order": ({"checkpoints": {"order": "backwards"}}, "checkpoints.order"),
    "last": ({"checkpoints": {"last": 10**6 + 1}}, "checkpoints.last"),
    "a huge last": ({"checkpoints": {"last": 10**400}}, "checkpoints.last"),
    "many steps": ({"checkpoints": {"steps": list(range(10_001))}}, "checkpoints.steps"),
    "a huge step": ({"checkpoints": {"steps": [1e300]}}, "checkpoints.steps"),
    "a seed": ({"seed": 2**63}, "seed"),
    "a priority": ({"priority": 101}, "priority"),
    "a shard": ({"output": {"max_shard_bytes": 2**63}}, "output.max_shard_bytes"),
    "a folder's name": ({"output": {"name": "a" * 201}}, "output.name"),
    "a path": ({"ckpt_dir": "/" + "x" * 4096}, "ckpt_dir"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_of_anything_is_refused_by_field_in_a_short_answer(
    service: Service, run_async: RunAsync, what: str
) -> None:
    fields, named = TOO_MUCH[what]

    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(**fields))
            assert problem_of(answer)[:2] == (422, "invalid-spec")
            assert answer.json()["errors"][0]["field"].startswith(named)
            assert len(answer.content) < 10_000
            assert not service.store.jobs

    run_async(use())


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {"n" * 200: "x" * 200}},
        {"labels": {"\u202e\x1b[31m\0": "\n\0\u2028"}},
        options(nested(OPTIONS_DEPTH - 1)),
        options(["x" * (OPTIONS_BYTES - 20)]),
        options([2**64 - 1, -(2**63), 1e308, True, None]),
        {"checkpoints": {"last": 10**6, "steps": [2**53, 0.25], "exclude": ["*"] * 100}},
    ],
    ids=range(6),
)
def test_what_is_just_within_the_bounds_is_accepted_and_listed(
    service: Service, run_async: RunAsync, fields: dict[str, Any]
) -> None:
    async def use() -> None:
        async with service.client() as client:
            assert (await client.post("/v1/jobs", json=service.spec(**fields))).status_code == 202
            assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1

    run_async(use())


BODIES = {
    "a number that is infinite": b'{"seed": 1e400}',
    "a negative one": b'{"select_fraction": -1e400}',
    "a number of 5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "such a number in options": b'{"method": {"options": {"x": ' + b"9" * 5000 + b"}}}",
    "a number of 4,000 digits": b'{"seed": ' + b"9" * 4000 + b"}",
    "a lone surrogate": b'{"ckpt_dir": "\\ud800"}',
    "a lone surrogate in a label's name": b'{"labels": {"\\udfff": "x"}}',
    "surrogates in the wrong order": b'{"labels": {"x": "\\ude00\\ud83d"}}',
    "a lone surrogate as an option": b'{"method": {"options": {"x": "\\ud800"}}}',
    "a lone surrogate as an unknown field": b'{"\\ud800": 1}',
    "bytes that are no text": b'{"labels": {"x": "\xff\xfe"}}',
    "UTF-16": '{"seed": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"seed": 1}',
    "a hundred thousand lists": b"[" * 100_000,
    "a hundred thousand objects": b'{"a":' * 100_000,
    "options 198 deep": json.dumps(options(nested(198))).encode(),
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1e5",
    "nothing": b"",
    "a NUL": b"\0",
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_no_spec_is_refused(service: Service, run_async: RunAsync, what: str) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", content=BODIES[what], headers=JSON)
            assert problem_of(answer)[:2] == (422, "invalid-spec")
            assert len(answer.content) < 10_000

    run_async(use())


GOOD = str(Cursor("1764000000000", "job1"))
CURSORS = [
    "nonsense",
    "0",
    "1764000000000-job1",
    "1764000000000-job1-00000000",
    GOOD[:-1],
    GOOD[1:],
    GOOD + "0",
    GOOD.upper(),
    GOOD.replace("job1", "job2"),
    GOOD.replace("1764", "1765"),
    "\u0661\u0667\u0666\u0664-job1",
    "\u0661" + GOOD[1:],
    "\uff11" + GOOD[1:],
    "\u00b2-x",
    "-1-x",
    "1e400-x",
    "9" * 25 + "-x-00000000",
    "(1-x",
    "+inf-x",
    "1-x:events-0",
    " " + GOOD,
    GOOD + "\n",
    GOOD + "\0",
    "",
    "x" * 201,
    "x" * 20_000,
]


@pytest.mark.parametrize("cursor", CURSORS, ids=ascii)
def test_a_cursor_that_no_page_had_is_refused_and_not_an_empty_page(
    service: Service, run_async: RunAsync, cursor: str
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            answer = await client.get("/v1/jobs", params={"cursor": cursor})
            assert problem_of(answer)[:2] == (422, "invalid-request")
            assert answer.json()["errors"][0]["field"] == "query.cursor"

    run_async(use())


EVENT_IDS = [
    "18446744073709551615-18446744073709551615",
    "18446744073709551615-0",
    "0-18446744073709551615",
    "9223372036854775808-0",
    "99999999999999999999-0",
    "9" * 5000 + "-0",
    "1",
    "1-",
    "-1-1",
    "1-1-1",
    "\u0661-\u0661",
    "\uff11-0",
    "\u00b2-0",
    "(1-0",
    "+",
    "$",
    "1-*",
    "1-0\n",
    "1-0\0",
    "1.0-0",
    "1e3-0",
    "",
]


@pytest.mark.parametrize("event_id", EVENT_IDS, ids=ascii)
@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["list", "stream"])
def test_an_event_id_that_no_event_has_is_refused(
    service: Service, run_async: RunAsync, event_id: str, headers: dict[str, str]
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            service.store.move("job1", JobState.CANCELLED)
            by_query = await client.get("/v1/jobs/job1/events", params={"after": event_id}, headers=headers)
            assert problem_of(by_query)[:2] == (422, "invalid-request")
            if not any(char in event_id for char in "\n\0"):  # HTTP has no such header
                raw = [*headers.items(), ("Last-Event-ID", event_id.encode())]
                by_header = await client.get("/v1/jobs/job1/events", headers=raw)
                assert problem_of(by_header)[:2] == (422, "invalid-request")

    run_async(use())


def test_the_largest_event_id_that_is_accepted_has_nothing_after_it(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            largest = f"{2**63 - 1}-{2**63 - 1}"
            page = await client.get("/v1/jobs/job1/events", params={"after": largest})
            assert (page.status_code, page.json()["events"]) == (200, [])

    run_async(use())


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 19, b"9" * 5000, b"+5", b"-1", b"", b"0x10", b"1e400", b"\xb9\xb2"])
def test_a_length_of_the_body_that_is_no_number_or_no_size_is_no_mistake_of_ours(
    service: Service, run_async: RunAsync, length: bytes
) -> None:
    async def use() -> None:
        async with service.client() as client:
            headers = [("Content-Type", "application/json"), ("Content-Length", length)]
            answer = await client.post("/v1/jobs", content=b"{}", headers=headers)
            assert problem_of(answer)[:2] in ((422, "invalid-spec"), (413, "body-too-large"))

    run_async(use())


anything = st.text(min_size=0, max_size=50) | st.text(alphabet="0123456789-+e.\u0661\u00b2\uff11\0\n=&%", max_size=30)


@pytest.mark.slow
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_text_anywhere_in_a_request_gets_an_answer_with_a_code(tmp_path_factory: Any, data: st.DataObject) -> None:
    service = make_service(Path(tmp_path_factory.mktemp("any")))
    paths = ["/v1/jobs", "/v1/jobs/job1", "/v1/jobs/job1/events", "/v1/jobs/job1/logs", "/v1/nodes", "/readyz"]
    names = st.sampled_from(["state", "label", "cursor", "limit", "after", "tail"]) | anything
    query = data.draw(st.lists(st.tuples(names, anything), max_size=3))
    header_names = [
        "Last-Event-ID",
        "Idempotency-Key",
        "Accept",
        "Content-Type",
        "Content-Length",
        "Authorization",
        "Expect",
    ]
    header_values = st.binary(max_size=30).filter(lambda value: not set(value) & set(b"\0\r\n"))
    headers = data.draw(st.lists(st.tuples(st.sampled_from(header_names), header_values), max_size=2))
    method, path = data.draw(st.sampled_from(["GET", "POST", "DELETE", "PUT"])), data.draw(st.sampled_from(paths))

    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            service.store.move("job1", JobState.CANCELLED)
            answer = await client.request(method, path, params=query, headers=headers)
            assert answer.status_code < 500, (answer.text, answer.request.headers.raw)
            if answer.status_code >= 400:
                assert answer.json()["code"]

    asyncio.run(use())


def test_json_says_itself_what_it_accepts(service: Service) -> None:
    """The bounds that JSON schema has words for are in the document that editors and other clients read."""
    text = json.dumps(service.app.openapi()["components"]["schemas"])
    for bound in ('"maxProperties": 50', '"propertyNames": {"maxLength": 200', '"maxItems": 10000', '"maxItems": 100'):
        assert bound in text
