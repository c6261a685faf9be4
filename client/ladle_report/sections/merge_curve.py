"""3. The merge curve: where averaging pays along the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle_report.curve_words import BEST_PROFILE
from ladle_report.drawing.lines import Axes, Level, Line, line_chart
from ladle_report.gains import better
from ladle_report.limits import rounded, spread
from ladle_report.model import Figure, Section, Table
from ladle_report.numbers import NOTHING, capital, tick_of, value_of
from ladle_report.reading import Report

Points = Sequence[Mapping[str, Any]]

_AVERAGE = {
    "average so far": "the plain average of it and all before it",
    "best average": "the best average that ends there, which other examples have chosen",
}


def merge_curve_section(report: Report) -> Section | None:
    """None where no checkpoint was judged alone."""
    points = points_of(report)
    if sum(point["alone"] is not None for point in points) + sum(point["average"] is not None for point in points) < 2:
        return None
    title = "The merge curve"
    return Section(name="merge-curve", title=title, parts=[_said(report, points), _figure(report, points)])


def points_of(report: Report) -> Points:
    """One per checkpoint. Reports before `merge_curve` have the checkpoints themselves."""
    found = report.part("merge_curve").get("points")
    if found:
        return list(found)
    return [_alone(each, index, report.metric) for index, each in enumerate(report.json["checkpoints"])]


def places_of(report: Report, points: Points) -> list[float]:
    """Where each point stands on the axis of the checkpoints: a merge curve has one at some of them."""
    if len(points) == len(report.places):
        return list(report.places)
    known = dict(zip(report.names, report.places, strict=True))
    return [known[point["checkpoint"]] for point in points]


def average_is(report: Report) -> str:
    """What the second line is: of a merge curve, the best average that ends at each point."""
    return "best average" if report.part("merge_curve").get("average_is") == BEST_PROFILE else "average so far"


def _alone(checkpoint: Mapping[str, Any], index: int, metric: str) -> dict[str, Any]:
    known = checkpoint.get("select") or {"means": {}, "examples": 0}
    return {
        "checkpoint": checkpoint["name"],
        "step": checkpoint.get("step"),
        "alone": known["means"].get(metric),
        "alone_examples": known["examples"],
        "average": None,
        "averaged": index + 1,
        "average_examples": 0,
    }


def _said(report: Report, points: Points) -> str:
    """The curve in one or two sentences."""
    if report.part("merge_curve").get("words"):
        return " ".join([*map(str, report.part("merge_curve")["words"]), *_taken(report)])
    pairs = [
        point
        for point in points
        if point["alone"] is not None and point["average"] is not None and point["averaged"] > 1
    ]
    if len(pairs) < 2:
        return (
            "Each checkpoint alone, along the run. What running averages are worth on the way is measured by a job "
            "with `diagnose`."
        )
    sign = 1 if report.higher_is_better else -1
    gains = [sign * (point["average"] - point["alone"]) for point in pairs]
    paying = sum(gain > 0 for gain in gains)
    last = pairs[-1]
    told = f"The average of all checkpoints so far is better than the newest one at {paying} of {len(pairs)} places"
    end = f"at the end it is {better(report.metric, gains[-1])}, with {last['averaged']} checkpoints"
    return f"{told}; {end}."


def _taken(report: Report) -> list[str]:
    """What was known from an earlier curve of the run."""
    evaluated = report.part("evaluated")
    earlier = evaluated.get("earlier")
    if not earlier:
        return []
    return [f"What {earlier['models']:,} of {evaluated['models']:,} models are worth is from `{earlier['folder']}`."]


def _figure(report: Report, points: Points) -> Figure:
    metric, places = report.metric, places_of(report, points)
    averaged = average_is(report)
    kept = sorted({*spread(len(points), report.limits.points), *_extremes(report, points)})
    examples = int(report.json["splits"]["select"])
    shown = [points[index] for index in kept]
    xs = [places[index] for index in kept]
    lines = [
        _line("each checkpoint", "alone", shown, xs, "muted", "circle", examples),
        _line(averaged, "average", shown, xs, "c2", "square", examples),
    ]
    winner = report.winner["select"].get(metric)
    levels = [] if winner is None else [Level(value=winner, label=f"{report.json['winner']} (result)", look="c1")]
    is_partial = any(0 < (point[f"{key}_examples"] or 0) < examples for point in shown for key in ("alone", "average"))
    direction = "higher" if report.higher_is_better else "lower"
    return Figure(
        name="merge-curve",
        title=capital(f"{metric} along the run"),
        reading=(
            f"The grey line is every checkpoint alone, the coloured one {_AVERAGE[averaged]}. "
            f"Where the coloured one is on the better side ({direction} is better), averaging pays. Dashed: the result."
            + (" Hollow marks were measured on fewer examples, because a race had seen enough." if is_partial else "")
        ),
        picture=line_chart(
            "merge-curve",
            (capital(f"{metric} along the run"), _described(report, points)),
            Axes(
                x=report.axis,
                y=f"{metric} on held-out examples ({direction} is better)",
                show_x=lambda value: f"{value:,.0f}",
                show_y=tick_of(metric),
                x_ticks=places if not report.steps and len(points) <= 12 else None,
            ),
            [line for line in lines if line.known],
            levels,
        ),
        table=_table(report, shown, len(points)),
        data={"metric": metric, "points": [{key: _plain(value) for key, value in point.items()} for point in shown]},
    )


def _plain(value: Any) -> Any:
    return rounded(value) if isinstance(value, float) else value


def _extremes(report: Report, points: Points) -> list[int]:
    """The best checkpoint is never left out."""
    known = [(point["alone"], index) for index, point in enumerate(points) if point["alone"] is not None]
    return [max(known)[1] if report.higher_is_better else min(known)[1]] if known else []


def _line(label: str, key: str, points: Points, xs: Sequence[float], look: str, shape: str, examples: int) -> Line:
    return Line(
        label=label,
        points=[None if point[key] is None else (x, point[key]) for x, point in zip(xs, points, strict=True)],
        look=look,
        marks=shape if len(points) <= 60 else "",
        hollow=[(point[f"{key}_examples"] or 0) < examples for point in points],
    )


def _described(report: Report, points: Points) -> str:
    known = [point for point in points if point["alone"] is not None]
    ends = [known[0], known[-1]] if known else []
    return "; ".join(
        f"{report.label_of(point['checkpoint'])} {value_of(report.metric, point['alone'])} alone, "
        f"{value_of(report.metric, point['average'])} as the average of {point['averaged']}"
        for point in ends
    )


def _table(report: Report, points: Points, total: int) -> Table:
    chosen = spread(len(points), report.limits.rows)
    left_out = total - len(chosen)
    return Table(
        caption=f"{capital(report.metric)} of each checkpoint, and of {_AVERAGE[average_is(report)]}",
        heads=["checkpoint", "step", "alone", "examples", average_is(report), "of", "examples"],
        rows=[
            [
                report.label_of(point["checkpoint"]),
                NOTHING if point["step"] is None else f"{point['step']:,}",
                value_of(report.metric, point["alone"]),
                f"{point['alone_examples'] or 0:,}",
                value_of(report.metric, point["average"]),
                f"{point['averaged']:,}",
                f"{point['average_examples'] or 0:,}",
            ]
            for point in (points[index] for index in chosen)
        ],
        note=f"{left_out:,} checkpoints in between are in `report.json`." if left_out else "",
    )
