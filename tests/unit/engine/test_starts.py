"""What cannot work is refused before any method runs: starts, and options that do not fit the checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ladle_engine import average
from ladle_engine.errors import MethodError
from ladle_engine.methods.plan import plan_methods, refuse_bad_starts
from ladle_engine.progress import CandidateScored, ProgressEvent, StageStarted
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

NAMES = ("step-1", "step-2", "uniform-run")


def auto(**starts: str) -> dict[str, Any]:
    """Options of `auto` under which these methods run and start there."""
    named = {method.replace("_", "-"): start for method, start in starts.items()}
    return {"methods": list(named), "options": {method: {"start": start} for method, start in named.items()}}


@pytest.mark.parametrize(
    "starts",
    [
        {"twa": "centre"},
        {"twa": "auto", "psgd": "auto"},
        {"twa": "step-2"},
        {"twa": "best"},
        {"twa": "psgd", "psgd": "greedy-soup"},
        {"twa": "psgd", "psgd": "step-1"},
        {"twa": "pca"},
        {"random": "uniform"},
    ],
    ids=str,
)
def test_a_good_start_passes(starts: dict[str, str]) -> None:
    refuse_bad_starts(plan_methods("auto", auto(**starts)), NAMES)


def test_a_checkpoint_that_is_named_like_a_method_is_the_checkpoint() -> None:
    plan = plan_methods("auto", auto(twa="psgd", psgd="twa"))
    refuse_bad_starts(plan, ("step-1", "twa"))
    with pytest.raises(MethodError, match="lead back"):
        refuse_bad_starts(plan, NAMES)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ({"twa": "unifrom"}, "but is `unifrom`. Did you mean `uniform`?"),
        ({"twa": "uniform-"}, "but is `uniform-`. Did you mean `uniform-run`?"),
        ({"twa": ""}, "`start` of method `twa` must be centre, auto, the name of a checkpoint, or one of best,"),
        ({"twa": "twa"}, "or another method, but is the method itself."),
        ({"twa": "psgd", "psgd": "nowhere"}, "`start` of method `psgd` must be centre,"),
        ({"psgd": "random"}, "`start` of method `psgd` must be a combination of checkpoints and nothing else, but is"),
        ({"twa": "psgd", "psgd": "twa"}, "but these do: `twa` from `psgd`, `psgd` from `twa`."),
        (
            {"twa": "psgd", "psgd": "pca", "pca": "learned-soup", "learned_soup": "psgd"},
            "but these do: `psgd` from `pca`, `pca` from `learned-soup`, `learned-soup` from `psgd`.",
        ),
    ],
    ids=str,
)
def test_a_bad_start_is_named_with_what_is_meant(starts: dict[str, str], message: str) -> None:
    with pytest.raises(MethodError, match=re.escape(message)) as caught:
        refuse_bad_starts(plan_methods("auto", auto(**starts)), NAMES)
    assert caught.value.code == "invalid-method-options"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["uniform", "twa"], "options": {"twa": {"start": "unifrom"}}}, "`unifrom`"),
        (auto(twa="psgd", psgd="twa"), "lead back"),
        ({"methods": ["uniform", "twa"], "options": {"twa": {"start": "twa-layerwise"}}}, "in every group"),
        ({"methods": ["uniform", "last-k"], "options": {"last-k": {"k": 9}}}, "at most the number of checkpoints (3)"),
        (
            {"methods": ["uniform", "pca"], "options": {"pca": {"dimensions": 3}}},
            "one less than the number of checkpoints (2)",
        ),
        ({"methods": ["uniform", "random"], "options": {"random": {"dimensions": 66}}}, "number of parameters (65)"),
        ({"methods": ["uniform", "given"], "options": {"given": {"coefficients": [1.0]}}}, "3 numbers"),
        ({"methods": ["uniform", "given"], "options": {"given": {"coefficients": [1, 1, 1]}}}, "but are 3 in sum"),
        ({"methods": ["uniform", "twa"], "options": {"twa": {"start": "given"}}}, "`twa` starts from `given`, whose"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_nothing_runs_before_the_refusal(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=3)
    told: list[ProgressEvent] = []
    task = ToyTask()
    with pytest.raises(MethodError, match=re.escape(message)):
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=task, method="auto",
            method_options=options, progress=told.append,
        )  # fmt: skip
    assert [event.stage for event in told if isinstance(event, StageStarted)] in (["discover"], ["discover", "check"])
    assert not [event for event in told if isinstance(event, CandidateScored)]
    assert task.losses_taken == 0


def test_groups_of_a_start_may_be_as_fine_or_coarser(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=3)
    quick = {"steps": 2}
    options = {
        "methods": ["twa", "psgd", "learned-soup"],
        "options": {
            "psgd": {"start": "twa", "groups": "layers", **quick},
            "twa": quick,
            "learned-soup": {"start": "best", "groups": "tensors", **quick},
        },
    }
    outcome = average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(), method_options=options
    )
    assert {"twa", "psgd", "learned-soup"} < {score.method for score in outcome.candidates}
