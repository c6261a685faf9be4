"""The command in a message asks for the job that the callback would have asked for."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from ladle._spec import build_spec
from ladle.callbacks._command import command_of
from ladle.cli.job_flags import JobArguments, JobCommand, with_job_flags


def spec_of(command: str) -> Any:
    """What `ladle run` makes of it."""
    app, seen = typer.Typer(), []

    @app.command(cls=JobCommand)
    @with_job_flags
    def run(job: JobArguments) -> None:
        seen.append(build_spec(job.ckpt_dir, job.val_set, job.options))

    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("ladle", "run")
    app(arguments, standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("val_set", "options"),
    [
        ("val set.npz", {}),
        ("val.npz", {"task": {"name": "causal-lm", "options": {"batch_size": 4, "dtype": "float32"}}, "seed": 3}),
        ({"a": "a.npz", "b": "b.npz"}, {"judge_by": {"a": 1.0, "b": 2.0}, "no_set_worse": True}),
        ("v", {"checkpoints": {"steps": [2, 4], "exclude": ["a*", "b*"], "take_from": {"checkpoint-2": ["head.*"]}}}),
        ("v", {"method": {"name": "twa", "options": {"steps": 40}}, "labels": {"run": "a"}, "metric": "loss"}),
        ("v", {"train_set": {"path": "t.npz", "use": "batchnorm"}, "output": {"name": "mine", "dtype": "bfloat16"}}),
        ("v", {"adapters": {"space": "factors", "base_model": "base"}, "select_fraction": 0.25}),
    ],
)
def test_the_command_describes_the_same_job(val_set: Any, options: dict[str, Any]) -> None:
    spec = build_spec("runs/a b", val_set, options)
    assert spec_of(command_of(spec)) == spec
