"""A job's options as a flat list: what the command, the engine's call and the docs are made from."""

from __future__ import annotations

import pytest

from ladle_contracts import JobSpec, TrainSet
from ladle_contracts.spec_fields import SPEC_FIELDS, value_of

FIELDS = {field.path: field for field in SPEC_FIELDS}


@pytest.mark.parametrize("field", SPEC_FIELDS, ids=lambda field: field.path)
def test_every_option_is_explained_in_whole_sentences(field: object) -> None:
    assert field.help.endswith("."), "an option must have a docstring in the contract"
    assert "\n" not in field.help


def test_only_the_two_paths_are_required() -> None:
    assert [field.path for field in SPEC_FIELDS if field.required] == ["ckpt_dir", "val_set"]


@pytest.mark.parametrize(
    ("path", "kind", "limits", "default"),
    [
        ("checkpoints.last", "whole number", "1 to 1,000,000", None),
        ("checkpoints.steps", "list of numbers", "", None),
        ("checkpoints.exclude", "text or list of text", "", ()),
        ("checkpoints.skip_tensors", "text or list of text", "", ()),
        ("checkpoints.take_from", "object", "", {}),
        ("checkpoints.order", "text", "`auto`, `step`, `epoch`, `name` or `modified`", "auto"),
        ("select_fraction", "number", "above 0 and below 1", 0.5),
        ("output.dtype", "text", "`keep`, `float32`, `bfloat16` or `float16`", "keep"),
        ("resources.ranks_per_node", "whole number", "1 to 64", None),
        ("priority", "whole number", "-100 to 100", 0),
        ("seed", "whole number", "at least 0 and below 2^63", 0),
        ("labels", "object", "", {}),
        ("train_set.use", "text", "`coefficients`, `batchnorm` or `entropy`", "coefficients"),
        ("val_set", "text or object", "", None),
        ("judge_by", "`first` or `mean` or object", "", "first"),
        ("no_set_worse", "`true` or `false`", "", False),
    ],
)
def test_kind_limits_and_default_are_read_from_the_contract(path: str, kind: str, limits: str, default: object) -> None:
    field = FIELDS[path]
    assert (field.kind, field.limits, field.default) == (kind, limits, default)


def test_a_part_that_is_absent_has_its_defaults() -> None:
    spec = JobSpec(ckpt_dir="/c", val_set="/v")
    assert value_of(spec, FIELDS["train_set.use"]) == "coefficients"
    assert value_of(spec, FIELDS["task.name"]) is None
    given = spec.model_copy(update={"train_set": TrainSet(path="/t", use="batchnorm")})
    assert value_of(given, FIELDS["train_set.use"]) == "batchnorm"
