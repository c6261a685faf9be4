"""What `ladle inspect` shows, and the short form of it that `ladle run` shows first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ladle.cli.render import size
from ladle.cli.wording import in_flags
from ladle_contracts.inspection import AutoPlan, InspectedBase, InspectedCheckpoint, Inspection
from ladle_report.forecast_words import expectation, remarks
from ladle_report.numbers import plural

MOST_ROWS = 60
"""Of checkpoints that can be used; then the first and the last ones are shown. `--json` has all."""
MOST_METRICS = 2
MOST_PASSED_OVER = 12
LINE_CHARS = 160
"""Of a reason beside a checkpoint."""


def inspection_view(found: Inspection) -> RenderableType:
    """All about a folder, on one screen where it has few checkpoints."""
    parts: list[RenderableType] = []
    if found.checkpoints:
        parts += [_table(found.checkpoints), ""]
    if found.not_listed:
        parts += [Text(f"{found.not_listed:,} more are not listed.", "dim"), ""]
    if found.plan is not None:
        parts += [*_plan_lines(found.plan), *_base(found.base), ""]
    parts += _passed_over(found)
    parts += [Text(f"! {in_flags(warning)}", "yellow") for warning in found.warnings]
    parts += _problems(found)
    return Group(*parts, *_forecast(found), _verdict(found))


def short_form(found: Inspection) -> RenderableType:
    """Two or three lines."""
    usable = [each for each in found.checkpoints if each.usable]
    lines = [Text(_counted(found, usable), "bold" if found.usable else "bold yellow")]
    if found.plan is not None:
        lines += [Text.assemble((f"  {name:<9}", "dim"), text) for name, text in _plan_facts(found.plan)[1:4]]
    return Group(*lines)


def _counted(found: Inspection, usable: Sequence[InspectedCheckpoint]) -> str:
    """`12 checkpoints of 7,241,732,096 parameters (safetensors, bfloat16), by step from 100 to 1200`"""
    taken = [each for each in usable if each.taken] or usable
    if not taken:
        return f"no usable checkpoints in {found.folder}"
    formats = ", ".join(dict.fromkeys(each.format for each in taken))
    dtypes = ", ".join(dict.fromkeys(each.dtype or "?" for each in taken))
    count = (found.plan.num_parameters if found.plan else 0) or taken[-1].num_parameters or 0
    words = [f"{plural(len(taken), 'checkpoint')} of {count:,} parameters ({formats}; {dtypes})"]
    if found.plan is not None:
        words.append(f"in order of {found.plan.order}, from {taken[0].name} to {taken[-1].name}")
    copies = sum(each.duplicate_of is not None for each in found.checkpoints)
    others = {"copies of them": copies, "that cannot be used": sum(not each.usable for each in found.checkpoints)}
    others["entries passed over"] = len(found.passed_over)
    counts = ", ".join(f"{what}: {count}" for what, count in others.items() if count)
    return ", ".join(words) + (f"; {counts}" if counts else "")


def _table(rows: Sequence[InspectedCheckpoint]) -> Table:
    metrics = [name for name, _ in Counter(name for each in rows for name in each.metrics).most_common(MOST_METRICS)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("checkpoint", overflow="fold")
    table.add_column("format")
    for name in ("step", "size", "tensors"):
        table.add_column(name, justify="right")
    table.add_column("type")
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    usable = [each for each in rows if each.usable]
    shown = usable if len(usable) <= MOST_ROWS else [*usable[: MOST_ROWS // 2], *usable[-MOST_ROWS // 2 :]]
    bad = [each for each in rows if not each.usable]
    for number, each in enumerate([*shown, *bad[:MOST_ROWS]]):
        if number == MOST_ROWS // 2 and len(shown) < len(usable):
            table.add_row(Text(f"... {len(usable) - len(shown)} more ...", "dim"))
        values = (f"{each.metrics[name]:.4g}" if name in each.metrics else "-" for name in metrics)
        step = "-" if each.step is None else f"{each.step}"
        facts = (each.format, step, size(each.size_bytes), _count(each.num_tensors), each.dtype or "-")
        style = "" if each.taken else "red" if not each.usable else "dim"
        table.add_row(each.name, *facts, *values, _remark(each), style=style)
    if len(bad) > MOST_ROWS:
        table.add_row(Text(f"... {len(bad) - MOST_ROWS} more that cannot be used ...", "dim"))
    return table


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _remark(each: InspectedCheckpoint) -> str:
    if each.problem is not None:
        return _short(in_flags(each.problem.message))
    if each.duplicate_of is not None:
        return f"{'the same as' if each.duplicate_is_certain else 'maybe the same as'} {each.duplicate_of}"
    if not each.taken:
        return "left out"
    return _short(in_flags("; ".join(each.notes)))


def _short(text: str) -> str:
    return text if len(text) <= LINE_CHARS else f"{text[: LINE_CHARS - 3]}..."


def _plan_facts(plan: AutoPlan) -> list[tuple[str, str]]:
    facts = [(plan.kind, f"{len(plan.checkpoints)} checkpoints, in order of {plan.order}")]
    model = f", model {plan.model}" if plan.model else ""
    if plan.task:
        facts.append(("task", f"{plan.task}{model}, {plan.num_parameters:,} parameters, judged by {plan.metric}"))
    if plan.methods:
        facts.append(("methods", ", ".join(plan.methods)))
    if plan.memory is not None:
        need, free = size(plan.memory.needed_bytes), size(plan.memory.available_bytes)
        facts.append(
            ("memory", f"{need} of {free} free, without batches ({plan.memory.placement}, {plan.memory.precision})")
        )
    if plan.groups:
        groups = ", ".join(f"{name} ({count})" for name, count in plan.groups.items())
        facts.append(("groups", groups))
    return facts


def _base(base: InspectedBase | None) -> list[Text]:
    """What is wrong with it stands among the problems."""
    if base is None or not base.fits:
        return []
    far = ""
    if base.distances:
        nearest, farthest = (f"{each:.3g}" for each in (min(base.distances), max(base.distances)))
        far = f", {nearest} to {farthest} away from the checkpoints"
    return [Text.assemble((f"{'base':<9}", "dim"), f"{base.name}, {size(base.size_bytes)}{far}")]


def _forecast(found: Inspection) -> list[RenderableType]:
    if found.forecast is None:
        return []
    forecast = found.forecast.model_dump()
    return [Text(expectation(forecast), "bold"), *(Text(each, "dim") for each in remarks(forecast)), ""]


def _plan_lines(plan: AutoPlan) -> list[Text]:
    return [Text.assemble((f"{name:<9}", "dim"), text) for name, text in _plan_facts(plan)]


def _passed_over(found: Inspection) -> list[RenderableType]:
    lines = [Text(f"{each.name}: {each.reason}", "dim") for each in found.passed_over[:MOST_PASSED_OVER]]
    if len(found.passed_over) > MOST_PASSED_OVER:
        lines.append(Text(f"and {len(found.passed_over) - MOST_PASSED_OVER} more", "dim"))
    return [Text("Passed over:"), *(Text("  ") + line for line in lines), ""] if lines else []


def _problems(found: Inspection) -> list[RenderableType]:
    return [Text.assemble(("x ", "bold red"), in_flags(f"{each.message} [{each.code}]")) for each in found.problems]


def _verdict(found: Inspection) -> Text:
    if found.usable:
        return Text("`ladle run` can average these. Whether the data fit is not looked at here.", "green")
    return Text("`ladle run` would refuse this folder as it is.", "bold red")
