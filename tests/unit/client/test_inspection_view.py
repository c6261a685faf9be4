"""What `ladle inspect` shows, and the status it ends with."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ladle.cli import app, installed
from ladle.cli.console import SafeConsole, in_lines
from ladle.cli.inspection_view import MOST_ROWS, inspection_view, short_form
from ladle_contracts import Inspection, InspectRequest
from ladle_contracts.inspection import (
    AutoPlan,
    Forecast,
    InspectedBase,
    InspectedCheckpoint,
    InspectionProblem,
    LeftAside,
    shortened,
)
from tests.hostile import FORGED, HOSTILE, unsafe_in
from tests.unit.report.test_forecast_words import FORECAST


def checkpoint(name: str, **changes: Any) -> InspectedCheckpoint:
    facts: Mapping[str, Any] = {
        "format": "safetensors", "step": 10, "step_from": "name", "size_bytes": 2_000_000, "num_files": 1,
        "dtype": "bfloat16", "num_tensors": 72, "num_parameters": 1_000_000, "taken": True, "usable": True,
    }  # fmt: skip
    return InspectedCheckpoint(name=name, **{**facts, **changes})


def folder(*rows: InspectedCheckpoint, **changes: Any) -> Inspection:
    plan = AutoPlan(
        checkpoints=tuple(row.name for row in rows if row.taken), order="step", methods=("best", "twa"),
        groups={"model": 1}, task="causal-lm", metric="loss", model="LlamaForCausalLM", num_parameters=1_000_000,
        dtype="bfloat16",
    )  # fmt: skip
    facts: Mapping[str, Any] = {"folder": "/runs/7", "usable": True, "checkpoints": rows, "plan": plan}
    return Inspection(**{**facts, **changes})


def shown(view: Any) -> str:
    console = SafeConsole(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_each_checkpoint_has_a_line_with_its_facts_and_why_it_is_not_used() -> None:
    problem = InspectionProblem(code="corrupt-checkpoint", message="It is cut off. Use `checkpoints.exclude`.")
    text = shown(
        inspection_view(
            folder(
                checkpoint("step-10", metrics={"eval_loss": 1.25}),
                checkpoint("last", step=None, taken=False, duplicate_of="step-10", duplicate_is_certain=False),
                checkpoint("step-20", usable=False, taken=False, problem=problem, num_tensors=None, dtype=None),
                problems=(problem,),
                usable=False,
                passed_over=(LeftAside(name="model.onnx", reason="in ONNX format"),),
            )
        )
    )
    first = next(line for line in text.splitlines() if line.startswith("step-10"))
    assert first.split() == ["step-10", "safetensors", "10", "2.0", "MB", "72", "bfloat16", "1.25"]
    assert "maybe the same as step-10" in text
    assert "Use `--exclude`." in text, "in the command's words"
    assert "model.onnx: in ONNX format" in text
    assert "model LlamaForCausalLM" in text
    assert "would refuse this folder" in text
    assert "[corrupt-checkpoint]" in text


def test_a_base_and_a_forecast_have_their_lines() -> None:
    base = InspectedBase(name="base:pretrained", size_bytes=3_000_000, fits=True, distances=(0.5, 0.75))
    forecast = Forecast.model_validate_json(json.dumps(FORECAST))
    text = shown(inspection_view(folder(checkpoint("step-10"), base=base, forecast=forecast)))
    assert "base     base:pretrained, 3.0 MB, 0.5 to 0.75 away from the checkpoints" in text
    assert (
        "Expect about 6.2 % lower loss than the best checkpoint has (between 1.1 % and 20 % lower; the median" in text
    )
    missing = base.model_copy(update={"fits": False})
    assert "base:pretrained" not in shown(inspection_view(folder(checkpoint("step-10"), base=missing)))


def test_hundreds_of_checkpoints_are_shown_in_part_and_all_that_are_bad(capsys: pytest.CaptureFixture[str]) -> None:
    problem = InspectionProblem(code="corrupt-checkpoint", message="It is cut off.")
    bad = checkpoint("step-bad", usable=False, taken=False, problem=problem)
    text = shown(inspection_view(folder(*(checkpoint(f"step-{number}") for number in range(300)), bad)))
    assert sum(line.startswith("step-") for line in text.splitlines()) == MOST_ROWS + 1
    assert f"... {300 - MOST_ROWS} more ..." in text
    assert "step-0 " in text
    assert "step-299 " in text
    assert "step-bad" in text


def test_the_short_form_is_a_few_lines() -> None:
    text = shown(short_form(folder(checkpoint("step-10"), checkpoint("step-20"))))
    assert text.startswith(
        "2 checkpoints of 1,000,000 parameters (safetensors; bfloat16), in order of step, from step-10"
    )
    assert len(text.splitlines()) <= 4
    assert "no usable checkpoints in /runs/7" in shown(short_form(folder(plan=None, usable=False)))
    one = shown(short_form(folder(checkpoint("step-10"), plan=None, usable=False)))
    assert one.startswith("1 checkpoint of 1,000,000 parameters")


def test_what_strangers_named_cannot_speak_to_the_terminal() -> None:
    problem = InspectionProblem(code="corrupt-checkpoint", message=HOSTILE)
    hostile = folder(
        checkpoint(HOSTILE, format=HOSTILE, dtype=HOSTILE, metrics={HOSTILE: 1.0}, notes=(HOSTILE,)),
        checkpoint(HOSTILE, usable=False, taken=False, problem=problem),
        passed_over=(LeftAside(name=HOSTILE, reason=HOSTILE),),
        problems=(problem,),
        warnings=(HOSTILE,),
        folder=HOSTILE,
    )
    for view in (inspection_view, short_form):
        text = shown(view(in_lines(hostile)))
        assert unsafe_in(text) == set()
        assert not any(line.startswith(FORGED) for line in text.splitlines())


@pytest.mark.parametrize(("usable", "status", "more"), [(True, 0, []), (False, 1, ["--forecast"])])
def test_the_status_says_whether_a_job_can_begin(
    more: list[str],
    usable: bool,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked: list[InspectRequest] = []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step-0").touch()
    monkeypatch.chdir(tmp_path)

    def look(request: InspectRequest) -> Inspection:
        asked.append(request)
        return folder(checkpoint("step-10"), usable=usable)

    monkeypatch.delenv("LADLE_URL", raising=False)
    monkeypatch.setattr(installed, "inspect_here", look)
    monkeypatch.setattr(
        "sys.argv", ["ladle", "inspect", "run", "--last=3", "--method=wise-ft", "--base=step-0", "--json", *more]
    )
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == status
    assert asked[0].checkpoints.last == 3
    assert asked[0].method.name == "wise-ft"
    assert asked[0].base == str(tmp_path / "run" / "step-0"), "a name in the folder will do"
    assert asked[0].forecast is (more == ["--forecast"])
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["name"] == "step-10"


def test_an_answer_that_is_too_large_is_cut_and_says_by_how_much() -> None:
    large = folder(*(checkpoint(f"step-{number}-{'x' * 500}") for number in range(2000)))
    small = shortened(large, most_bytes=100_000)
    assert len(small.model_dump_json()) <= 100_000
    assert len(small.checkpoints) + small.not_listed == 2000
    assert small.usable
    assert shortened(small) is small
