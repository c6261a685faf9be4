"""The method `profile`: what its races choose, what is left open, and what it is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ladle_engine import MethodError, Outcome, average
from ladle_engine.checkpoints import discover
from ladle_engine.evaluation.cache import Evaluations
from ladle_engine.methods.profile import Family, Member, ProfileOptions, grown, mean_age
from ladle_engine.profiles import EXPONENTIAL, LINEAR, POWER, SHAPES, Profile, weights
from ladle_engine.resume_state import ResumeState
from tests.unit.engine.toy import Interrupted, ToyTask, plain_net, write_checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=8, spread=0.2)
    return tmp_path


def run(folder: Path, name: str, method: str, options: dict[str, Any] | None = None, **more: Any) -> Outcome:
    task = more.pop("task", None) or ToyTask(plain_net, count=256)
    return average(
        folder / "checkpoints", folder / "checkpoints", output=folder / name, task=task, method=method,
        method_options=options or {}, **more,
    )  # fmt: skip


def chosen(folder: Path, name: str, method: str) -> Tensor:
    """float64 [K]"""
    entry = json.loads((folder / name / "coefficients.json").read_text())["candidates"][method]
    return torch.tensor(entry["alpha"], dtype=torch.float64)[:, 0]


def label(outcome: Outcome) -> str:
    return next(score.label for score in outcome.candidates if score.method == "profile")


@pytest.mark.parametrize(
    ("options", "same_as", "named"),
    [
        ({"shape": "linear", "window": 8}, ("uniform", {}), "profile (uniform)"),
        ({"shape": "linear", "window": 3}, ("last-k", {"k": 3}), "profile (last-k, k = 3)"),
        ({"shape": "linear"}, ("last-k", {}), None),
        ({"shape": "exponential"}, ("ema", {}), None),
    ],
    ids=str,
)
def test_its_corners_are_the_methods_of_that_name(
    folder: Path, options: dict[str, Any], same_as: tuple[str, dict[str, Any]], named: str | None
) -> None:
    outcome = run(folder, "profile", "profile", options)
    run(folder, "other", *same_as)
    torch.testing.assert_close(chosen(folder, "profile", "profile"), chosen(folder, "other", same_as[0]))
    if named:
        assert label(outcome) == named
    else:
        assert label(outcome).startswith(f"profile ({same_as[0]}, ") or label(outcome) == "profile (uniform)"


def test_real_steps_count_where_checkpoints_lie_apart(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=4)
    for number, step in enumerate((100, 200, 500, 600)):
        (tmp_path / "checkpoints" / f"step-{number}.safetensors").rename(
            tmp_path / "checkpoints" / f"step-{step}.safetensors"
        )
    outcome = run(tmp_path, "out", "profile", {"shape": "linear", "window": 3})
    assert chosen(tmp_path, "out", "profile").tolist() == [0.0, 0.2, 0.6, 0.2]
    assert label(outcome) == "profile (linear, 3 checkpoints)"


def test_a_window_ends_at_any_checkpoint(folder: Path) -> None:
    options = {"shape": "power", "parameter": 1, "window": 2, "end": "step-4.safetensors"}
    outcome = run(folder, "out", "profile", options)
    assert chosen(folder, "out", "profile").tolist() == pytest.approx([0, 0, 0, 0.25, 0.75, 0, 0, 0])
    assert label(outcome) == "profile (power 1, 2 checkpoints up to step-4.safetensors)"
    run(folder, "open", "profile", {"end": "step-4.safetensors"})
    assert chosen(folder, "open", "profile")[5:].tolist() == [0.0, 0.0, 0.0]


def test_a_given_window_is_that_of_every_shape(folder: Path) -> None:
    family = Family(discover(folder / "checkpoints"), ProfileOptions(window=3))
    assert {member.shape for member in family.first()} == set(SHAPES)
    assert {member.count for member in family.first()} == {3}
    assert family.around(family.first()[0]) == []


@pytest.mark.parametrize("count", [2, 3])
def test_few_checkpoints_are_enough(tmp_path: Path, count: int) -> None:
    checkpoints = write_checkpoints(tmp_path / "checkpoints", plain_net, count=count)
    family = Family(checkpoints, ProfileOptions())
    members = family.first()
    for each in [*members, *family.around(members[0]), *family.around(members[-1])]:
        assert float(family.alpha(each).sum()) == pytest.approx(1.0)
    run(tmp_path, "out", "profile")
    assert float(chosen(tmp_path, "out", "profile").sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("reach", "tried"), [(1, [1]), (2, [2]), (3, [2, 3]), (18, [2, 3, 4, 6, 8, 11, 16, 18])])
def test_windows_grow_up_to_all_there_is(reach: int, tried: list[int]) -> None:
    assert grown(reach) == tried


def test_a_run_of_300_checkpoints_takes_few_evaluations(folder: Path) -> None:
    found = discover(folder / "checkpoints")
    many = tuple(replace(found.reference, name=f"step-{step}", step=step) for step in range(300))
    family = Family(replace(found, checkpoints=many), ProfileOptions())
    first = family.first()
    second = family.around(Member(LINEAR, None, 91))
    assert [member.count for member in second if member.shape == LINEAR] == [69, 75, 80, 86, 98, 106, 113, 121]
    assert {member.shape for member in second} == set(SHAPES)
    assert len(set(first + second)) == len(first) + len(second) < 32, "`last-k` and `ema` have more"


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_are_tried_over_the_window_in_which_checkpoints_are_as_old(shape: str) -> None:
    positions = [float(step) for step in range(1000)]
    parameter = {POWER: 3.0, EXPONENTIAL: 0.3}.get(shape)
    alpha = weights(positions, 999, Profile(shape, parameter))
    age = sum(weight * (999.5 - at) for weight, at in zip(alpha.tolist(), positions, strict=True))
    assert mean_age(shape, parameter) == pytest.approx(age / 1000, abs=1e-4)


def test_a_job_that_dies_in_the_middle_of_its_races_ends_with_the_same_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_with_state(name: str) -> int:
        task = CountingTask()
        run(folder, name, "profile", task=task, state_dir=folder / "states" / name.partition(" ")[0])
        return task.evaluated

    whole, save = run_with_state("whole"), Evaluations.save
    with monkeypatch.context() as patched:
        saves = []

        def dying(evaluations: Evaluations) -> None:
            save(evaluations)
            saves.append(1)
            if len(saves) == 20:
                raise Interrupted

        patched.setattr(Evaluations, "save", dying)
        patched.setattr(ResumeState, "is_due", lambda state: True)
        patched.setattr("ladle_engine.evaluation.cache.SAVING_SHARE", 1e9)
        with pytest.raises(Interrupted):
            run_with_state("died")
    assert run_with_state("died again") < whole, "what was evaluated is remembered"
    assert torch.equal(chosen(folder, "died again", "profile"), chosen(folder, "whole", "profile"))


class CountingTask(ToyTask):
    """Notes how many examples it scores."""

    def __init__(self) -> None:
        super().__init__(plain_net, count=256)
        self.evaluated = 0

    def evaluate(self, model: Any, batch: Any) -> Any:
        self.evaluated += len(batch["x"])
        return super().evaluate(model, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "round"}, "`shape` of method `profile` must be one of linear, one-minus-sqrt, cosine, power, expon"),
        ({"parameter": 2}, "`parameter` of method `profile` must come with `shape`, but is 2 alone."),
        ({"shape": "cosine", "parameter": 2}, "`parameter` of a profile must be absent for the shape `cosine`, but is"),
        ({"shape": "power", "parameter": -1.5}, "`parameter` of a profile must be above -1 for the shape `power`, but"),
        ({"window": 9}, "must be at most the number of checkpoints up to its end (8), but is 9."),
        ({"window": 3, "end": "step-1.safetensors"}, "the number of checkpoints up to its end (2), but is 3."),
        ({"end": "step-1"}, "must be the name of a checkpoint, but is `step-1`. Did you mean `step-1.safetensors`?"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        run(folder, "out", "profile", options)
    assert message in caught.value.message
    assert caught.value.code == "invalid-method-options"
