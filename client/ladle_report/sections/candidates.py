"""2. The candidates against the best checkpoint."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

from ladle_report.candidates import by_gain, candidates_figure
from ladle_report.gains import better, better_between
from ladle_report.limits import rounded
from ladle_report.model import Figure, Part, Remark, Section, Table
from ladle_report.numbers import NOTHING, plural, seconds, value_of
from ladle_report.reading import Report
from ladle_report.sureness import counts_choice
from ladle_report.verdict import interval

CONFIDENCE = 0.95


def candidates_section(report: Report) -> Section:
    """What was tried, and how sure it is."""
    parts: list[Part] = [_figure(report)]
    if caveat := choice_caveat(report):
        parts.append(Remark(text=caveat))
    parts += [*_sets(report), _metrics(report)]
    return Section(name="candidates", title="Candidates", parts=parts)


def _figure(report: Report) -> Figure:
    rows, metric, winner = by_gain(report.candidates), report.metric, str(report.json["winner"])
    return Figure(
        name="candidates",
        title="Every candidate against the best checkpoint",
        reading=(
            "Each dot is a candidate's gain over the best single checkpoint on held-out examples, and its bar the 95 % "
            "interval. Right of the dashed line is better; a bar that crosses the line may be chance. The diamond is "
            "the best checkpoint itself, and what won is blue."
        ),
        picture=candidates_figure(rows, metric=metric, winner=winner),
        table=Table(
            caption=f"Candidates by their gain in {metric}",
            heads=["candidate", metric, *([] if metric == "loss" else ["loss"]), "gain over best", "95 % interval"],
            rows=[_row(report, row) for row in rows],
            marked=next((index for index, row in enumerate(rows) if row["method"] == winner), None),
        ),
        data={"metric": metric, "candidates": [_json(row, metric) for row in rows]},
    )


def _row(report: Report, row: Any) -> list[str]:
    metric = report.metric
    told = [NOTHING, NOTHING]
    if row["method"] != "best":
        told = [better(metric, row["gain"]), better_between(metric, row["gain_low"], row["gain_high"])]
    loss = [] if metric == "loss" else [value_of("loss", row["select"].get("loss"))]
    return [row["label"], value_of(metric, row["select"].get(metric)), *loss, *told]


def _json(row: Any, metric: str) -> dict[str, Any]:
    numbers = {key: rounded(row[key]) for key in ("gain", "gain_low", "gain_high")}
    return {"method": row["method"], "label": row["label"], "value": rounded(row["select"].get(metric)), **numbers}


def choice_caveat(report: Report) -> str:
    """The winner is the highest of several, so part of its gain is luck: what the intervals count, or, of an older
    report, the winner's with Bonferroni's correction."""
    tried = len(report.candidates) - 1
    if counts_choice(report):
        return _what_is_counted(report)
    if tried < 2 or report.json["winner"] == "best":
        return ""
    gain = report.json["gain"]
    factor = _quantile(CONFIDENCE, tried) / _quantile(CONFIDENCE, 1)
    wider = {
        "low": gain["value"] - factor * (gain["value"] - gain["low"]),
        "high": gain["value"] + factor * (gain["high"] - gain["value"]),
    }
    if wider["low"] > 0:
        verdict = "still better than the best checkpoint"
    else:
        verdict = "no longer surely better" if gain["low"] > 0 else "not surely better either"
    return (
        f"The winner is the best of {tried} averages on the same examples, so its gain is a little too good on "
        f"average. Counting the choice (Bonferroni), the 95 % interval is {interval(report.json['metric'], wider)}: "
        f"{verdict}. For a figure to publish, evaluate the result once on data that this job has not seen."
    )


def _what_is_counted(report: Report) -> str:
    choice, winner = report.part("choice"), report.winner
    tried, bars = plural(int(choice["averages"]), "average"), plural(int(choice["checkpoints"]), "checkpoint")
    told = (
        f"All these intervals hold at once with 95 %. They count that {tried} and {bars} were compared on the same "
        f"examples, and the best picked."
    )
    if winner.get("single_low") is not None:
        alone = {"low": winner["single_low"], "high": winner["single_high"]}
        told += f" That of the winner's comparison alone would be {interval(report.json['metric'], alone)}."
    return f"{told} For a figure to publish, evaluate the result once on data that this job has not seen."


def _quantile(confidence: float, tried: int) -> float:
    return NormalDist().inv_cdf(1 - (1 - confidence) / (2 * tried))


def _sets(report: Report) -> list[Part]:
    """One figure for the winner on each validation set that has a name, and all candidates in its table."""
    sets = report.part("validation_sets")
    if not sets or (report.json["winner"] == "best" and len(report.candidates) < 2):
        return []
    metric = report.metric
    chosen = (
        report.winner if report.json["winner"] != "best" else max(report.candidates[1:], key=lambda row: row["gain"])
    )
    rows = [
        {**on_set, "method": name, "label": f"{name} ({sets[name]['select']:,})"}
        for name, on_set in chosen.get("sets", {}).items()
        if name in sets
    ]
    if not rows:
        return []
    return [
        Figure(
            name="sets",
            title=f"{chosen['label']} on each validation set",
            reading=(
                "The same as above for each set alone, with its number of held-out examples. What judges is the "
                f"weighted mean: {_weights(report)}."
            ),
            picture=candidates_figure(rows, metric=metric, name="sets"),
            table=Table(
                caption="Candidates on each validation set",
                heads=["candidate", "set", metric, "gain over best", "95 % interval"],
                rows=[
                    [row["label"], name, *_on_set(metric, row["method"], on_set)]
                    for row in report.candidates
                    for name, on_set in row.get("sets", {}).items()
                ][: report.limits.rows],
            ),
            data={"metric": metric, "candidate": chosen["method"], "sets": [_json(row, metric) for row in rows]},
        )
    ]


def _weights(report: Report) -> str:
    judging = [(name, each["weight"]) for name, each in report.part("validation_sets").items() if each["weight"]]
    return ", ".join(f"`{name}` counts {100 * weight:.3g} %" for name, weight in judging)


def _on_set(metric: str, method: str, on_set: Any) -> list[str]:
    value = value_of(metric, on_set["select"].get(metric))
    if method == "best":
        return [value, NOTHING, NOTHING]
    return [value, better(metric, on_set["gain"]), better_between(metric, on_set["gain_low"], on_set["gain_high"])]


def _metrics(report: Report) -> Table:
    """All metrics, for those who look for another one."""
    names = list(dict.fromkeys(name for row in report.candidates for name in row["select"]))
    first = [report.metric, *(name for name in names if name != report.metric)]
    on_fit = "loss" if all("loss" in row["fit"] for row in report.candidates) else None
    heads = ["candidate", *first, *([f"{on_fit} on the fit split"] if on_fit else []), "statistics", "seconds"]
    rows = [
        [
            row["label"],
            *(value_of(name, row["select"].get(name)) for name in first),
            *([value_of(on_fit, row["fit"].get(on_fit))] if on_fit else []),
            str(row.get("statistics", NOTHING)),
            NOTHING if row.get("seconds") is None else seconds(row["seconds"]),
        ]
        for row in report.candidates
    ]
    return Table(caption="Every metric of every candidate, on held-out examples", heads=heads, rows=rows)
