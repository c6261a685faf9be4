"""The contracts hold for every type that crosses between processes: closed, frozen, and the same after JSON."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import ladle_contracts
from ladle_contracts import PROBLEM_TITLES, ErrorCode, Event, JobResult, JobSpec, JobState, Warned
from ladle_contracts.job_record import TERMINAL_STATES
from ladle_contracts.transitions import NAMES, SCRIPTS
from tests.unit.client.answers import RESULT

MODELS = sorted(
    {item for item in vars(ladle_contracts).values() if inspect.isclass(item) and issubclass(item, BaseModel)},
    key=lambda model: model.__name__,
)
MINIMAL: dict[str, Any] = {"ckpt_dir": "/c", "val_set": "/v"}
EVENT: dict[str, Any] = {"id": "1-0", "job_id": "j", "attempt": 1, "time": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_is_frozen_and_takes_no_unknown_field(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"
    for name, field in model.model_fields.items():
        mutable = str(field.annotation).startswith(("list", "set", "typing.List"))
        assert not mutable, f"{name} of a frozen model must not be a list"


def test_a_spec_needs_two_paths_and_has_a_default_for_the_rest() -> None:
    spec = JobSpec.model_validate(MINIMAL)
    assert spec.method.name == "auto"
    assert (spec.task, spec.train_set, spec.metric, spec.seed, spec.priority) == (None, None, None, 0, 0)
    assert spec.select_fraction == 0.5
    assert spec.output.dtype == "keep"
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_exclude_takes_one_glob_or_several_and_both_ask_for_the_same() -> None:
    one, several = (
        JobSpec.model_validate_json(json.dumps(MINIMAL | {"checkpoints": {"exclude": given}}))
        for given in ("best*", ["best*"])
    )
    assert one == several
    assert one.checkpoints.exclude == ("best*",)
    assert JobSpec.model_validate_json(one.model_dump_json()) == one


def test_a_step_may_be_a_part_of_an_epoch_and_a_whole_one_stays_whole() -> None:
    spec = JobSpec.model_validate_json(json.dumps(MINIMAL | {"checkpoints": {"steps": [100, 0.25]}}))
    assert spec.model_dump_json().count('"steps":[100,0.25]') == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ckpt_dir": ""},
        {"ckpt_dir": "/a\0b"},
        {"colour": "red"},
        {"seed": -1},
        {"seed": "7"},
        {"priority": 101},
        {"select_fraction": 1.0},
        {"select_fraction": float("nan")},
        {"checkpoints": {"last": 0}},
        {"checkpoints": {"steps": []}},
        {"method": {"name": "twa", "options": {}, "extra": 1}},
        {"output": {"name": ".."}},
        {"output": {"name": ".hidden"}},
        {"output": {"name": "a/b"}},
        {"output": {"dtype": "int4"}},
        {"resources": {"nodes": 0}},
        {"train_set": {"path": "/t", "use": "everything"}},
        {"labels": {"k": 1}},
    ],
    ids=str,
)
def test_a_wrong_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate_json(json.dumps(MINIMAL | change))


def test_a_result_and_an_event_are_the_same_after_json() -> None:
    assert JobResult.model_validate_json(RESULT.model_dump_json()) == RESULT
    event = Event.model_validate_json(json.dumps(EVENT | {"body": {"kind": "warning", "message": "m"}}))
    assert event.body == Warned(message="m")
    assert Event.model_validate_json(event.model_dump_json()) == event


def test_every_problem_has_a_status_and_a_title() -> None:
    assert set(PROBLEM_TITLES) == set(ErrorCode)
    assert all(400 <= status < 600 and title for status, title in PROBLEM_TITLES.values())


def test_lua_and_python_agree_on_the_last_states_and_every_script_says_what_it_answers() -> None:
    prelude = SCRIPTS["end"]
    for state in JobState:
        assert (f"{state} = true" in prelude) == (state in TERMINAL_STATES)
    for name in NAMES:
        own = SCRIPTS[name].rsplit("\n-- ", 1)
        assert len(own) == 2, name
        assert "ARGV" in SCRIPTS[name]
