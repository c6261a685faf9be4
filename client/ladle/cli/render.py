"""What the command shows: tables of jobs, candidates, nodes and methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ladle.cli.results import FoundResult
from ladle.cli.wording import in_flags
from ladle_contracts import CandidateResult, JobRecord, JobResult, MethodInfo, OptionInfo, TaskInfo
from ladle_contracts.safe_text import one_line
from ladle_report.gains import better, better_between, compared, compared_between
from ladle_report.loss_decided import loss_decided
from ladle_report.numbers import ago
from ladle_report.sureness import enough

WIDE, NARROW = 90, 64
"""From how many columns on a table of candidates has all its columns, and its intervals."""

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "finalizing": "cyan",
    "scheduled": "cyan",
}


def candidates_table(
    candidates: Sequence[CandidateResult], metric: str | None, winner: str | None = None, width: int = WIDE
) -> Table:
    """Filled in row by row while a job runs. The winner, or the best so far, is bold. On a narrow terminal it has no
    column for the loss, and then none for the interval."""
    metric = metric or judging_metric(candidates)
    with_loss, with_interval = metric != "loss" and width >= WIDE, width >= NARROW
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method")
    table.add_column(metric, justify="right")
    if with_loss:
        table.add_column("loss", justify="right")
    table.add_column("against best", justify="right")
    if with_interval:
        table.add_column("95 % interval", justify="right")
    leader = winner or _leader(candidates)
    for candidate in candidates:
        row = [candidate.label, number(candidate.select.get(metric))]
        if with_loss:
            row.append(number(candidate.select.get("loss")))
        row.append(gain_over_best(candidate, metric) or "-")
        if with_interval:
            row.append(_interval(candidate, metric))
        table.add_row(*row, style="bold" if candidate.method == leader else "")
    return table


def sets_table(candidates: Sequence[CandidateResult], metric: str | None) -> Table | None:
    """Each candidate's score on each validation set; none where the only set has no name."""
    metric = metric or judging_metric(candidates)
    if not any(candidate.sets for candidate in candidates):
        return None
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("set")
    table.add_column("method")
    for name in (metric, "against best", "95 % interval"):
        table.add_column(name, justify="right")
    for name in dict.fromkeys(name for candidate in candidates for name in candidate.sets):
        for candidate in candidates:
            if (on_set := candidate.sets.get(name)) is not None:
                gain = better(metric, on_set.gain), better_between(metric, on_set.gain_low, on_set.gain_high)
                told = ("-", "") if candidate.method == "best" else gain
                style = "red" if on_set.gain_high < 0 else ""
                table.add_row(name, candidate.label, number(on_set.select.get(metric)), *told, style=style)
    return table


def judging_metric(candidates: Sequence[CandidateResult]) -> str:
    """The metric that judges when the job does not name one: the task's first."""
    return next(iter(candidates[0].select)) if candidates else "score"


def gain_over_best(candidate: CandidateResult, metric: str) -> str:
    """`1.20 points better`; empty for the best checkpoint itself."""
    return "" if candidate.method == "best" or candidate.gain is None else better(metric, candidate.gain)


def _interval(candidate: CandidateResult, metric: str) -> str:
    if candidate.method == "best" or candidate.gain_low is None or candidate.gain_high is None:
        return ""
    return better_between(metric, candidate.gain_low, candidate.gain_high)


def _leader(candidates: Sequence[CandidateResult]) -> str | None:
    if not candidates:
        return None
    return max(candidates, key=lambda candidate: candidate.gain or 0.0).method


def result_summary(result: JobResult, *, elapsed: bool = True) -> RenderableType:
    """The end of a job that succeeded, for people."""
    seconds = f" in {duration(result.duration_s)}" if elapsed else ""
    facts = Text(f"{result.num_checkpoints} checkpoints of {result.num_parameters:,} parameters{seconds}", style="dim")
    if result.tensors_taken and result.method != "best":
        facts.append(f"; as they are: {_taken(result)}")
    warnings = [Text(f"! {in_flags(warning)}", style="yellow") for warning in result.warnings]
    words = [Text(one_line(each)) for each in result.words]
    where = Text.assemble("Curve: " if words else "Model: ", (result.folder, "bold"))
    table = candidates_table(result.candidates, result.metric, result.method)
    by_set = sets_table(result.candidates, result.metric)
    tables: list[RenderableType] = [table, ""] if by_set is None else [table, "", by_set, ""]
    said = words or [_verdict(result)]
    return Group(*tables, *said, facts, *warnings, where)


def _verdict(result: JobResult) -> Text:
    decided = loss_decided([each.model_dump() for each in result.candidates], result.method, result.metric)
    if result.method == "best" and decided:
        return Text.assemble(
            ("No average was better than the best checkpoint beyond chance", "bold yellow"),
            f", so the result is {result.best_checkpoint}, {_how_it_is(result)}. {decided}{_needed(result)}",
        )
    if result.method == "best" and any((candidate.gain or 0.0) > 0 for candidate in result.candidates):
        # Only `no_set_worse` lets something better lose.
        return Text.assemble(
            ("Every average that was better than the best checkpoint is worse on some validation set", "bold yellow"),
            f", so the result is {result.best_checkpoint}, {_how_it_is(result)}.",
        )
    if result.method == "best":
        return Text.assemble(
            ("No average was better than the best checkpoint", "bold yellow"),
            f" on the select split, so the result is {result.best_checkpoint}, {_how_it_is(result)}.",
            _needed(result),
            _lower_loss(result),
        )
    winner = (f"{result.method} wins", "bold green")
    decided = f" {decided}" if decided else ""
    if result.gain == 0:
        losses = _select_losses(result)
        return Text.assemble(
            winner,
            f": the same {result.metric} as {result.best_checkpoint}, with a lower loss "
            f"({number(losses[result.method])} instead of {number(losses['best'])}).{decided}",
        )
    metric, higher = result.metric, result.higher_is_better
    verdict = Text.assemble(
        winner,
        f": {compared(metric, higher, result.gain)} than {result.best_checkpoint} "
        f"(95 % interval{_counted(result)}: {compared_between(metric, higher, result.gain_low, result.gain_high)})."
        f"{decided}",
    )
    if result.gain_low <= 0:
        verdict.append(f" The interval includes zero, so this may be chance.{_needed(result)}", style="yellow")
    return verdict


def _counted(result: JobResult) -> str:
    """A worker of an earlier version has told the interval of one comparison."""
    is_one_of_several = result.visible_gain is not None and len(result.candidates) > 2
    return ", counting that the best of several was picked" if is_one_of_several else ""


def _needed(result: JobResult) -> str:
    """How large a gain would have been seen, and how many examples would show the one that was measured."""
    if not result.visible_gain:
        return ""
    averages = [candidate for candidate in result.candidates if candidate.method != "best"]
    of = result.method
    if of == "best":
        of = max(averages, key=lambda each: each.gain or 0.0, default=result.candidates[0]).method
    return f" On these examples {enough(result.metric, result.visible_gain, result.examples_needed, of)}"


def _how_it_is(result: JobResult) -> str:
    """Of the best checkpoint, where it is the result."""
    return f"but for {_taken(result)}" if result.tensors_taken else "unchanged"


def _taken(result: JobResult, most: int = 3) -> str:
    """`2 tensors of step-3`."""
    told = [f"{count} tensor{'s' * (count > 1)} of {name}" for name, count in result.tensors_taken.items()]
    more = f" and those of {len(told) - most} more checkpoints" if len(told) > most else ""
    return ", ".join(told[:most]) + more


def _lower_loss(result: JobResult) -> str:
    """Points at a candidate that the metric did not choose, but the loss would."""
    losses = _select_losses(result)
    lowest = min(losses, key=lambda method: losses[method])
    if result.metric == "loss" or lowest == result.method:
        return ""
    return (
        f" {lowest} has a lower loss ({number(losses[lowest])} instead of {number(losses[result.method])}). "
        f"With `--metric loss` the loss decides."
    )


def _select_losses(result: JobResult) -> dict[str, float]:
    return {candidate.method: candidate.select["loss"] for candidate in result.candidates}


def jobs_table(records: Iterable[JobRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "state", "submitted", "checkpoints", "method", "result"):
        # Ids are for copying and states for reading at a glance, so only the longest columns may wrap.
        table.add_column(name, no_wrap=name not in ("checkpoints", "result"), overflow="fold")
    for record in records:
        table.add_row(
            record.id,
            state_text(record),
            ago(record.created_at),
            record.spec.shown_ckpt_dir,
            record.spec.method.name,
            outcome(record),
        )
    return table


def outcome(record: JobRecord) -> str:
    if record.result is not None:
        return _short_verdict(record.result)
    return waits_of(record) or (str(record.reason) if record.reason else record.progress.stage)


def waits_of(record: JobRecord) -> str:
    """`needs 2 nodes, 1 free; position 3, starts in about 12 min`; empty for a job that does not wait."""
    return "; ".join(filter(None, (record.waiting_for, turn(record))))


def turn(record: JobRecord) -> str:
    """Where a queued job is and when it starts: `position 3, starts in about 12 min`; empty for any other."""
    if record.queue_position is None:
        return ""
    if record.starts_in_s is None:
        return f"position {record.queue_position}, nothing is known yet about when it starts"
    if record.starts_in_s < 60:
        return f"position {record.queue_position}, starts within a minute"
    return f"position {record.queue_position}, starts in about {_about(record.starts_in_s)}"


def _about(seconds: float) -> str:
    """`12 min`, `5 h`, `3 days`"""
    for length, unit in ((2 * 86400, "days"), (2 * 3600, "h")):
        if seconds >= length:
            return f"{round(seconds / (86400 if unit == 'days' else 3600))} {unit}"
    return f"{max(1, round(seconds / 60))} min"


def results_table(results: Iterable[FoundResult]) -> Table:
    """Results on disk."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "written", "folder", "task", "checkpoints", "size", "result"):
        table.add_column(name, no_wrap=name not in ("folder", "result"), overflow="fold")
    for result in results:
        table.add_row(
            result.job_id or "-",
            ago(result.written_at),
            Path(result.folder).name,
            result.task,
            str(result.num_checkpoints),
            size(result.size_bytes),
            _short_verdict(result),
        )
    return table


def _short_verdict(result: JobResult | FoundResult) -> str:
    if result.method == "best":
        return "best checkpoint"
    if result.gain == 0:
        return f"{result.method}: same {result.metric}, lower loss"
    return f"{result.method}: {compared(result.metric, result.higher_is_better, result.gain)}"


def record_summary(record: JobRecord) -> RenderableType:
    """One job for people."""
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(style="dim")
    rows.add_column(overflow="fold")
    rows.add_row("job", record.id)
    rows.add_row("state", state_text(record))
    rows.add_row("checkpoints", record.spec.shown_ckpt_dir)
    for field, path in record.spec.val_sets.items():
        rows.add_row(" ".join(["validation set", *field.split(".", 1)[1:]]), str(path))
    rows.add_row("submitted", ago(record.created_at))
    if record.output_name:
        rows.add_row("result's folder", record.output_name)
    for name, fact in _about_waiting(record):
        rows.add_row(name, fact)
    if record.nodes:
        of_nodes = f", {record.node_failures} ended by a node" if record.node_failures else ""
        rows.add_row("attempt", f"{record.attempt} on {', '.join(record.nodes)}, {record.failures} failed{of_nodes}")
    if record.spec.resources.timeout_s and record.result is None:
        rows.add_row("may run", f"{duration(record.spec.resources.timeout_s)}, all attempts together")
    if record.progress.stage and record.result is None:
        rows.add_row("stage", f"{record.progress.stage} {record.progress.method or ''}".strip())
    if record.message and record.result is None:
        rows.add_row("message", f"{in_flags(record.message)} [{record.reason}]")
    parts: list[RenderableType] = [rows]
    if record.result is not None:
        parts += ["", result_summary(record.result)]
    elif record.log_tail:
        parts += ["", Text("The end of the log:", style="dim"), *[Text(f"  {line}") for line in record.log_tail]]
    return Group(*parts)


def _about_waiting(record: JobRecord) -> Iterator[tuple[str, str]]:
    if record.waiting_for:
        yield "waits because it", record.waiting_for
    if place := turn(record):
        yield "queue", place


def catalog_view(infos: Sequence[MethodInfo | TaskInfo]) -> RenderableType:
    """Methods or tasks with their options."""
    parts: list[RenderableType] = []
    for info in infos:
        parts.append(Text.assemble((info.name, "bold"), f"  {info.summary}"))
        if isinstance(info, MethodInfo):
            parts += [Text(f"  {line}") for line in info.formula]
            parts.append(Text(f"  {info.reference}  {info.reference_url}", style="dim"))
        else:
            parts.append(Text(f"  metrics: {', '.join(info.metrics)}", style="dim"))
        if info.options:
            parts.append(_options_table(info.options))
        parts.append("")
    return Group(*parts[:-1])


def _options_table(options: Iterable[OptionInfo]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for option in options:
        default = "" if option.default is None else f"= {option.default}"
        table.add_row(option.name, Text(f"{option.type} {default}", style="dim"), option.help)
    return table


def state_text(record: JobRecord) -> Text:
    return Text(str(record.state), style=STATE_STYLES.get(str(record.state), ""))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """`1.2 GB`: decimal units, like those of disks and networks."""
    return decimal(count)
