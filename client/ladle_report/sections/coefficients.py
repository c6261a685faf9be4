"""4. The coefficients: what each checkpoint counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ladle_report.drawing.bars import Bar, lying_bars, upright_bars
from ladle_report.drawing.heatmap import Cells, diverging, heatmap
from ladle_report.limits import blocks, ends, mean_blocks, means, rounded, shorten, spread
from ladle_report.model import Figure, Part, Section, Table
from ladle_report.numbers import places_of, plural
from ladle_report.reading import Report

LYING = 24
"""More checkpoints than that stand upright."""
Row = Mapping[str, Any]


def coefficients_section(report: Report) -> Section:
    """Those of the winner; layer by layer where there are several groups; and those of all candidates."""
    parts: list[Part] = [_said(report), _bars(report)]
    layered = _layered(report)
    if layered is not None:
        parts.append(_layers(report, layered))
    if len(report.candidates) > 1:
        parts.append(_all(report))
    return Section(name="coefficients", title="Coefficients", parts=parts)


def of_checkpoints(row: Row) -> list[float]:
    """One number per checkpoint: the mean over the groups."""
    groups = row["coefficients"]
    return [sum(column) / len(groups) for column in zip(*groups, strict=True)]


def of_base(row: Row) -> float | None:
    """The weight of the checkpoints' base, as the mean over the groups; None where it takes no part."""
    weights = row.get("base_weights")
    return sum(weights) / len(weights) if weights else None


def _layered(report: Report) -> Row | None:
    """The winner, if it has several groups, else the best candidate that has."""
    several = [row for row in report.candidates if len(row["groups"]) > 1]
    if not several:
        return None
    return max(several, key=lambda row: (row["method"] == report.json["winner"], row["gain"]))


def _said(report: Report) -> str:
    weights = of_checkpoints(report.winner)
    show = places_of(weights)
    if report.json["winner"] == "best":
        return f"The result is one checkpoint, `{report.labels[weights.index(max(weights))]}`, with a coefficient of 1."
    by_size = sorted(range(len(weights)), key=lambda index: -abs(weights[index]))
    largest = ", ".join(f"`{report.labels[index]}` ({show(weights[index])})" for index in by_size[:3])
    negative = sum(weight < -0.005 for weight in weights)
    told = f"The result is a sum of {plural(len(weights), 'checkpoint')}, with coefficients that add up to 1. "
    if (base := of_base(report.winner)) is not None:
        name = report.json["base"]["name"]
        told = f"The result is a sum of {plural(len(weights), 'checkpoint')} and of their base `{name}`, which counts "
        told += f"{show(base)}. All coefficients together add up to 1. "
    told += f"The largest are {largest}."
    if negative:
        told += f" {negative} are negative: the result lies beyond the checkpoints, away from these."
    return told


def _bars(report: Report) -> Figure:
    weights, is_uniform_known = of_checkpoints(report.winner), len(report.names) > 1
    show = places_of(weights)
    level = (1 / len(weights), "uniform") if is_uniform_known else None
    groups = len(report.winner["groups"])
    of = "" if groups == 1 else f", as the mean over its {groups} groups of layers"
    words = (
        f"Coefficients of {report.json['winner']}",
        f"From the first to the last checkpoint: {_told(report, weights)}",
    )
    if len(weights) <= LYING:
        bars = [_bar(label, weight, show) for label, weight in zip(report.labels, weights, strict=True)]
        picture = lying_bars("weights", words, bars, ("coefficient", show), level)
    else:
        ranges = blocks(len(weights), report.limits.side * 3)
        bars = [
            _bar(label, weight, show)
            for label, weight in zip((report.ticks[each[0]] for each in ranges), means(weights, ranges), strict=True)
        ]
        picture = upright_bars("weights", words, bars, (report.axis, "coefficient", show), level)
    kept = spread(len(weights), report.limits.rows)
    base = of_base(report.winner)
    of_their_base = [] if base is None else [[report.json["base"]["name"], f"{base:.4f}", ""]]
    return Figure(
        name="weights",
        title=f"What each checkpoint counts in {report.json['winner']}{of}",
        reading=(
            "Blue adds a checkpoint, orange takes it away. The dashed line is the coefficient of a plain average: what "
            "is beyond it counts more than its share."
        ),
        picture=picture,
        table=Table(
            caption="Coefficients of the result",
            heads=["checkpoint", "coefficient", "distance to the centre"],
            rows=[
                *of_their_base,
                *([report.labels[index], f"{weights[index]:.4f}", f"{_distance(report, index):.4g}"] for index in kept),
            ],
            note=_rest(len(weights) - len(kept)),
        ),
        data={
            "checkpoints": [report.labels[index] for index in kept],
            "coefficients": [rounded(weights[i]) for i in kept],
        },
    )


def _bar(label: str, weight: float, show: Callable[[float], str]) -> Bar:
    return Bar(label=label, end=weight, note=show(weight), look="p4" if weight >= 0 else "n4")


def _distance(report: Report, index: int) -> float:
    return float(report.json["checkpoints"][index].get("distance_to_centre") or 0.0)


def _rest(count: int) -> str:
    return f"{count:,} checkpoints in between are in `coefficients.json`." if count else ""


def _told(report: Report, weights: Sequence[float]) -> str:
    show = places_of(weights)
    kept = spread(len(weights), 20)
    return ", ".join(f"{shorten(report.labels[index], 40)} {show(weights[index])}" for index in kept)


def _layers(report: Report, row: Row) -> Figure:
    coefficients, groups = row["coefficients"], list(row["groups"])
    lines, columns = blocks(len(groups), report.limits.side), blocks(len(report.names), report.limits.side)
    cells = _reduced(coefficients, lines, columns, ends(groups, lines), ends(report.ticks, columns), report.axis)
    return _matrix_figure(
        name="layers",
        title=f"Checkpoints and layers in {row['method']}",
        reading=(
            "Rows are groups of layers from the input to the output, columns are checkpoints. Blue adds a checkpoint "
            "to a layer, orange takes it away, and the middle colour is zero. Rows that look alike need no "
            "coefficients of their own."
        ),
        cells=cells,
        first="layers",
        note=_put_together(lines, columns, "groups"),
    )


def _all(report: Report) -> Figure:
    rows = list(report.candidates)
    columns = blocks(len(report.names), report.limits.side)
    matrix = [of_checkpoints(row) for row in rows]
    cells = _reduced(
        matrix,
        blocks(len(rows), len(rows)),
        columns,
        [row["label"] for row in rows],
        ends(report.ticks, columns),
        report.axis,
    )
    return _matrix_figure(
        name="all-coefficients",
        title="What each candidate takes of each checkpoint",
        reading=(
            "One row per candidate, one column per checkpoint: blue adds, orange takes away. It shows which methods "
            "agree on what to keep."
        ),
        cells=cells,
        first="candidate",
        note=_put_together([], columns, ""),
    )


def _reduced(
    matrix: Sequence[Sequence[float]],
    lines: Sequence[range],
    columns: Sequence[range],
    rows: Sequence[str],
    heads: Sequence[str],
    columns_are: str,
) -> Cells:
    values = mean_blocks(matrix, lines, columns)
    return Cells(values=values, rows=rows, columns=heads, columns_are=columns_are)


def _put_together(lines: Sequence[range], columns: Sequence[range], rows_are: str) -> str:
    told = []
    if any(len(each) > 1 for each in lines):
        told.append(f"{sum(map(len, lines)):,} {rows_are} are shown in {len(lines)} rows")
    if any(len(each) > 1 for each in columns):
        told.append(f"{sum(map(len, columns)):,} checkpoints in {len(columns)} columns")
    return f"{' and '.join(told)}, as means of neighbours. Every number is in `coefficients.json`." if told else ""


def _matrix_figure(name: str, title: str, reading: str, cells: Cells, first: str, note: str) -> Figure:
    colours, show = diverging(cells.known), places_of(cells.known)
    described = (
        f"{len(cells.rows)} rows and {len(cells.columns)} columns, from {show(-colours.high)} to {show(colours.high)}"
    )
    return Figure(
        name=name,
        title=title,
        reading=reading,
        picture=heatmap(name, (title, described), cells, colours, show, "coefficient"),
        table=matrix_table(title, first, cells, lambda value: f"{value:.4f}", note),
        data=matrix_json(cells),
        note=note,
    )


def matrix_table(caption: str, first: str, cells: Cells, write: Any, note: str = "") -> Table:
    """The numbers of a heat map."""
    return Table(
        caption=caption,
        heads=[first, *cells.columns],
        rows=[
            [name, *("" if value is None else write(value) for value in row)]
            for name, row in zip(cells.rows, cells.values, strict=True)
        ],
        note=note,
    )


def matrix_json(cells: Cells) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "rows": list(cells.rows),
        "columns": list(cells.columns),
        "values": [[rounded(value, 4) for value in row] for row in cells.values],
    }
