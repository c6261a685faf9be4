"""A merge curve as a job: what its spec takes, what it refuses, and what it is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import JobSpec
from ladle_contracts.job_spec import CurveChoice
from ladle_contracts.output_names import output_name
from ladle_contracts.rules import broken_rules
from ladle_engine.pipeline.along import schedule
from ladle_engine.pipeline.request import KINDS


def spec(**fields: Any) -> JobSpec:
    return JobSpec.model_validate_json(json.dumps({"ckpt_dir": "/runs/resnet/checkpoints", "val_set": "/v", **fields}))


def test_a_curve_has_options_of_its_own() -> None:
    made = spec(kind="curve", curve={"every": 5, "shapes": "linear", "windows": 2})
    assert made.curve == CurveChoice(every=5, shapes=("linear",), windows=2)
    assert spec().kind == "average"
    assert output_name(made, "3f9a2c01be77") == "resnet-curve-3f9a2c01be"


@pytest.mark.parametrize(
    "fields",
    [{"method": {"name": "twa"}}, {"diagnose": True}, {"no_set_worse": True}],
    ids=lambda each: next(iter(each)),
)
def test_what_asks_for_an_average_is_refused_for_a_curve(fields: dict[str, Any]) -> None:
    assert spec(**fields), "as an average it is taken"
    with pytest.raises(ValidationError) as caught:
        spec(kind="curve", **fields)
    (rule,) = broken_rules(caught.value)
    assert rule.field == next(iter(fields))
    assert "must be absent with `kind: curve`" in rule.rule


def test_the_contract_has_the_kinds_shapes_and_windows_of_the_engine() -> None:
    schema = JobSpec.model_json_schema()
    assert tuple(schema["properties"]["kind"]["enum"]) == KINDS
    of_curve = schema["$defs"]["CurveChoice"]["properties"]
    assert tuple(of_curve["windows"]["enum"]) == schedule.WINDOWS
    for shape in schedule.SHAPES:
        assert spec(kind="curve", curve={"shapes": [shape]}).curve.shapes == (shape,)
    with pytest.raises(ValidationError):
        spec(kind="curve", curve={"shapes": ["cosine"]})
