"""What a result is called."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from ladle_contracts.field_types import FolderName
from ladle_contracts.job_spec import JobSpec, MethodChoice, Output
from ladle_contracts.output_names import default_output_name, output_name, planned_output_name
from ladle_contracts.run_names import run_of

JOB_ID = "3f9a2c01be77d0aa1122"


@pytest.mark.parametrize(
    ("ckpt_dir", "run"),
    [
        ("/data/runs/resnet50", "resnet50"),
        ("/data/runs/resnet50/", "resnet50"),
        ("/data/runs/resnet50/checkpoints", "resnet50"),
        ("/data/runs/resnet50/lightning_logs/version_3/checkpoints", "resnet50"),
        ("/data/runs/resnet50/saved_models", "resnet50"),
        ("/data/runs/resnet50/ladle/checkpoints", "resnet50"),
        ("/data/runs/resnet50/kept", "resnet50"),
        ("/data/sweep/run-*/checkpoint-*", "sweep"),
        ("s3://bucket/llama/checkpoints", "llama"),
        ("/data/vit lr=0.1, wd=0", "vit-lr=0.1-wd=0"),
        ("/data/模型/ckpt", ""),
        ("/data/..", ""),
        ("/", ""),
        ("relative", "relative"),
        ("/a/--x--", "x"),
        ("/a/$(reboot)\n`;", "reboot"),
    ],
)
def test_the_run_is_the_last_folder_that_says_something(ckpt_dir: str, run: str) -> None:
    assert run_of(ckpt_dir) == run


def test_the_name_says_run_method_and_job() -> None:
    assert default_output_name("/runs/resnet50", "twa-layerwise", JOB_ID) == "resnet50-twa-layerwise-3f9a2c01be"
    assert default_output_name("/", "auto", JOB_ID) == "auto-3f9a2c01be"


@pytest.mark.parametrize("ckpt_dir", ["/" + "a" * 4000, "/" + "-." * 500, "/x/\0\x1b[31m", "/é" * 300, "/a" * 2000])
def test_every_name_is_one_that_a_job_may_have(ckpt_dir: str) -> None:
    name = default_output_name(ckpt_dir, "m" * 100, JOB_ID)
    assert TypeAdapter(FolderName).validate_python(name) == name


def test_two_jobs_of_one_run_get_names_of_their_own() -> None:
    assert default_output_name("/run", "twa", "0123456789abc") != default_output_name("/run", "twa", "1123456789abc")


def test_the_name_is_known_but_for_the_id_before_a_job_is_submitted() -> None:
    spec = JobSpec(ckpt_dir="/runs/resnet50/checkpoints", val_set="/val", method=MethodChoice(name="twa"))
    assert planned_output_name(spec) == "resnet50-twa-<id>"
    assert output_name(spec, JOB_ID) == "resnet50-twa-3f9a2c01be"


def test_a_chosen_name_is_the_whole_name() -> None:
    spec = JobSpec(ckpt_dir="/runs/resnet50", val_set="/val", output=Output(name="best-of-may"))
    assert planned_output_name(spec) == output_name(spec, JOB_ID) == "best-of-may"
