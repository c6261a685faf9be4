"""What a newer version has written is read, kept and sent on, wherever it stands; what a person sends is not."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import (
    CandidateResult,
    Catalog,
    CheckpointsFound,
    ErrorCode,
    Event,
    JobRecord,
    JobSpec,
    JobState,
    MethodInfo,
    NodeRecord,
    OptionInfo,
    Problem,
    Progress,
    Reason,
    StateChanged,
    TaskChoice,
    TaskInfo,
    TrainSet,
    UnknownEvent,
)
from ladle_contracts._model import Contract
from ladle_contracts.events import read_event_body
from ladle_contracts.job_record import TERMINAL_STATES
from ladle_contracts.job_spec import read_spec
from ladle_contracts.rules import broken_rules
from ladle_contracts.spec_fields import unknown_fields
from tests.unit.client.answers import RESULT

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SPEC = JobSpec(
    ckpt_dir="/c", val_set="/v", task=TaskChoice(name="t", options={"a": 1}), train_set=TrainSet(path="/t")
)  # fmt: skip
CANDIDATE = CandidateResult(method="twa", label="twa", select={"accuracy": 0.5})
OPTION = OptionInfo(name="steps", type="int", default=1, help="h")
METHOD = MethodInfo(name="twa", summary="s", reference="r", reference_url="u", options=(OPTION,))
MODELS: list[Contract] = [
    SPEC,
    RESULT,
    Progress(stage="train", candidates=(CANDIDATE,)),
    JobRecord(id="j", spec=SPEC, state=JobState.SUCCEEDED, created_at=NOW, result=RESULT, nodes=("n",)),
    Catalog(methods=(METHOD,), tasks=(TaskInfo(name="t", summary="s", metrics=("m",), options=(OPTION,)),)),
    NodeRecord(
        id="n", host="h", ranks=1, version="1", torch_version="2", started_at=NOW, heartbeat_at=NOW, alive=True
    ),
    Problem(title="t", status=503, code=ErrorCode.UNAVAILABLE, detail="d"),
    Event(id="1-0", job_id="j", attempt=1, time=NOW, body=StateChanged(state=JobState.FAILED, reason=Reason.CRASHED)),
    Event(
        id="1-0", job_id="j", attempt=1, time=NOW,
        body=CheckpointsFound(names=("a",), num_parameters=1, dtype="float32", task="t"),
    ),
]  # fmt: skip
PLAIN = ("options", "labels", "select", "fit", "sets", "files", "errors", "default", "take_from", "tensors_taken")
"""Objects with names of the person's own, where every name is known."""


def enriched(value: Any) -> Any:
    """A JSON value in which every object has one field more."""
    if isinstance(value, list):
        return [enriched(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: each if name in PLAIN and isinstance(each, dict) else enriched(each) for name, each in value.items()}
    inner["next_version"] = {"deep": [1, "two", None]}
    return inner


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_unknown_fields_are_kept_wherever_they_stand(model: Contract) -> None:
    newer = enriched(json.loads(model.model_dump_json()))
    read = type(model).read(json.dumps(newer))
    assert json.loads(read.model_dump_json()) == newer
    assert read.model_dump(mode="json") == newer
    assert type(model).read(read.model_dump_json()) == read
    for name, value in model:
        if not isinstance(value, Contract | tuple):
            assert getattr(read, name) == value, name


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_without_reading_an_unknown_field_is_an_error(model: Contract) -> None:
    with pytest.raises(ValidationError):
        type(model).model_validate_json(json.dumps(json.loads(model.model_dump_json()) | {"next_version": 1}))


def test_an_event_of_a_newer_kind_keeps_its_fields() -> None:
    body = {"kind": "party", "guests": ["a", "b"], "deep": {"x": 1}}
    found = read_event_body(json.dumps(body))
    assert isinstance(found, UnknownEvent)
    assert found.kind == "party"
    assert json.loads(found.model_dump_json()) == body
    event = Event.read(
        json.dumps({"id": "1-0", "job_id": "j", "attempt": 1, "time": "2026-01-01T00:00:00Z", "body": body})
    )
    assert event.body == found
    assert Event.read(event.model_dump_json()) == event


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "step", "stage": "train", "step": 1.5, "total": 2},
        {"kind": "checkpoints", "count": 3},
        {"kind": "candidate", "candidates": []},
    ],
    ids=str,
)
def test_a_known_event_with_other_fields_than_ours_is_kept_too(body: dict[str, Any]) -> None:
    found = read_event_body(json.dumps(body))
    assert isinstance(found, UnknownEvent)
    assert json.loads(found.model_dump_json()) == body


@pytest.mark.parametrize("body", [{}, {"kind": 3}, {"kind": None}, [], "state"], ids=str)
def test_what_has_no_kind_is_no_event(body: Any) -> None:
    with pytest.raises(ValidationError):
        read_event_body(json.dumps(body))


@pytest.mark.parametrize("words", [JobState, Reason, ErrorCode])
def test_a_newer_word_is_kept_and_can_be_compared_and_pickled(words: type[JobState]) -> None:
    newer = words.read("next-version")
    assert newer == "next-version"
    assert isinstance(newer, words)
    assert str(newer) == newer.value == f"{newer}" == "next-version"
    assert "next-version" not in list(words)
    assert pickle.loads(pickle.dumps(newer)) == newer
    for known in words:
        assert words.read(str(known)) is known
        assert pickle.loads(pickle.dumps(known)) is known
    with pytest.raises(ValueError, match="next-version"):
        words("next-version")


def test_a_record_with_newer_words_is_read_and_sent_on() -> None:
    text = JobRecord(id="j", spec=SPEC, state=JobState.FAILED, created_at=NOW, reason=Reason.CRASHED).model_dump_json()
    newer = text.replace('"failed"', '"paused"').replace('"crashed"', '"tired"')
    record = JobRecord.read(newer)
    assert (record.state, record.reason) == ("paused", "tired")
    assert record.state not in TERMINAL_STATES
    assert record.state.past_tense == "paused"
    assert json.loads(record.model_dump_json()) == json.loads(newer)
    assert pickle.loads(pickle.dumps(record)) == record


NEWER_SPEC = {
    "ckpt_dir": "s3://bucket/c",
    "val_set": "/v",
    "resources": {"nodes": 5000, "ranks_per_node": 1, "precision": "int2", "topology": {"racks": 2}},
    "checkpoints": {"steps": [1, 2.5], "exclude": ["a", "b"], "order": "size"},
    "labels": {"a": "b"},
    "seed": -1,
    "deadline_s": 60,
}


def test_a_spec_that_this_version_would_refuse_is_shown_as_it_was_asked_for() -> None:
    spec = read_spec(json.dumps(NEWER_SPEC))
    assert (spec.resources.nodes, spec.resources.precision) == (5000, "int2")
    assert spec.checkpoints.exclude == ("a", "b")
    assert (spec.method.name, spec.labels) == ("auto", {"a": "b"})
    assert unknown_fields(spec) == ["deadline_s", "resources.topology"]
    shown = json.loads(spec.model_dump_json(exclude_unset=True))
    assert shown == NEWER_SPEC
    record = json.loads(JobRecord(id="j", spec=spec, state=JobState.QUEUED, created_at=NOW).model_dump_json())
    again = JobRecord.read(json.dumps(record))
    assert json.loads(again.model_dump_json()) == record
    with pytest.raises(ValidationError) as refused:
        JobSpec.read(json.dumps(NEWER_SPEC))
    fields = {each.field for each in broken_rules(refused.value)}
    assert fields == {"resources.nodes", "resources.precision", "checkpoints.order", "seed"}
