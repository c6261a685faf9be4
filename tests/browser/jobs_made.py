"""Jobs of every kind, put into Redis by the same scripts as real ones, for pages to show."""

from __future__ import annotations

from typing import Any

from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    CheckpointsFound,
    JobResult,
    MemoryPlanned,
    Progress,
    Reason,
    StageStarted,
    StepDone,
    Warned,
)
from tests.integration.api_stack import ScriptedNode, Stack

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'>\u202etxt"
METHODS = (
    ("best", "best (step-400)", 0.9154, 0.0, 0.0, 0.0),
    ("uniform", "uniform (8)", 0.9308, 0.0154, -0.0115, 0.0423),
    ("last-k", "last-k (3 of 8)", 0.9269, 0.0115, -0.0077, 0.0308),
    ("greedy-soup", "greedy-soup (4 of 8)", 0.9385, 0.0231, 0.0, 0.0462),
    ("twa", "twa", 0.9481, 0.0327, 0.0115, 0.0731),
)
MEMORY = MemoryPlanned(
    placement="replicated",
    precision="float32",
    parts={
        "model": 44_700_000,
        "centre": 44_700_000,
        "directions": 357_600_000,
        "gradient": 9_400_000,
        "geometry": 512,
    },
    available_bytes=12_300_000_000,
    reason="The directions fit as they are.",
)


def candidates(metric: str = "accuracy") -> list[CandidateResult]:
    return [
        CandidateResult(
            method=method,
            label=label,
            select={metric: value, "loss": 0.31 - gain},
            gain=gain,
            gain_low=low,
            gain_high=high,
        )
        for method, label, value, gain, low, high in METHODS
    ]


def result(folder: str, method: str = "twa", **fields: Any) -> JobResult:
    [winner] = [each for each in candidates() if each.method == method]
    values: dict[str, Any] = {
        "folder": folder,
        "method": method,
        "metric": "accuracy",
        "higher_is_better": True,
        "candidates": tuple(candidates()),
        "best_checkpoint": "step-400",
        "gain": winner.gain,
        "gain_low": winner.gain_low,
        "gain_high": winner.gain_high,
        "num_checkpoints": 8,
        "num_parameters": 11_173_962,
        "duration_s": 71.5,
        "warnings": (),
        "files": {"model.safetensors": 44_700_000, "report.json": 12_000, "report.html": 96_000},
    }
    return JobResult(**values | fields)


def submit(stack: Stack, token: str | None = None, **fields: Any) -> str:
    """A job in the queue."""
    with stack.client(token) as client:
        return client.submit(*stack.paths, **fields).id


def begin(node: ScriptedNode, job_id: str, names: tuple[str, ...] = ()) -> int:
    """It is claimed, and has found its checkpoints."""
    attempt = node.start(job_id)
    names = names or tuple(f"step-{step}" for step in range(50, 450, 50))
    found = CheckpointsFound(
        names=names, num_parameters=11_173_962, dtype="float32", task="image-classification", order="step"
    )
    stages = [StageStarted(stage=name) for name in ("discover", "check", "evaluate")]
    node.report(job_id, attempt, stages[0], found, stages[1], MEMORY, stages[2], lines=("reading step-50", "ready"))
    return attempt


def train(node: ScriptedNode, job_id: str, attempt: int, steps: range, method: str = "twa") -> None:
    """Its coefficients are trained."""
    losses = [0.24 + 0.4 * 0.97**step for step in steps]
    told = [
        StepDone(stage="train", method=method, step=step, total=200, loss=loss, eta_s=(200 - step) * 0.3)
        for step, loss in zip(steps, losses, strict=True)
    ]
    snapshot = Progress(
        stage="train", stage_done=steps[-1], stage_total=200, method=method, step=steps[-1], total_steps=200,
        loss=losses[-1], eta_s=(200 - steps[-1]) * 0.3, candidates=tuple(candidates()[:4]),
    )  # fmt: skip
    events = [StageStarted(stage="train", method=method, total=200), *told]
    node.report(job_id, attempt, *events, progress=snapshot)


def judge(node: ScriptedNode, job_id: str, attempt: int, *which: CandidateResult) -> None:
    """Candidates are judged."""
    shown = Progress(stage="select", candidates=which)
    node.report(job_id, attempt, *(CandidateScored(candidate=each) for each in which), progress=shown)


def warn(node: ScriptedNode, job_id: str, attempt: int, *messages: str) -> None:
    node.report(job_id, attempt, *(Warned(message=message) for message in messages))


def fail(node: ScriptedNode, job_id: str, attempt: int, message: str) -> None:
    node.fail(job_id, attempt, Reason.CORRUPT_CHECKPOINT, message, ["Traceback", message])
