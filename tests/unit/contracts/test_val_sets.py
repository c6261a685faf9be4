"""Several validation sets in a job's spec: what is taken, what is refused, and where it is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import CandidateResult, JobRecord, JobSpec, SetResult
from ladle_contracts.job_spec import read_spec
from ladle_contracts.rules import broken_rules
from ladle_engine.pipeline import request

SETS = {"clean": "/a", "noisy": "/b"}


def spec(**fields: Any) -> JobSpec:
    return JobSpec.model_validate_json(json.dumps({"ckpt_dir": "/c", "val_set": SETS, **fields}))


def test_a_set_may_be_a_path_or_several_by_name_and_both_are_the_same_after_json() -> None:
    for val_set in ("/v", SETS, {"2": "/b", "10": "/a"}):
        made = spec(val_set=val_set, judge_by="mean")
        assert made.val_set == val_set
        assert json.loads(made.model_dump_json())["val_set"] == val_set
        again = read_spec(made.model_dump_json())
        assert again == made
        assert list(again.val_sets) == list(made.val_sets), "the order is kept, because the first one judges"
    assert spec(val_set="/v").val_sets == {"val_set": "/v"}
    assert spec().val_sets == {"val_set.clean": "/a", "val_set.noisy": "/b"}
    assert spec().with_val_sets(lambda field, path: (field, path)) == {
        "clean": ("val_set.clean", "/a"), "noisy": ("val_set.noisy", "/b"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"val_set": 3}, "`val_set` must be text, but is 3"),
        ({"val_set": None}, "`val_set` must be text, but is None"),
        ({"val_set": ["/a"]}, "`val_set` must be text"),
        ({"val_set": ""}, "`val_set` must not be empty, but is ''"),
        ({"val_set": {}}, "`val_set` must not be empty"),
        ({"val_set": {f"s{i}": "/a" for i in range(101)}}, "`val_set` must have at most 100 entries"),
        ({"val_set": {"a b": "/a"}}, "`val_set.a b` must be a name of letters, digits, `_`, `.` and `-`"),
        ({"val_set": {"": "/a"}}, "`val_set.` must not be empty, but is ''"),
        ({"val_set": {"x" * 101: "/a"}}, f"`val_set.{'x' * 101}` must have at most 100 characters"),
        ({"val_set": {"a": 3}}, "`val_set.a` must be text, but is 3"),
        ({"val_set": {"a": {"path": "/a"}}}, "`val_set.a` must be text"),
        ({"val_set": {"[path]": "/a"}}, "`val_set.[path]` must be a name of letters"),
        ({"val_set": {"a": "/x\0y"}}, "`val_set` must not contain a NUL character"),
        ({"judge_by": "second"}, "`judge_by` must be `first`, `mean` or NAME=WEIGHT, but is 'second'"),
        ({"judge_by": 1}, "`judge_by` must be `first`, `mean` or NAME=WEIGHT, but is 1"),
        ({"judge_by": {}}, "`judge_by` must not be empty"),
        ({"judge_by": {"clean": 0}}, "`judge_by.clean` must be at least 1e-06, but is 0"),
        ({"judge_by": {"clean": "1"}}, "`judge_by.clean` must be a number, but is '1'"),
        ({"judge_by": {"cleann": 1}}, "`judge_by` must name validation sets (clean, noisy), and there is no `cleann`"),
        ({"val_set": "/v", "judge_by": {"clean": 1}}, "`judge_by` must name validation sets, but the only one"),
        ({"no_set_worse": 1}, "`no_set_worse` must be"),
    ],
    ids=str,
)  # fmt: skip
def test_what_breaks_a_rule_is_told_by_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    (broken,) = broken_rules(caught.value)
    assert f"`{broken.field}` {broken.describe()}".startswith(message)


def test_a_label_may_have_the_name_of_one_of_our_marks() -> None:
    with pytest.raises(ValidationError) as caught:
        spec(labels={"[path]": 3})
    (broken,) = broken_rules(caught.value)
    assert broken.field == "labels.[path]"


def test_the_engine_has_the_same_bounds() -> None:
    schema = JobSpec.model_json_schema()["properties"]
    sets, weights = schema["val_set"]["oneOf"][1], schema["judge_by"]["oneOf"][1]
    ((pattern, weight),) = weights["patternProperties"].items()
    assert sets["maxProperties"] == request.MOST_SETS
    assert (weight["minimum"], weight["maximum"]) == (request.LEAST_WEIGHT, request.MOST_WEIGHT)
    longest = sets["propertyNames"]["maxLength"]
    assert request.SET_NAME.pattern == f"{pattern.strip('^$').removesuffix('*')}{{0,{longest - 1}}}"


def test_a_kind_of_set_of_a_newer_version_is_kept_as_it_was_written() -> None:
    written = json.dumps({"ckpt_dir": "/c", "val_set": {"clean": {"path": "/a", "share": 0.5}}, "judge_by": ["clean"]})
    read = read_spec(written)
    assert read.val_sets == {"val_set.clean": {"path": "/a", "share": 0.5}}
    with pytest.warns(UserWarning, match="Expected `str`"):
        assert json.loads(read.model_dump_json())["val_set"] == json.loads(written)["val_set"]
    assert read_spec(json.dumps({"ckpt_dir": "/c", "val_set": [1]})).val_sets == {"val_set": (1,)}


def test_the_scores_of_the_sets_are_part_of_a_candidate_and_older_results_have_none() -> None:
    on_set = SetResult(select={"accuracy": 0.5}, gain=0.1, gain_low=-0.1, gain_high=0.3)
    candidate = CandidateResult(method="twa", label="twa", select={"accuracy": 0.6}, sets={"noisy": on_set})
    assert CandidateResult.read(candidate.model_dump_json()) == candidate
    older = json.loads(candidate.model_dump_json())
    del older["sets"]
    assert CandidateResult.read(json.dumps(older)).sets == {}
    newer = json.loads(candidate.model_dump_json())
    newer["sets"]["noisy"]["carbon_g"] = 1
    assert json.loads(CandidateResult.read(json.dumps(newer)).model_dump_json()) == newer
    assert JobRecord.model_fields["spec"]
