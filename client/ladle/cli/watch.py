"""A job while it runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ladle._job import Job
from ladle.cli.console import in_lines, to_json
from ladle.cli.render import (
    STATE_STYLES,
    candidates_table,
    duration,
    gain_over_best,
    judging_metric,
    number,
    sets_table,
    size,
)
from ladle.cli.wording import in_flags
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    CheckpointsFound,
    Event,
    JobRecord,
    MemoryPlanned,
    StageStarted,
    StateChanged,
    StepDone,
    UnknownEvent,
    Warned,
)

STAGES = {
    "fetch": "fetching far files",
    "discover": "finding checkpoints",
    "check": "checking checkpoints",
    "evaluate": "evaluating checkpoints",
    "train": "choosing coefficients",
    "select": "judging on the select split",
    "diagnose": "comparing checkpoints",
    "write": "writing the model",
    "verify": "verifying the model",
    "upload": "uploading the result",
}


@dataclass
class View:
    """What is known about the job so far, as one picture."""

    job_id: str
    metric: str | None = None
    state: str = "queued"
    found: CheckpointsFound | None = None
    memory: MemoryPlanned | None = None
    stage: str = ""
    method: str | None = None
    done: int = 0
    total: int = 0
    loss: float | None = None
    eta_s: float | None = None
    attempt: int = 0
    message: str | None = None
    candidates: list[CandidateResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def take(self, event: Event) -> None:
        """Updates the picture with one event."""
        self.attempt = max(self.attempt, event.attempt)
        match event.body:
            case StateChanged(state=state, message=message):
                self.state, self.message = str(state), message
                if self.state in ("queued", "scheduled"):
                    self.stage = ""
            case CheckpointsFound():
                self.found = event.body
            case MemoryPlanned():
                self.memory = event.body
            case StageStarted(stage=stage, method=method, total=total):
                self.stage, self.method, self.done, self.total = stage, method, 0, total
                self.loss = self.eta_s = None
            case StepDone(stage=stage, method=method, step=step, total=total, loss=loss, eta_s=eta_s):
                self.stage, self.method, self.done, self.total = stage, method, step, total
                self.loss, self.eta_s = loss, eta_s
            case CandidateScored(candidate=candidate):
                others = [known for known in self.candidates if known.method != candidate.method]
                self.candidates = [*others, candidate]
            case Warned(message=warning):
                if warning not in self.warnings:
                    self.warnings.append(warning)

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self.head()]
        if self.found is not None:
            parts.append(
                Text(
                    f"{len(self.found.names)} checkpoints, {self.found.num_parameters:,} parameters, "
                    f"{self.found.dtype}, {self.found.task}",
                    style="dim",
                )
            )
        if self.memory is not None:
            parts.append(Text(memory_line(self.memory), style="dim"))
        if self.stage and self.state in ("running", "finalizing"):
            parts.append(self._stage_line())
        if self.candidates:
            parts += ["", candidates_table(self.candidates, self.metric)]
            by_set = sets_table(self.candidates, self.metric)
            parts += [] if by_set is None else ["", by_set]
        parts += [Text(f"! {in_flags(warning)}", style="yellow") for warning in self.warnings]
        if self.message and self.state not in ("failed", "cancelled"):
            parts.append(Text(in_flags(self.message), style="yellow"))
        return Group(*parts)

    def head(self) -> RenderableType:
        again = f"  attempt {self.attempt}" if self.attempt > 1 else ""
        text = Text.assemble("job ", (self.job_id, "bold"), "  ", (self.state, STATE_STYLES.get(self.state, "")), again)
        if self.state in ("succeeded", "failed", "cancelled"):
            return text
        row = Table.grid(padding=(0, 1))
        row.add_row(self.spinner, text)
        return row

    def _stage_line(self) -> RenderableType:
        row = Table.grid(padding=(0, 2))
        name = STAGES.get(self.stage, self.stage) + (f": {self.method}" if self.method else "")
        cells: list[RenderableType] = [Text(name)]
        if self.total > 0:
            cells.append(ProgressBar(total=self.total, completed=self.done, width=24))
            cells.append(Text(f"{self.done}/{self.total}"))
        if self.loss is not None:
            cells.append(Text(f"loss {self.loss:.4f}"))
        if self.eta_s is not None and self.eta_s >= 1:
            cells.append(Text(f"{duration(self.eta_s)} left", style="dim"))
        row.add_row(*cells)
        return row


def memory_line(plan: MemoryPlanned) -> str:
    """`directions as float32, replicated: 12.0 MB per rank, 20.1 GB free (directions 8.0 MB, ...)`"""
    parts = ", ".join(f"{name} {size(count)}" for name, count in plan.parts.items() if count)
    total, free = size(sum(plan.parts.values())), size(plan.available_bytes)
    return f"directions as {plan.precision}, {plan.placement}: {total} per rank, {free} free ({parts})"


def watch_job(job: Job, console: Console) -> JobRecord:
    """Shows the job until it ends, and returns its final record."""
    record = in_lines(job.status())
    view = View(record.id, metric=record.spec.metric, state=str(record.state))
    if not console.is_terminal:
        return _plain(job, view, console)
    # The picture disappears when the job ends, because the summary that follows shows the same table.
    with Live(view, console=console, refresh_per_second=10, transient=True):
        for event in job.events(follow=True):
            view.take(in_lines(event))
    console.print(view.head())
    return job.wait()


def follow_job(job: Job, console: Console, *, as_json: bool) -> JobRecord:
    """`watch_job`, or for programs one event per line."""
    if not as_json:
        return watch_job(job, console)
    for event in job.events(follow=True):
        print(to_json(event), flush=True)
    return job.wait()


def _plain(job: Job, view: View, console: Console) -> JobRecord:
    """One line for each event that a person would want in a log file, and for some of the steps."""
    console.print(f"job {view.job_id}")
    last_step = float("-inf")
    for event in map(in_lines, job.events(follow=True)):
        view.take(event)
        if isinstance(event.body, StepDone):
            if time.monotonic() - last_step < 5 and event.body.step < event.body.total:
                continue
            last_step = time.monotonic()
        if line := line_of(event, view.metric):
            console.print(line, soft_wrap=True)
    return job.wait()


def line_of(event: Event, metric: str | None = None) -> str | None:
    """An event as one line of plain text; None for those that say nothing new. `metric` is what judges candidates."""
    match event.body:
        case StateChanged(state=state, message=message):
            # Why a job failed is printed at the end, with the log's tail.
            return f"{state}: {in_flags(message)}" if message and state != "failed" else str(state)
        case CheckpointsFound(names=names, num_parameters=num_parameters, dtype=dtype, task=task, order=order):
            found = f"{len(names)} checkpoints" + (f" in order of {order}" if order else "")
            return f"{found}, {num_parameters:,} parameters, {dtype}, {task}"
        case MemoryPlanned():
            return memory_line(event.body)
        case StepDone(stage=stage, method=method, step=step, total=total, loss=loss):
            what = STAGES.get(stage, stage) + (f": {method}" if method else "")
            return f"{what} {step}/{total}" + (f", loss {loss:.4f}" if loss is not None else "")
        case CandidateScored(candidate=candidate):
            scores = ", ".join(f"{name} {number(value)}" for name, value in candidate.select.items())
            gain = gain_over_best(candidate, metric or judging_metric([candidate]))
            return f"{candidate.label}: {scores}" + (f"; against the best checkpoint {gain}" if gain else "")
        case Warned(message=message):
            return f"warning: {in_flags(message)}"
        case UnknownEvent(kind=kind):
            # Of a newer version, whose words for it this one does not have.
            return f"{kind}: {json.dumps(event.body.model_extra)}"
        case _:
            return None
