"""5. One basin or several: how the checkpoints lie to each other, and what the loss does between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle_report.drawing.contour import Land, Spot, contour_map
from ladle_report.drawing.heatmap import Cells, Colours, diverging, heatmap, sequential
from ladle_report.drawing.lines import Axes, Line, line_chart
from ladle_report.forecast_words import expectation, remarks
from ladle_report.limits import blocks, ends, mean_blocks, rounded, spread
from ladle_report.model import Figure, Part, Remark, Section, Table
from ladle_report.numbers import digits, places_of, plural
from ladle_report.reading import Report
from ladle_report.sections.coefficients import matrix_json, matrix_table

LOOKS = ("c1", "c2", "c3", "c4", "c5", "c7")
SHAPES = ("circle", "square", "triangle", "diamond")


def basins_section(report: Report) -> Section | None:
    """None of a single checkpoint."""
    if len(report.names) < 2:
        return None
    diagnosis = report.part("diagnosis")
    parts: list[Part] = [*_verdict(report, diagnosis), *_outputs(report), *_forecast(report), *_matrices(report)]
    if segments := diagnosis.get("segments"):
        parts.append(_segments(report, diagnosis, segments))
    if plane := diagnosis.get("plane"):
        parts.append(_plane(report, plane))
    return Section(name="basins", title="One basin or several", parts=parts)


def _outputs(report: Report) -> list[Part]:
    """What averages of weights are worth beside averages of outputs, where that is known."""
    found = report.part("details").get("cached-outputs") or {}
    outputs, weights = found.get("loss_of_outputs"), found.get("loss_of_weights")
    if outputs is None:
        return []
    of_weights = "is not finite" if weights is None else f"is {digits(weights)}"
    return [
        f"The loss of the best average of the checkpoints' outputs is {digits(outputs)}, and that of the average of "
        f"their weights with the same coefficients {of_weights}, on {found.get('examples', 0):,} examples of the fit "
        f"split. Within one basin the two are nearly the same; the further apart, the less an average of the weights "
        f"is what its parts are together."
    ]


def _forecast(report: Report) -> list[Part]:
    """What the distances and single losses promised before any average was made."""
    forecast = report.part("forecast")
    if not forecast:
        return []
    return [" ".join([f"The forecast was: {expectation(forecast)}", *remarks(forecast)])]


def _verdict(report: Report, diagnosis: Mapping[str, Any]) -> list[Part]:
    if verdict := diagnosis.get("verdict"):
        examples = diagnosis.get("examples") or 0
        return [Remark(text=f"{verdict} Measured on {examples:,} examples of the fit split.")]
    return [
        "The two matrices show how the checkpoints lie in the space of the weights. Whether the loss rises between "
        "them is measured on request: by a job with `diagnose`, which also draws the plane through the results."
    ]


def _matrices(report: Report) -> list[Figure]:
    geometry = report.part("geometry")
    cosines, distances = geometry.get("cosines"), geometry.get("distances")
    found = []
    if cosines:
        found.append(
            _matrix(
                report,
                ("cosines", "On which side of the centre", "cosine of two checkpoints' directions from the centre"),
                "The cosine between the directions from the mean of all checkpoints to each of two. Blue blocks are "
                "checkpoints on the same side, orange ones are on opposite sides: a run that drifts shows a blue "
                "corner at each end.",
                cosines,
                places_of([1.0]),
            )
        )
    if distances:
        found.append(
            _matrix(
                report,
                ("distances", "How far apart", "distance between two checkpoints"),
                "The distance between two checkpoints in the weights. Neighbours of a run are near; a block that is "
                "far from all others may be another basin.",
                distances,
                lambda value: f"{value:.3g}",
            )
        )
    return found


def _matrix(
    report: Report, words: tuple[str, str, str], reading: str, matrix: Sequence[Sequence[float]], write: Any
) -> Figure:
    name, title, legend = words
    ranges = blocks(len(matrix), report.limits.side)
    values = mean_blocks(matrix, ranges, ranges)
    cells = Cells(
        values=values, rows=ends(report.labels, ranges), columns=ends(report.ticks, ranges), columns_are=report.axis
    )
    colours: Colours = diverging(cells.known, 1.0) if name == "cosines" else sequential(cells.known)
    is_less = len(ranges) < len(matrix)
    note = (
        f"{len(matrix):,} checkpoints in {len(ranges)} rows, as means of neighbours. Every number is in `report.json`."
    )
    described = f"A square of {plural(len(ranges), 'row')}, from {write(min(cells.known))} to {write(max(cells.known))}"
    return Figure(
        name=name,
        title=title,
        reading=reading,
        picture=heatmap(name, (title, described), cells, colours, write, legend),
        table=matrix_table(
            legend.capitalize(), "checkpoint", cells, lambda value: f"{value:.3g}", note if is_less else ""
        ),
        data=matrix_json(cells),
        note=note if is_less else "",
    )


def _segments(report: Report, diagnosis: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per checkpoint, coloured by its basin."""
    basin_of = {name: number for number, basin in enumerate(diagnosis.get("basins", ())) for name in basin}
    shown = [segments[index] for index in spread(len(segments), 24)]
    lines = [_segment(report, each, basin_of.get(each["checkpoint"], 0)) for each in shown]
    several = len(diagnosis.get("basins", ())) > 1
    title = "The loss on the way from the centre to each checkpoint"
    return Figure(
        name="segments",
        title=title,
        reading=(
            "Left is the mean of all checkpoints, right each checkpoint; in between are their mixtures. A line that "
            "bulges upwards has a barrier on its way: that checkpoint lies in another basin. A line that sags is what "
            "makes averages work." + (" Colours and marks tell the basins apart." if several else "")
        ),
        picture=line_chart(
            "segments",
            (
                title,
                "; ".join(f"{line.label}: barrier {_barrier(each)}" for line, each in zip(lines, shown, strict=True)),
            ),
            Axes(
                x="share of the way from the centre to the checkpoint",
                y=str(diagnosis.get("loss", "loss")),
                show_x=lambda value: f"{value:g}",
                show_y=lambda value: f"{value:.4g}",
                x_ticks=[0, 0.25, 0.5, 0.75, 1],
            ),
            lines,
            height=340,
        ),
        table=Table(
            caption=title,
            heads=["checkpoint", *(f"{t:g}" for t in shown[0]["t"]), "barrier"],
            rows=[
                [
                    report.label_of(each["checkpoint"]),
                    *("not finite" if loss is None else digits(loss) for loss in each["loss"]),
                    _barrier(each),
                ]
                for each in shown
            ],
        ),
        data={
            "segments": [
                {
                    "checkpoint": each["checkpoint"],
                    "t": each["t"],
                    "loss": [rounded(loss) for loss in each["loss"]],
                    "barrier": rounded(each.get("barrier")),
                }
                for each in shown
            ]
        },
    )


def _segment(report: Report, segment: Mapping[str, Any], basin: int) -> Line:
    points = [None if loss is None else (t, loss) for t, loss in zip(segment["t"], segment["loss"], strict=True)]
    return Line(
        label=report.label_of(segment["checkpoint"]),
        points=points,
        look=LOOKS[basin % len(LOOKS)],
        marks=SHAPES[basin % len(SHAPES)],
    )


def _barrier(segment: Mapping[str, Any]) -> str:
    barrier = segment.get("barrier", 0.0)
    return "not finite" if barrier is None else digits(barrier) if barrier else "none"


def _plane(report: Report, plane: Mapping[str, Any]) -> Figure:
    values = _finite(plane["loss"])
    spots = _spots(report, plane)
    title = "The loss around the results"
    land = Land(x=plane["x"], y=plane["y"], values=values, spots=spots)
    unit = str(plane.get("unit", "distance in the weights"))
    outside = sum(not (land.x[0] <= spot.x <= land.x[-1] and land.y[0] <= spot.y <= land.y[-1]) for spot in spots)
    note = f"{plural(outside, 'checkpoint')} lie outside of this area." if outside else ""
    return Figure(
        name="plane",
        title=title,
        reading=(
            "The plane through three models of this job, seen from above, as in figure 1 of the paper on trainable "
            "weight averaging. Pale is a low loss, or dark on a dark page. Checkpoints are drawn where they fall on "
            "the plane: they need not lie in it. A result on low ground between them is what averaging looks for."
        ),
        picture=contour_map(
            "plane", (title, _plane_in_words(land)), land, (unit, unit, "loss"), lambda value: f"{value:.3g}"
        ),
        table=matrix_table(
            f"{title}: rows are y, columns are x",
            "y",
            Cells(
                values=[*reversed(values)],
                rows=[f"{y:.3g}" for y in reversed(plane["y"])],
                columns=[f"{x:.3g}" for x in plane["x"]],
                columns_are=unit,
            ),
            lambda value: f"{value:.3g}",
        ),
        data={
            "x": [rounded(x) for x in plane["x"]],
            "y": [rounded(y) for y in plane["y"]],
            "loss": [[rounded(loss, 4) for loss in row] for row in plane["loss"]],
            "points": plane["points"],
            "checkpoints": {spot.label: [rounded(spot.x), rounded(spot.y)] for spot in spots if spot.is_small},
        },
        note=note,
    )


def _finite(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Where the loss is not finite it is as high as anywhere."""
    highest = max((loss for row in rows for loss in row if loss is not None), default=0.0)
    return [[highest if loss is None else loss for loss in row] for row in rows]


def _spots(report: Report, plane: Mapping[str, Any]) -> list[Spot]:
    looks = {"best": ("diamond", "c2"), "uniform": ("square", "c4"), "winner": ("circle", "c1")}
    winner = str(report.json["winner"])
    spots = []
    for name, (x, y) in plane["points"].items():
        shape, look = looks.get(name, ("triangle", "c5"))
        label = f"{winner} (result)" if name == "winner" else f"{name} (result)" if name == winner else name
        if name != "winner" or winner not in plane["points"]:
            spots.append(Spot(x=x, y=y, label=label, shape=shape, look=look))
    of_checkpoints = plane.get("checkpoints", {})
    ticks = dict(zip(report.names, report.ticks, strict=True))
    for index in spread(len(of_checkpoints), 60):
        name = list(of_checkpoints)[index]
        x, y = of_checkpoints[name]
        spots.append(Spot(x=x, y=y, label=ticks.get(name, name), shape="circle", look="ink", is_small=True))
    return spots


def _plane_in_words(land: Land) -> str:
    lowest = min(map(min, land.values))
    named = ", ".join(f"{spot.label} at ({spot.x:.3g}, {spot.y:.3g})" for spot in land.spots if not spot.is_small)
    return f"The lowest loss on the grid is {lowest:.4g}. {named}"
