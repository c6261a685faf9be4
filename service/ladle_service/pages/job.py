"""One job: live while it runs, with its result when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from ladle_contracts import TERMINAL_STATES, CandidateResult, JobRecord, JobResult, JobState
from ladle_contracts.safe_text import one_line
from ladle_report import candidates_figure
from ladle_report.gains import better, better_between
from ladle_report.loss_decided import passed_over
from ladle_report.verdict import interval, told
from ladle_service.auth import Caller, CallerDependency
from ladle_service.dependencies import JobId, NoQuery, StoreDependency
from ladle_service.pages.history import Histories, History
from ladle_service.pages.templates import page
from ladle_service.pages.words import STAGES, USUAL_STAGES
from ladle_service.routes.jobs import cancel_job as cancel_over_api
from ladle_service.routes.jobs import find_job
from ladle_service.sessions import check_csrf
from ladle_service.store import JobStore

router = APIRouter(prefix="/jobs", include_in_schema=False)
_histories = Histories()

LOG_LINES = 500


@router.get("")
async def show_jobs(caller: CallerDependency) -> Response:
    """The list is at `/`."""
    return RedirectResponse("/", status_code=303)


@router.get("/{job_id}")
async def show_job(request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency) -> Response:
    """The whole page."""
    values = await _values(caller, store, job_id)
    return page(request, "job.html", log=await store.logs(job_id, LOG_LINES) or values["job"].log_tail, **values)


@router.get("/{job_id}/live")
async def show_live(request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency) -> Response:
    """Only the parts that change, for the page's script, which asks whenever something has happened."""
    return page(request, "job_live.html", **await _values(caller, store, job_id))


@router.post("/{job_id}/cancel")
async def cancel_job(request: Request, job_id: JobId, caller: CallerDependency, store: StoreDependency) -> Response:
    """As the API does it."""
    await check_csrf(request)
    await cancel_over_api(job_id, caller, store, NoQuery())
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """One stage as the page shows it."""

    words: str
    state: str
    """`done`, `current`, `waiting`, or `cut` where the job ended in it."""
    seconds: float = 0.0


async def _values(caller: Caller, store: JobStore, job_id: str) -> Mapping[str, Any]:
    job = await find_job(store, job_id, caller)
    history = await _histories.of(store, job_id)
    [fields] = await store.fields_of([job_id], ("owner", "output"))
    candidates = job.result.candidates if job.result is not None else job.progress.candidates
    metric = job.result.metric if job.result is not None else job.spec.metric or _metric_of(candidates)
    leader = job.result.method if job.result is not None else _leader(candidates)
    return {
        "job": job,
        "name": fields["output"] or job.spec.shown_ckpt_dir,
        "owner": fields["owner"] if caller.sees is None and caller.token_id is not None else None,
        "has_ended": job.state in TERMINAL_STATES,
        "has_nodes": job.state is not JobState.QUEUED or any(node.alive for node in await store.nodes()),
        "history": history,
        "stages": stage_lines(job, history),
        "metric": metric,
        "leader": leader,
        "rows": [_told(each, metric) for each in candidates],
        "figure": _figure(candidates, metric, leader),
        "verdict": None if job.result is None else verdict(job.result),
        "warnings": job.result.warnings if job.result is not None else history.warnings,
    }


def stage_lines(job: JobRecord, history: History) -> Sequence[StageLine]:
    """Those that have begun, and those that usually follow."""
    begun = [
        StageLine(
            words=STAGES.get(stage.name, stage.name),
            state="cut" if stage.was_cut else "done" if stage.began_at is None else "current",
            seconds=stage.seconds,
        )
        for stage in history.stages.values()
    ]
    if job.state in TERMINAL_STATES:
        return begun
    last = max((USUAL_STAGES.index(name) for name in history.stages if name in USUAL_STAGES), default=-1)
    return [*begun, *(StageLine(words=STAGES[name], state="waiting") for name in USUAL_STAGES[last + 1 :])]


def verdict(result: JobResult) -> str:
    """What came out, in one sentence, from what the record has of the report."""
    rows = {candidate.method: candidate.model_dump() for candidate in result.candidates}
    best, winner, metric = rows.get("best"), rows.get(result.method), result.metric
    if result.method == "best" or best is None or winner is None:
        surely = " beyond chance" if passed_over(list(rows.values()), "best") else ""
        return f"No average beat your best checkpoint{surely}, {result.best_checkpoint}, so that is the result."
    if not result.gain:
        return f"The same {metric} as your best checkpoint, with a lower loss."
    gain = {"low": result.gain_low, "high": result.gain_high}
    judged = {"name": metric, "higher_is_better": result.higher_is_better}
    instead = told(metric, best).partition(" ")[2]
    counted = ", counting that the best of several was picked" if result.visible_gain and len(rows) > 2 else ""
    between = f"95 %{counted}: {interval(judged, gain)}"
    return f"{told(metric, winner)} instead of {instead} of your best checkpoint ({between})."


def _metric_of(candidates: Sequence[CandidateResult]) -> str:
    """The one that judges where the job does not name one: the task's first."""
    return next(iter(candidates[0].select)) if candidates and candidates[0].select else "score"


def _leader(candidates: Sequence[CandidateResult]) -> str | None:
    return max(candidates, key=lambda each: each.gain or 0.0).method if candidates else None


def _told(candidate: CandidateResult, metric: str) -> Mapping[str, Any]:
    """A row of the table behind the picture."""
    gain, low, high = candidate.gain, candidate.gain_low, candidate.gain_high
    is_best = candidate.method == "best"
    return {
        "method": candidate.method,
        "label": candidate.label,
        "value": candidate.select.get(metric),
        "loss": candidate.select.get("loss"),
        "gain": "" if is_best or gain is None else better(metric, gain),
        "between": "" if is_best or low is None or high is None else better_between(metric, low, high),
    }


def _figure(candidates: Sequence[CandidateResult], metric: str, leader: str | None) -> Markup | None:
    if not candidates:
        return None
    rows = [{**each.model_dump(), "label": one_line(each.label)} for each in candidates]
    return candidates_figure(rows, metric=metric, winner=leader, name="gains")
