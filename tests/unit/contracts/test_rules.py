"""What pydantic finds wrong is told in Ladle's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import JobSpec
from ladle_contracts.rules import broken_rules


def told(**fields: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate_json(json.dumps({"ckpt_dir": "/c", "val_set": "/v"} | fields))
    return [f"`{each.field}` {each.describe()}" for each in broken_rules(caught.value)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoints": {"last": 0}}, "`checkpoints.last` must be at least 1, but is 0"),
        ({"checkpoints": {"last": True}}, "`checkpoints.last` must be a whole number, but is True"),
        ({"checkpoints": {"last": 2.5}}, "`checkpoints.last` must be a whole number, but is 2.5"),
        ({"checkpoints": {"steps": []}}, "`checkpoints.steps` must not be empty"),
        ({"checkpoints": {"steps": 5}}, "`checkpoints.steps` must be a list, but is 5"),
        ({"checkpoints": {"steps": [1, "x"]}}, "`checkpoints.steps.1` must be a number, but is 'x'"),
        ({"checkpoints": "step-*"}, "`checkpoints` must be an object, but is 'step-*'"),
        ({"checkpoints": {"exclude": ["best*", ""]}}, "`checkpoints.exclude.1` must not be empty, but is ''"),
        ({"checkpoints": {"exclude": 5}}, "`checkpoints.exclude` must be a list, but is 5"),
        ({"checkpoints": {"order": "size"}}, "must be `auto`, `step`, `epoch`, `name` or `modified`, but is 'size'"),
        ({"checkpoints": {"pattern": ""}}, "`checkpoints.pattern` must not be empty, but is ''"),
        ({"select_fraction": 1}, "`select_fraction` must be below 1, but is 1"),
        ({"select_fraction": 0}, "`select_fraction` must be above 0, but is 0"),
        ({"select_fraction": "half"}, "`select_fraction` must be a number, but is 'half'"),
        ({"priority": 101}, "`priority` must be at most 100, but is 101"),
        ({"output": {"dtype": "int4"}}, "must be `keep`, `float32`, `bfloat16` or `float16`, but is 'int4'"),
        ({"output": {"name": "a/b"}}, "must be one folder name"),
        ({"metric": "F1"}, "`metric` must consist of lower-case letters"),
        ({"labels": {"a": 1}}, "`labels.a` must be text, but is 1"),
        ({"labels": []}, "`labels` must be an object"),
        ({"ckpt_dir": "/a\0b"}, "`ckpt_dir` must not contain a NUL character, but is '/a\\x00b'"),
        ({"ckpt_dir": "x" * 5000}, "`ckpt_dir` must have at most 4096 characters"),
        ({"train_set": {}}, "`train_set.path` must be given"),
        ({"colour": "red"}, "`colour` must be left out, because there is no such field"),
    ],
)
def test_each_kind_of_mistake_names_field_rule_and_value(fields: dict[str, Any], message: str) -> None:
    (sentence,) = told(**fields)
    assert message in sentence
    assert "Input" not in sentence


def test_a_value_that_may_be_anything_is_not_repeated() -> None:
    assert "hunter2" not in "".join(told(password="hunter2", checkpoints=["hunter2"]))


def test_every_mistake_is_told() -> None:
    assert len(told(seed=-1, priority=101, nonsense=1)) == 3
