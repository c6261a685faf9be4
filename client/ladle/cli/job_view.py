"""A running job on a terminal, drawn again several times a second. It fits the terminal as it is at that moment."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ladle.cli.job_picture import JobPicture, Stage
from ladle.cli.render import STATE_STYLES, candidates_table, duration, sets_table, size
from ladle.cli.wording import in_flags
from ladle_contracts import CandidateResult, MemoryPlanned
from ladle_report.gains import better
from ladle_report.numbers import rate, seconds, value_of

BAR_FROM, BAR = 72, 20
"""From how many columns on there is a bar, and how many it takes."""
ALL, SHORT, SHORTEST = range(3)
"""How much is shown."""


class JobView:
    """Draws a `JobPicture`."""

    def __init__(self, picture: JobPicture) -> None:
        self.picture = picture
        self._spinners = {ascii_only: Spinner("line" if ascii_only else "dots") for ascii_only in (False, True)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Whole where it fits; on a short terminal only the stage that goes on, and on a very short one without the
        candidates."""
        parts: list[RenderableType] = []
        for level in ALL, SHORT, SHORTEST:
            parts = self._parts(options, level)
            if len(console.render_lines(Group(*parts), options, pad=False)) < console.size.height:
                break
        yield from parts

    def head(self) -> RenderableType:
        """`job 0081773117 running`"""
        picture = self.picture
        again = f"  attempt {picture.attempt}" if picture.attempt > 1 else ""
        return Text.assemble(
            "job ", (picture.job_id, "bold"), "  ", (picture.state, STATE_STYLES.get(picture.state, "")), again
        )

    def _parts(self, options: ConsoleOptions, level: int) -> list[RenderableType]:
        picture = self.picture
        parts: list[RenderableType] = [self._moving(self.head(), options)]
        if picture.found is not None and level == ALL:
            parts.append(Text(found_line(picture), style="dim"))
        if picture.memory is not None and level == ALL:
            parts.append(Text(memory_line(picture.memory), style="dim"))
        if picture.waits and picture.state == "queued":
            parts.append(Text(picture.waits, style="yellow"))
        if picture.stages and picture.state in ("running", "finalizing"):
            shown = [stage for stage in picture.plan() if level == ALL or stage is picture.current]
            parts.append(self._stages(shown, options))
        if picture.candidates and level < SHORTEST:
            parts += ["", candidates_table(picture.candidates, picture.metric, width=options.max_width)]
            by_set = sets_table(picture.candidates, picture.metric)
            parts += [""] if by_set is None else ["", by_set, ""]
        if picture.candidates:
            parts.append(best_so_far(picture))
        parts += [Text(f"! {in_flags(warning)}", style="yellow") for warning in picture.warnings]
        if picture.message and picture.state not in ("failed", "cancelled"):
            parts.append(Text(in_flags(picture.message), style="yellow"))
        return parts

    def _moving(self, text: RenderableType, options: ConsoleOptions) -> RenderableType:
        """With a spinner before it while the job goes on."""
        if self.picture.is_over:
            return text
        row = Table.grid(padding=(0, 1))
        row.add_row(self._spinners[options.ascii_only], text)
        return row

    def _stages(self, stages: list[Stage], options: ConsoleOptions) -> Table:
        done, here, ahead = ("+", ">", " ") if options.ascii_only else ("✓", "▸", "·")
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, min_width=1)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for stage in stages:
            if stage is self.picture.current:
                table.add_row(Text(here, style="cyan"), Text(stage.title, style="bold"), self._pace(stage, options))
                continue
            spent = seconds(stage.spent_s) if stage.name in self.picture.stages else ""
            has_ended = self.picture.has_ended(stage)
            mark, style = (done, "green") if has_ended else (ahead, "dim")
            name = Stage(stage.name).title
            table.add_row(Text(mark, style=style), Text(name, style="dim"), Text(spent, style="dim"))
        return table

    def _pace(self, stage: Stage, options: ConsoleOptions) -> RenderableType:
        """The bar, where there is room for one, and the numbers."""
        is_narrow = options.max_width < BAR_FROM
        text = Text(pace_text(stage, briefly=is_narrow), no_wrap=True, overflow="ellipsis")
        if not stage.total or is_narrow:
            return text
        row = Table.grid(padding=(0, 1))
        row.add_column()
        row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_row(ProgressBar(total=stage.total, completed=stage.done, width=BAR), text)
        return row


def pace_text(stage: Stage, *, briefly: bool = False) -> str:
    """`24/96  12.4 steps/s  3 min 20 s left  loss 0.2500`, as far as it is known; briefly `24/96  3 min 20 s left`."""
    parts = [f"{stage.done:,}/{stage.total:,}"] if stage.total else []
    if stage.rate is not None and stage.unit and not briefly:
        parts.append(rate(stage.rate, stage.unit))
    if stage.eta_s is not None and stage.eta_s >= 1:
        parts.append(f"{duration(stage.eta_s)} left")
    if stage.loss is not None and not briefly:
        parts.append(f"loss {stage.loss:.4f}")
    return "  ".join(parts)


def best_so_far(picture: JobPicture) -> Text:
    """`best so far: twa, accuracy 94.8 % instead of 91.5 %: 3.30 points better than the best checkpoint`"""
    leader = picture.leader
    if leader is None:
        return Text("best so far: the best checkpoint")
    return Text.assemble("best so far: ", (leader.label, "bold"), f", {gain_sentence(picture, leader)}")


def gain_sentence(picture: JobPicture, leader: CandidateResult) -> str:
    """`accuracy 94.8 % instead of 91.5 %: 3.30 points better than the best checkpoint`"""
    metric = picture.judged_by
    best = next((each for each in picture.candidates if each.method == "best"), None)
    instead = f" instead of {value_of(metric, best.select.get(metric))}" if best is not None else ""
    gain = better(metric, leader.gain or 0.0)
    return f"{metric} {value_of(metric, leader.select.get(metric))}{instead}: {gain} than the best checkpoint"


def found_line(picture: JobPicture) -> str:
    """`5 checkpoints in order of step, 1,034 parameters, float32, small-cnn`"""
    found = picture.found
    assert found is not None
    order = f" in order of {found.order}" if found.order else ""
    facts = [f"{len(found.names)} checkpoints{order}", f"{found.num_parameters:,} parameters", found.dtype, found.task]
    return ", ".join(filter(None, facts))


def memory_line(plan: MemoryPlanned) -> str:
    """`directions as float32, replicated: 12.0 MB per rank, 20.1 GB free (directions 8.0 MB, ...)`"""
    parts = ", ".join(f"{name} {size(count)}" for name, count in plan.parts.items() if count)
    total, free = size(sum(plan.parts.values())), size(plan.available_bytes)
    return f"directions as {plan.precision}, {plan.placement}: {total} per rank, {free} free ({parts})"
