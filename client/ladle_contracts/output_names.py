"""What a result is called: as somebody has chosen, or after the run that it is made of, the method and the job."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ladle_contracts.jobs import JobSpec

SAYS_NOTHING = re.compile(
    r"((all|best|saved?|trained)[-_]?)?(checkpoints?|ckpts?|weights|models?|saves|snapshots|states?|outputs?|out|results?|runs?)"
    r"|version_[0-9]+|lightning_logs|ladle|kept|default|tmp|data|[.]+",
    re.IGNORECASE,
)
"""Names of folders in which every run keeps its checkpoints: then the folder above says which run it is.

`ladle` and `kept` are what our callbacks and their documents call them."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.+=@-]+")
MOST_CHARS = 80
ID_CHARS = 10
"""Of the job's id, which is random: enough that no two results of one run and method meet."""


UNKNOWN_ID = "<id>"


def planned_output_name(spec: JobSpec) -> str:
    """The name that a job's result will have, before the job has an id: `resnet50-twa-<id>`, or the chosen name."""
    return spec.output.name or f"{default_output_name(spec.ckpt_dir, spec.method.name, '')}-{UNKNOWN_ID}"


def output_name(spec: JobSpec, job_id: str) -> str:
    """The name of a job's result."""
    return spec.output.name or default_output_name(spec.ckpt_dir, spec.method.name, job_id)


def default_output_name(ckpt_dir: str | Sequence[str], method: str, job_id: str) -> str:
    """`resnet50-twa-3f9a2c01be`: one folder name, of which no character needs quotes in a shell.

    `ckpt_dir` may be a path, an address or a glob, or several, which are called after the folder that holds them.
    Without a folder that says anything it is `twa-3f9a2c01be`.
    """
    parts = [_safe(method), _safe(job_id)[:ID_CHARS]]
    return "-".join([part for part in (run_of(_holding(ckpt_dir)), *parts) if part])


def _holding(ckpt_dir: str | Sequence[str]) -> str:
    if isinstance(ckpt_dir, str):
        return ckpt_dir
    # Of characters: they need not be paths.
    return os.path.commonprefix(ckpt_dir).rpartition("/")[0] if len(ckpt_dir) > 1 else ckpt_dir[0]  # noqa: RUF071


def run_of(ckpt_dir: str) -> str:
    """The last folder of a path that says which run it is, as part of a name; empty where none does."""
    for part in reversed(re.split(r"[/\\]+", ckpt_dir.partition("://")[2] or ckpt_dir)):
        if part and not SAYS_NOTHING.fullmatch(part) and not re.search(r"[*?\[\]]", part) and (run := _safe(part)):
            return run
    return ""


def _safe(text: str) -> str:
    return UNSAFE.sub("-", text)[:MOST_CHARS].strip("-.+=@_")
