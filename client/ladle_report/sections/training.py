"""6. Training the coefficients: the loss and the coefficients by step, the prior, and where it was best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_report.drawing.lines import Axes, Level, Line, line_chart
from ladle_report.limits import rounded, spread
from ladle_report.model import Facts, Figure, Part, Section, Table
from ladle_report.numbers import digits, places_of
from ladle_report.reading import Report

SMOOTHED = 0.1
"""Of the steps: the loss of one batch is noisy."""
FOLLOWED = 6
"""Checkpoints whose coefficients have a line with a name."""
MOST_OTHERS = 24
LOOKS = ("c1", "c2", "c3", "c4", "c5", "c7")
ENDED = {
    "steps": "All steps were taken.",
    "converged": "It ended because nothing improved any more.",
    "passes": "All passes over the examples were used up.",
    "budget": "The budget of evaluations was used up; a step is a generation.",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The training of one candidate."""

    method: str
    steps: Sequence[float]
    loss: Sequence[float]
    coefficients: Sequence[Sequence[float]]
    """Per step one number per checkpoint; empty in older reports."""
    facts: Mapping[str, Any]


def training_section(report: Report) -> Section | None:
    """None where nothing was trained."""
    runs = _runs(report)
    if not runs:
        return None
    parts: list[Part] = [
        Facts(rows=[(run.method, _begun(report, run) + _ended(run)) for run in runs]),
        _losses(report, runs),
    ]
    followed = [run for run in runs if run.coefficients]
    chosen = next((run for run in followed if run.method == report.json["winner"]), followed[-1] if followed else None)
    if chosen is not None:
        parts.append(_paths(report, chosen))
    return Section(name="training", title="Training the coefficients", parts=parts)


def _runs(report: Report) -> list[Run]:
    """From `training`, else from the curves that every report has."""
    courses = report.part("training")
    found = []
    for row in report.candidates:
        course = courses.get(row["method"])
        if course and course.get("steps"):
            found.append(
                Run(
                    method=row["method"],
                    steps=course["steps"],
                    loss=course["loss"],
                    coefficients=course.get("coefficients", ()),
                    facts=course,
                )
            )
        elif curve := row.get("curve"):
            found.append(Run(method=row["method"], steps=range(len(curve)), loss=curve, coefficients=(), facts={}))
    return found


def _begun(report: Report, run: Run) -> str:
    """Where a start was picked: by what, and what came of it."""
    picked = report.part("details").get(run.method) or {}
    losses = picked.get("fit_loss")
    if not losses:
        return ""
    told = ", ".join(f"{name} {digits(loss)}" for name, loss in losses.items())
    begun = f"It started from {picked['start']}, picked by the losses on the fit split ({told}). "
    return begun + "Training made that worse, so it is the start itself. " * bool(picked.get("fell_back"))


def _ended(run: Run) -> str:
    facts = run.facts
    if not facts:
        return f"{len(run.loss)} steps, from a loss of {digits(run.loss[0])} to {digits(run.loss[-1])}."
    how = str(facts.get("ended", ""))
    told = f"{facts.get('ended_at', len(run.loss))} steps. {ENDED.get(how, how)}"
    if facts.get("best_at") is not None:
        told += f" The fit loss was lowest at step {facts['best_at']}: there it could have stopped."
    if facts.get("averaged_from") is not None:
        told += f" The coefficients are their mean from step {facts['averaged_from']} on."
    return f"{told} {_prior(facts.get('prior') or {})}".strip()


def _prior(prior: Mapping[str, Any]) -> str:
    match prior.get("kind"):
        case "none":
            return "No prior held the coefficients back."
        case "given" | "learned" as kind:
            told = f"A {kind} prior kept them within about {prior['scale']:.2g} of the directions' lengths of the start"
            return f"{told}." if prior.get("slope") is None else f"{told} (slope {prior['slope']:.2g})."
        case _:
            return "; ".join(f"{name}: {value}" for name, value in prior.items())


def _losses(report: Report, runs: Sequence[Run]) -> Figure:
    lines: list[Line] = []
    levels: list[Level] = []
    for number, run in enumerate(runs):
        look = LOOKS[number % len(LOOKS)]
        kept = spread(len(run.steps), report.limits.points)
        points = [(float(run.steps[index]), run.loss[index]) for index in kept]
        lines.append(Line(label="", points=points, look=f"{look} faint"))
        smooth = smoothed([point[1] for point in points])
        lines.append(
            Line(label=run.method, points=[(x, y) for (x, _), y in zip(points, smooth, strict=True)], look=look)
        )
        if run.facts.get("best_at") is not None and run.method == report.json["winner"]:
            levels.append(Level(value=float(run.facts["best_at"]), label="lowest loss", look=look, is_upright=True))
    title = "Loss on the fit split while coefficients are trained"
    longest = max(runs, key=lambda run: len(run.steps))
    kept = spread(len(longest.steps), report.limits.rows)
    by_step = [dict(zip(run.steps, run.loss, strict=True)) for run in runs]
    return Figure(
        name="fit-loss",
        title=title,
        reading=(
            "Thin lines are the loss of each batch, thick ones their running mean. The loss falls fast and then stays: "
            "what comes after that only fits the fit split closer. Candidates are not chosen by this loss, but on "
            "held-out examples."
        ),
        picture=line_chart(
            "fit-loss",
            (title, "; ".join(f"{run.method} from {digits(run.loss[0])} to {digits(run.loss[-1])}" for run in runs)),
            Axes(x="step", y="loss", show_x=lambda value: f"{value:,.0f}", show_y=lambda value: f"{value:.3g}"),
            lines,
            levels,
        ),
        table=Table(
            caption=title,
            heads=["step", *(run.method for run in runs)],
            rows=[
                [
                    f"{longest.steps[index]:,}",
                    *("" if (loss := known.get(longest.steps[index])) is None else digits(loss) for known in by_step),
                ]
                for index in kept
            ],
            note="" if len(kept) == len(longest.steps) else "Steps in between are in `report.json`.",
        ),
        data={
            run.method: {
                "steps": [run.steps[index] for index in spread(len(run.steps), report.limits.points)],
                "loss": [rounded(run.loss[index]) for index in spread(len(run.steps), report.limits.points)],
            }
            for run in runs
        },
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value as the mean of itself and some before it."""
    width = max(1, round(SMOOTHED * len(values)))
    found = []
    for index in range(len(values)):
        window = values[max(0, index - width + 1) : index + 1]
        found.append(sum(window) / len(window))
    return found


def _paths(report: Report, run: Run) -> Figure:
    """The largest ones by name, the others in grey."""
    kept = spread(len(run.steps), min(report.limits.points, 100))
    last = run.coefficients[-1]
    show = places_of(last)
    by_size = sorted(range(len(last)), key=lambda index: -abs(last[index]))
    named, others = by_size[:FOLLOWED], by_size[FOLLOWED : FOLLOWED + MOST_OTHERS]

    def points(index: int) -> list[tuple[float, float] | None]:
        return [(float(run.steps[at]), run.coefficients[at][index]) for at in kept]

    lines = [Line(label="", points=points(index), look="muted faint") for index in others]
    lines += [
        Line(label=report.labels[index], points=points(index), look=LOOKS[number]) for number, index in enumerate(named)
    ]
    levels = [Level(value=0.0, label="")]
    averaged_from = run.facts.get("averaged_from")
    if averaged_from is not None:
        levels.append(Level(value=float(averaged_from), label="averaged from here", is_upright=True))
    title = f"Coefficients of {run.method} while they are trained"
    rows = spread(len(kept), min(report.limits.rows, 60))
    return Figure(
        name="coefficient-paths",
        title=title,
        reading=(
            "One line per checkpoint, as the mean over its layers; those that end largest have names, the others are "
            "grey. Lines that are level have found their place; lines that still move would go on with more steps."
        ),
        picture=line_chart(
            "coefficient-paths",
            (title, "; ".join(f"{report.labels[index]} ends at {show(last[index])}" for index in named)),
            Axes(x="step", y="coefficient", show_x=lambda value: f"{value:,.0f}", show_y=show),
            lines,
            levels,
        ),
        table=Table(
            caption=title,
            heads=["step", *(report.labels[index] for index in named)],
            rows=[
                [f"{run.steps[kept[row]]:,}", *(f"{run.coefficients[kept[row]][index]:.4f}" for index in named)]
                for row in rows
            ],
            note=f"{len(last) - len(named):,} more checkpoints are in `report.json`." if len(last) > len(named) else "",
        ),
        data={
            "steps": [run.steps[at] for at in kept],
            "coefficients": {
                report.labels[index]: [rounded(run.coefficients[at][index], 4) for at in kept] for index in named
            },
        },
    )
