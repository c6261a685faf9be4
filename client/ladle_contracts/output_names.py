"""What a result is called: as somebody has chosen, or after the run that it is made of, the method and the job."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ladle_contracts.job_spec import JobSpec
from ladle_contracts.run_names import run_of, safe_name

ID_CHARS = 10
"""Of the job's id, which is random: enough that no two results of one run and method meet."""


UNKNOWN_ID = "<id>"


def planned_output_name(spec: JobSpec) -> str:
    """The name that a job's result will have, before the job has an id: `resnet50-twa-<id>`, or the chosen name."""
    return spec.output.name or f"{default_output_name(spec.ckpt_dir, _what(spec), '')}-{UNKNOWN_ID}"


def output_name(spec: JobSpec, job_id: str) -> str:
    """The name of a job's result."""
    return spec.output.name or default_output_name(spec.ckpt_dir, _what(spec), job_id)


def _what(spec: JobSpec) -> str:
    """The method, or `curve`."""
    return spec.method.name if spec.kind == "average" else spec.kind


def default_output_name(ckpt_dir: str | Sequence[str], method: str, job_id: str) -> str:
    """`resnet50-twa-3f9a2c01be`: one folder name, of which no character needs quotes in a shell.

    `ckpt_dir` may be a path, an address or a glob, or several, which are called after the folder that holds them.
    Without a folder that says anything it is `twa-3f9a2c01be`.
    """
    parts = [safe_name(method), safe_name(job_id)[:ID_CHARS]]
    return "-".join([part for part in (run_of(_holding(ckpt_dir)), *parts) if part])


def _holding(ckpt_dir: str | Sequence[str]) -> str:
    if isinstance(ckpt_dir, str):
        return ckpt_dir
    # Of characters: they need not be paths.
    return os.path.commonprefix(ckpt_dir).rpartition("/")[0] if len(ckpt_dir) > 1 else ckpt_dir[0]  # noqa: RUF071
