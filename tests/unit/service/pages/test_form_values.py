"""Texts of the form become a job, and a job becomes texts again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ladle_contracts import Catalog, JobSpec
from ladle_contracts.command_flags import FIELDS
from ladle_service.pages.form_values import fill, texts_of
from ladle_service.pages.option_types import BadValue, describe, read_value, write_value
from tests.hostile import HARMLESS
from tests.unit.service.pages.catalogs import CATALOG, NOTHING

PATHS = {"ckpt_dir": "/data/run", "val_set": "/data/val.npz"}
SPECS: list[dict[str, Any]] = [
    PATHS,
    {"ckpt_dir": ["/data/a", "/data/b*"], "val_set": {"clean": "/data/a.npz", "noisy": "/data/lr=0.1/b.npz"}},
    {**PATHS, "checkpoints": {"pattern": "epoch-*", "exclude": ["*-1", "[ab]*"], "steps": [1, 2.5, -3], "last": 5}},
    {**PATHS, "checkpoints": {"use_ema": True, "order": "modified", "take_from": {"lr=1/a": ["x*", "y"], "b": "z"}}},
    {**PATHS, "checkpoints": {"skip_tensors": "head.*", "like": HARMLESS}},
    {**PATHS, "labels": {"who": "me", "note": "a=b, c", "empty": ""}, "priority": -5, "seed": 2**62},
    {**PATHS, "val_set": {"a": "/x", "b": "/y"}, "judge_by": {"a": 2, "b": 0.5}, "no_set_worse": True},
    {**PATHS, "judge_by": "mean", "select_fraction": 0.25, "metric": "loss"},
    {**PATHS, "train_set": {"path": "/data/train", "use": "batchnorm"}, "adapters": {"space": "factors", "rank": 4}},
    {**PATHS, "output": {"name": "best-of-all", "dtype": "bfloat16"}, "resources": {"nodes": 2, "timeout_s": 60.5}},
    {**PATHS, "method": {"name": "twa", "options": {"steps": 3, "shared": False, "prior": None, "groups": ["a", "b"]}}},
    {**PATHS, "method": {"name": "twa", "options": {"coefficients": {"a": 1.5, "b": -0.5}, "groups": 3}}},
    {
        **PATHS,
        "method": {"name": "twa", "options": {"coefficients": [[1, 2], [3, 4]], "groups": "layers", "prior": "7"}},
    },
    {
        **PATHS,
        "method": {"name": "gone", "options": {"steps": 3, "word": "text", "number": "12", "list": [1, {"a": 2}]}},
    },
    {**PATHS, "task": {"name": "image-classification", "options": {"columns": {"image": "img"}, "split": "12"}}},
    {**PATHS, "tracking": {"trackers": ["mlflow", "wandb"], "project": "p"}, "webhooks": ["https://a.example/x?y=z"]},
    {**PATHS, "diagnose": True},
    {**PATHS, "labels": {"a\nb": "c\nd"}, "checkpoints": {"exclude": ["two\nlines"]}},
]


@pytest.mark.parametrize("catalog", [CATALOG, NOTHING], ids=["known", "no node"])
@pytest.mark.parametrize("body", SPECS, ids=lambda body: ",".join(sorted(body.keys() - PATHS.keys())) or "paths")
def test_a_job_is_the_same_after_it_has_been_in_the_form(body: dict[str, Any], catalog: Catalog) -> None:
    spec = JobSpec.model_validate_json(json.dumps(body))
    texts = texts_of(spec, catalog)
    filled = fill({name: text.replace("\n", "\r\n") for name, text in texts.items()}, catalog)
    assert not filled.errors
    assert JobSpec.model_validate_json(json.dumps(filled.body)) == spec


def test_an_empty_form_asks_for_nothing_but_defaults() -> None:
    filled = fill(dict.fromkeys(FIELDS, "  "), CATALOG)
    assert (filled.body, filled.errors) == ({}, {})


def test_a_text_of_the_wrong_kind_stays_for_the_rule_that_it_breaks() -> None:
    filled = fill({**PATHS, "checkpoints.last": "five", "seed": "1e999", "resources.nodes": "2.5"}, CATALOG)
    assert filled.body["checkpoints"]["last"] == "five"
    assert filled.body["seed"] == "1e999"
    assert filled.body["resources"]["nodes"] == 2.5


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("labels", "a=1\nno sign", "NAME=VALUE"),
        ("labels", "a=1\na=2", "twice"),
        ("checkpoints.steps", "1, two", "numbers with commas"),
        ("checkpoints.take_from", "just-a-name", "CHECKPOINT=GLOB"),
        ("method.options.steps", "many", "must be a whole number"),
        ("method.options.shared", "perhaps", "`true` or `false`"),
    ],
)
def test_what_cannot_be_read_is_told_at_its_control(name: str, text: str, rule: str) -> None:
    filled = fill({**PATHS, "method.name": "twa", name: text}, CATALOG)
    assert rule in filled.errors[name]


def test_options_of_another_method_do_not_come_along() -> None:
    filled = fill({"method.name": "uniform", "method.options.steps": "5"}, CATALOG)
    assert filled.body == {"method": {"name": "uniform"}}


@pytest.mark.parametrize(
    ("text", "of_type", "value"),
    [
        ("3", "float", 3),
        ("3", "str", "3"),
        ("null", "int | null", None),
        ("null", "str | null", None),
        ("layers", "str | int | list[str]", "layers"),
        ("best, twa", "list[str]", ["best", "twa"]),
        ("1, 2.5", "list[float]", [1, 2.5]),
        ("a=1\nb=2", "dict[str, float]", {"a": 1, "b": 2}),
        ("image=img", "dict[str, str]", {"image": "img"}),
        ('{"twa": {"steps": 3}}', "dict[str, dict[str, Any]]", {"twa": {"steps": 3}}),
        ("anything", "a type of tomorrow", "anything"),
    ],
)
def test_the_type_says_how_a_text_is_read(text: str, of_type: str, value: Any) -> None:
    assert read_value(text, of_type) == value
    assert read_value(write_value(value, of_type), of_type) == value


@pytest.mark.parametrize("text", ["1.5", "true", "NaN", "1e999", "", "[" * 5000, "9" * 5000])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="must be a whole number"):
        read_value(text, "int")


def test_types_are_described_in_words() -> None:
    assert describe("str | int | list[str]") == "text or a whole number or a list of texts"
    assert (
        describe("list[list[float]] | dict[str, float]") == "a list of lists or names with a value each, as NAME=VALUE"
    )
