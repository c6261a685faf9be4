"""Trackers of real jobs: told of all, beside the ranks; and whatever they do, the job ends as without them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from ladle_contracts import Warned
from tests.builders import make_checkpoints, make_val_set, quick_options
from tests.integration.api_stack import Stack, api_stack
from tests.polling import DEADLINE_S, until
from tests.receivers import Receiver, receiver
from tests.servers import running, worker_process

pytestmark = pytest.mark.slow
STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[Stack]:
    """Its worker tells TensorBoard of all jobs, waits five seconds for trackers, and writes its log as JSON. Both send
    traces."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("tracked")
    data = folder / "data"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with api_stack(folder) as made, made.client() as asking:
        worker = worker_process(
            folder, made.server, data, TRACKERS="tensorboard", TRACKER_WAIT_S="5", LOG_FORMAT="json"
        )
        paths = [str(STAND_INS), worker.environment["PYTHONPATH"]]
        worker.environment = {**worker.environment, "PYTHONPATH": os.pathsep.join(paths)}
        with running(worker):
            monkeypatch.undo()
            make_checkpoints(data / "checkpoints")
            make_val_set(data / "val.npz")
            until(lambda: asking.methods(), what="the worker to register")
            yield made


def spans(collector: Receiver) -> list[tuple[str, Span]]:
    """What has come so far, each with the name of its service."""
    found = []
    for request in list(collector.requests):
        assert request.path == "/v1/traces"
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            found += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
    return found


def scalars(folder: Path) -> dict[str, list[float]]:
    """Of all files of events in a folder, by their tags."""
    found: dict[str, list[float]] = {}
    for file in folder.rglob("events.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            content = data[at + 12 : at + 12 + length]
            assert int.from_bytes(data[at + 12 + length : at + 16 + length], "little") == masked_crc32c(content)
            at += 16 + length
            for value in Event.FromString(content).summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, []).append(value.simple_value)
    return found


def test_a_job_is_told_to_tensorboard_and_trackers_that_fail_or_hang_are_warnings(stack: Stack) -> None:
    """MLflow's library ends its process, W&B's is not installed, Trackio's never answers."""
    data = stack.folder / "data"
    with stack.client() as client:
        job = client.submit(
            data / "checkpoints",
            data / "val.npz",
            method={"name": "twa", "options": quick_options(4)["twa"]},
            tracking={"trackers": ["mlflow", "wandb", "trackio"], "project": "digits", "run": "one"},
        )
        result = job.result(timeout=DEADLINE_S)
        told = {event.body.message for event in job.events(follow=False) if isinstance(event.body, Warned)}
    folder = stack.folder / "results" / ".trackers" / "tensorboard" / "digits" / f"one-{job.id[:10]}"
    found = scalars(folder)
    report = json.loads((Path(result.folder) / "report.json").read_text())
    assert found["train/twa/loss"]
    [winner] = [each for each in report["candidates"] if each["method"] == report["winner"]]
    assert found[f"candidates/{result.method}/gain"] == [pytest.approx(winner["gain"], abs=1e-6)]
    assert found["summary/gain"] == [pytest.approx(result.gain, abs=1e-6)]
    assert any(tag.startswith("coefficients/twa/") for tag in found)
    ended = "The tracker `mlflow` was told nothing more: its process ended with status 7."
    late = "The tracker `trackio` has not taken everything in 5 s, and was told no more."
    assert ended in told, "as soon as it is known"
    assert {ended, late} <= set(result.warnings)
    assert any("pip install wandb" in warning for warning in result.warnings)
    assert sorted(Path(result.folder).iterdir()) == sorted(Path(result.folder) / name for name in result.files)


def test_a_job_is_one_trace_from_its_request_to_its_stages(stack: Stack, collector: Receiver) -> None:
    def of_the_job() -> dict[str, tuple[str, Span]]:
        """By name; of several attempts, stages or requests of one name the last."""
        found = spans(collector)
        trace = next((span.trace_id for _, span in found if span.name == "attempt"), None)
        return {span.name: (service, span) for service, span in found if span.trace_id == trace}

    found = until(
        lambda: (made := of_the_job()).keys() >= {"request", "schedule", "attempt"} and made, what="the spans"
    )
    assert {name: service for name, (service, _) in found.items() if not name.startswith("stage ")} == {
        "request": "ladle-service", "schedule": "ladle-service", "attempt": "ladle-worker",
    }  # fmt: skip
    request, schedule, attempt = (found[name][1] for name in ("request", "schedule", "attempt"))
    assert schedule.parent_span_id == attempt.parent_span_id == request.span_id
    stages = [span for name, (_, span) in found.items() if name.startswith("stage ")]
    assert {"stage train", "stage write"} <= {span.name for span in stages}
    assert all(span.parent_span_id == attempt.span_id for span in stages)
    said = {each.key: each.value for each in attempt.attributes}
    assert (said["ladle.state"].string_value, said["ladle.node"].string_value) == ("succeeded", "node-1")
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for _, span in found.values())


def test_the_log_of_the_worker_is_json_with_the_job_and_the_lines_of_ranks(stack: Stack) -> None:
    entries = [
        json.loads(line) for line in (stack.folder / "node-1.log").read_text().splitlines() if line.startswith("{")
    ]
    assert len(entries) > 3
    assert {entry["node"] for entry in entries} == {"node-1"}
    [ended] = [entry for entry in entries if " ended: succeeded" in entry["message"]]
    assert (ended["attempt"], ended["node_rank"], ended["level"]) == (1, 0, "info")
    assert ended["job"] in ended["message"]
    assert len(ended["request_id"]) == 16, "of the request that submitted it"


def test_a_cancelled_job_does_not_wait_for_its_trackers(stack: Stack) -> None:
    data = stack.folder / "data"
    with stack.client() as client:
        job = client.submit(
            data / "checkpoints",
            data / "val.npz",
            method={"name": "twa", "options": {"steps": 1_000_000}},
            tracking="trackio",
        )
        until(lambda: job.status().progress.stage == "train", what="the job to train")
        job.cancel()
        assert job.wait(timeout=DEADLINE_S).state == "cancelled"
