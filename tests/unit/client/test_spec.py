"""From `submit`'s friendly options to a job spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ladle import InvalidSpec
from ladle._options import SpecOptions
from ladle._spec import OPTIONS, build_spec
from ladle_contracts import CheckpointFilter, JobSpec, MethodChoice, Output, TaskChoice, TrainSet


def spec(**options: Any) -> JobSpec:
    return build_spec("/c", "/v", options)


def test_relative_paths_are_taken_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = build_spec("checkpoints", Path("val"), {"train_set": "train", "curve": {"earlier": Path("before")}})
    assert built.ckpt_dir == str(tmp_path / "checkpoints")
    assert built.val_set == str(tmp_path / "val")
    assert built.train_set == TrainSet(path=str(tmp_path / "train"))
    assert built.curve.earlier == str(tmp_path / "before")


def test_several_validation_sets_are_given_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = build_spec("c", {"clean": Path("a=b.npz"), "noisy": "/n"}, {"judge_by": {"noisy": 2}, "no_set_worse": True})
    assert built.val_set == {"clean": str(tmp_path / "a=b.npz"), "noisy": "/n"}
    assert (built.judge_by, built.no_set_worse) == ({"noisy": 2}, True)
    with pytest.raises(InvalidSpec, match=r"`val_set\.clean` must be text, but is 3"):
        build_spec("c", {"clean": 3}, {})  # type: ignore[dict-item]
    with pytest.raises(InvalidSpec, match=r"`val_set\.a b` must be a name of letters"):
        build_spec("c", {"a b": "/x"}, {})
    with pytest.raises(InvalidSpec, match="there is no `cleen`"):
        build_spec("c", {"clean": "/x"}, {"judge_by": {"cleen": 1}})


def test_dots_stay_in_a_path_because_links_decide_what_they_mean() -> None:
    assert build_spec("/a/../b", "/v", {}).ckpt_dir == "/a/../b"


@pytest.mark.parametrize(
    ("options", "field", "wanted"),
    [
        ({"method": "twa"}, "method", MethodChoice(name="twa")),
        (
            {"method": {"name": "twa", "options": {"epochs": 3}}},
            "method",
            MethodChoice(name="twa", options={"epochs": 3}),
        ),
        ({"method": MethodChoice(name="ema")}, "method", MethodChoice(name="ema")),
        ({"task": "image-classification"}, "task", TaskChoice(name="image-classification")),
        ({"task": None}, "task", None),
        ({"checkpoints": "step-*"}, "checkpoints", CheckpointFilter(pattern="step-*")),
        ({"checkpoints": {"steps": [1, 2]}}, "checkpoints", CheckpointFilter(steps=(1, 2))),
        (
            {"checkpoints": {"exclude": "best*", "order": "name"}},
            "checkpoints",
            CheckpointFilter(exclude=("best*",), order="name"),
        ),
        ({"checkpoints": CheckpointFilter(steps=(1, 2))}, "checkpoints", CheckpointFilter(steps=(1, 2))),
        ({"train_set": {"path": Path("/t"), "use": "batchnorm"}}, "train_set", TrainSet(path="/t", use="batchnorm")),
        ({"output": "better"}, "output", Output(name="better")),
        ({"output": {"dtype": "bfloat16"}}, "output", Output(dtype="bfloat16")),
        ({"labels": {"run": "7"}}, "labels", {"run": "7"}),
        ({"seed": 5}, "seed", 5),
    ],
)
def test_friendly_forms_become_the_spec(options: dict[str, Any], field: str, wanted: object) -> None:
    assert getattr(spec(**options), field) == wanted


def test_an_option_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    with pytest.raises(TypeError, match=r"no option `methd`\. Did you mean `method`\?"):
        spec(methd="twa")


@pytest.mark.parametrize(("name", "part"), [("last", "checkpoints"), ("dtype", "output"), ("precision", "resources")])
def test_a_field_of_a_part_is_shown_in_its_place(name: str, part: str) -> None:
    with pytest.raises(TypeError, match=f'It is a field of `{part}`: {part}={{"{name}": ...}}'):
        spec(**{name: 1})


def test_an_option_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(TypeError, match="select_fraction"):
        spec(xyzzy=1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed": "5"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"select_fraction": 1.5}, "select_fraction"),
        ({"method": {"nme": "twa"}}, "method.name|method.nme"),
        ({"output": "../up"}, "output.name"),
        ({"output": ".hidden"}, "output.name"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"checkpoints": {"last": 0}}, "checkpoints.last"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_field_and_value(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec, match=field) as caught:
        spec(**options)
    assert isinstance(caught.value, ValueError)
    assert caught.value.errors


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_value_that_json_does_not_have_is_an_error(value: object) -> None:
    with pytest.raises(InvalidSpec, match="JSON"):
        spec(method={"name": "twa", "options": {"a": value}})


def test_only_what_was_said_is_sent_so_that_the_services_defaults_hold() -> None:
    assert spec(method="twa").model_dump(exclude_unset=True) == {
        "ckpt_dir": "/c",
        "val_set": "/v",
        "method": {"name": "twa"},
    }


def test_the_options_that_editors_see_are_those_of_the_spec() -> None:
    assert set(SpecOptions.__annotations__) == set(OPTIONS)
