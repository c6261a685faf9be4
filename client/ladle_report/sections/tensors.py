"""7. What was averaged, copied, recomputed and left out; memory; time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle_report.drawing.bars import Bar, lying_bars
from ladle_report.limits import rounded
from ladle_report.model import Facts, Figure, Part, Section, Table
from ladle_report.numbers import NOTHING, plural, seconds, size, value_of
from ladle_report.reading import Report

KINDS = {"averaged": "averaged", "recomputed": "recomputed", "copied": "copied", "left_out": "left out"}
PARTS = {
    "model": "model",
    "centre": "centre (their mean)",
    "directions": "directions (minus centre)",
    "gradient": "gradient",
    "activations": "activations",
    "vectors": "vectors of the method",
    "geometry": "Gram matrices",
}
SHOWN = 8


def tensors_section(report: Report) -> Section:
    """Whatever of it the report has."""
    parts: list[Part] = [Facts(rows=[*_tensors(report), *_left_out(report), *_statistics(report), *_adapters(report)])]
    parts += [figure for figure in (_memory(report), _stages(report)) if figure is not None]
    return Section(name="made-of", title="What was done with what", parts=parts)


def _tensors(report: Report) -> list[tuple[str, str]]:
    tensors = report.part("tensors")
    if not tensors:
        return []
    counts = ", ".join(f"{tensors[key]:,} {word}" for key, word in KINDS.items() if tensors.get(key))
    rows = [("Tensors", counts or "none")]
    for why, count in tensors.get("copied_why", {}).items():
        rows.append(("Copied", f"{count:,}: {why}"))
    return rows


def _left_out(report: Report) -> list[tuple[str, str]]:
    left_out = report.part("left_out")
    taken, dropped = left_out.get("taken_from", {}), left_out.get("dropped", [])
    rows = [
        ("Left out of the average", f"{plural(len(names), 'tensor')} from `{source}`: {_some(names)}")
        for source, names in list(taken.items())[:SHOWN]
    ]
    if len(taken) > SHOWN:
        rows.append(
            ("Left out of the average", f"tensors from {len(taken) - SHOWN} more checkpoints, see `report.json`")
        )
    if dropped:
        rows.append(("Not in the result", f"{plural(len(dropped), 'tensor')}: {_some(dropped)}"))
    return rows


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + more


def _statistics(report: Report) -> list[tuple[str, str]]:
    chosen = report.part("statistics")
    losses = chosen.get("fit_loss") or {}
    way = chosen.get("mixtures")
    if way not in losses or len(losses) < 2:
        return []
    other = next(name for name in losses if name != way)
    told = f"{way}: the mean of all checkpoints has a loss of {value_of('loss', losses[way])} that way on the fit split"
    recomputed = f"recomputed on {chosen.get('examples', 0):,} examples"
    return [("BatchNorm statistics", f"{told}, and {value_of('loss', losses[other])} with {other} ones ({recomputed})")]


def _adapters(report: Report) -> list[tuple[str, str]]:
    adapters = report.part("adapters")
    if not adapters:
        return []
    own = sorted(set(adapters.get("ranks", {}).values()))
    rows = [
        (
            "Adapters",
            f"of rank {', '.join(map(str, own))}" + (f" for `{adapters['base']}`" if adapters.get("base") else ""),
        )
    ]
    if adapters.get("rank") is not None:
        rows.append(("Rank of the average", f"{adapters['rank']}: {adapters['error']:.2%} of it is cut off"))
        cuts = "; ".join(f"{rank}: {error:.2%}" for rank, error in adapters.get("error_of_rank", {}).items())
        if cuts:
            rows.append(("Cut off by rank", cuts))
    return rows


def _memory(report: Report) -> Figure | None:
    memory = report.part("memory")
    parts = {PARTS.get(name, name): count for name, count in (memory.get("parts") or {}).items() if count}
    if not parts:
        return None
    needed = memory.get("needed_bytes") or sum(parts.values())
    title = f"Memory plan: {size(needed)}"
    kept = f"`{memory.get('placement')}` placement with directions in `{memory.get('precision')}`"
    free = f" of {size(memory['available_bytes'])} that were free" if memory.get("available_bytes") else ""
    by_size = sorted(parts.items(), key=lambda part: -part[1])
    return Figure(
        name="memory",
        title=title,
        reading=(
            f"What training the coefficients holds at once on each rank{free}: {kept}. The longest bar is what another "
            f"precision or placement would shorten."
        ),
        picture=lying_bars(
            "memory",
            (title, "; ".join(f"{name}: {size(count)}" for name, count in by_size)),
            [Bar(label=name, end=float(count), note=size(count), look="p4") for name, count in by_size],
            ("bytes", size),
        ),
        table=Table(caption=title, heads=["part", "bytes"], rows=[[name, f"{count:,}"] for name, count in by_size]),
        data={"parts": dict(by_size), "needed_bytes": needed, "available_bytes": memory.get("available_bytes")},
        note=str(memory.get("reason", "")),
    )


def _stages(report: Report) -> Figure | None:
    stages = list(report.json.get("stages") or ())
    if not stages:
        return None
    bars, start = [], 0.0
    for stage in stages:
        took = float(stage["seconds"])
        bars.append(Bar(label=stage["stage"], start=start, end=start + took, note=_took(stage), look="p3"))
        start += took
    title = f"Time: {seconds(start)}"
    return Figure(
        name="stages",
        title=title,
        reading=(
            "The stages one after another, from left to right. Bytes are those that all ranks asked for, also where "
            "the page cache had them; divided by the seconds they are what the stage moved, not what a disk can do."
        ),
        picture=lying_bars(
            "stages",
            (title, "; ".join(f"{bar.label}: {bar.note}" for bar in bars)),
            bars,
            ("seconds", lambda value: f"{value:,.3g}"),
        ),
        table=Table(
            caption=title,
            heads=["stage", "seconds", "read", "written", "per second"],
            rows=[
                [
                    stage["stage"],
                    f"{stage['seconds']:,.3g}",
                    size(stage.get("bytes_read") or 0),
                    size(stage.get("bytes_written") or 0),
                    _rate(stage) or NOTHING,
                ]
                for stage in stages
            ],
        ),
        data={
            "stages": [
                {key: rounded(value) if isinstance(value, float) else value for key, value in stage.items()}
                for stage in stages
            ]
        },
    )


def _took(stage: Mapping[str, Any]) -> str:
    rate = _rate(stage)
    return seconds(stage["seconds"]) + (f", {rate}" if rate else "")


def _rate(stage: Mapping[str, Any]) -> str:
    """Read and written, per second."""
    moved = (stage.get("bytes_read") or 0) + (stage.get("bytes_written") or 0)
    return f"{size(moved / stage['seconds'])}/s" if moved and stage["seconds"] > 0 else ""
