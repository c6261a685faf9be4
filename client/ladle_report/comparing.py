"""Two results side by side: what came out, what it is made of, and what was different about the jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_report.drawing.dumbbells import Pair, dumbbells
from ladle_report.drawing.heatmap import Cells, diverging, heatmap
from ladle_report.gains import better
from ladle_report.limits import blocks, ends, means, rounded, shorten, spread
from ladle_report.model import Figure, Part, Remark, Section, Table
from ladle_report.numbers import NOTHING, capital, places_of, seconds, tick_of, value_of
from ladle_report.reading import Report, read
from ladle_report.sections.coefficients import matrix_json, of_checkpoints
from ladle_report.verdict import interval

MOST_CHARS = 100
"""Of a setting in a table."""
ALIKE = "Both were judged by the same metric on the same held-out examples, so their values can be compared."
NOT_ALIKE = (
    "As far as the reports tell, they were not judged on the same examples in the same way: compare the gains rather "
    "than the values."
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of two results, which have a name each."""

    answer: str
    sections: Sequence[Section]
    headline: Sequence[tuple[str, str, str]]
    title: str


@dataclass(frozen=True, kw_only=True)
class Both:
    """The two, and what they are called."""

    reports: tuple[Report, Report]
    names: tuple[str, str]

    @property
    def metric(self) -> str | None:
        """None if they were judged by two."""
        first, second = self.reports
        return first.metric if first.metric == second.metric else None

    def of(self, get: Callable[[Report], str]) -> list[str]:
        """Of both."""
        return [get(report) for report in self.reports]

    @property
    def are_judged_alike(self) -> bool:
        """Whether their values were measured on the same examples."""

        def judge(report: Report) -> Any:
            data = {name: entry for name, entry in report.part("inputs").get("data", {}).items() if name != "train_set"}
            settings = report.part("settings")
            return [report.metric, report.json["splits"].get("seed"), report.json["splits"]["select"], data] + [
                settings.get(name) for name in ("select_fraction", "judge_by", "task", "task_options")
            ]

        first, second = map(judge, self.reports)
        return bool(first == second and any(first[3].values()))


def comparison(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> Comparison:
    """Raises `NotAReport`."""
    both = Both(reports=(read(first), read(second)), names=names)
    return Comparison(
        answer=_answer(both),
        sections=[_results(both), _candidates(both), _coefficients(both), _differences(both)],
        headline=[
            (
                name,
                value_of(report.metric, _value(report.winner, report.metric)),
                f"{report.metric}, {report.winner['label']}",
            )
            for name, report in zip(both.names, both.reports, strict=True)
        ],
        title=f"{names[0]} and {names[1]}",
    )


def _value(row: Mapping[str, Any], metric: str) -> float | None:
    value = row["select"].get(metric)
    return None if value is None else float(value)


def _answer(both: Both) -> str:
    """In one sentence which is better, if that can be said."""
    metric = both.metric
    if metric is None:
        pairs = zip(both.reports, both.names, strict=True)
        return "Two metrics judged: " + ", ".join(f"{report.metric} in {name}" for report, name in pairs)
    values = [_value(report.winner, metric) for report in both.reports]
    told = (
        f"{metric} {value_of(metric, values[0])} in {both.names[0]}, {value_of(metric, values[1])} in {both.names[1]}"
    )
    if values[0] is None or values[1] is None:
        return capital(told)
    gain = (values[1] - values[0]) * (1 if both.reports[1].higher_is_better else -1)
    which = f"{both.names[1]} is {better(metric, gain)}" if gain else "both are equal"
    return f"{capital(told)}: {which}"


def _results(both: Both) -> Section:
    rows = [
        ["metric", *both.of(lambda report: report.metric)],
        ["result", *both.of(lambda report: value_of(report.metric, _value(report.winner, report.metric)))],
        ["method", *both.of(lambda report: str(report.winner["label"]))],
        ["best checkpoint", *both.of(lambda report: value_of(report.metric, _value(report.best, report.metric)))],
        ["gain over it (95 %)", *both.of(_gain)],
        ["checkpoints", *both.of(lambda report: f"{len(report.names):,}")],
        ["held-out examples", *both.of(lambda report: f"{report.json['splits']['select']:,}")],
        ["parameters", *both.of(lambda report: f"{report.json['num_parameters']:,}")],
        ["time", *both.of(_took)],
    ]
    alike = ALIKE if both.are_judged_alike else NOT_ALIKE
    parts: list[Part] = [
        Remark(text=alike),
        Table(caption="The results", heads=["", *both.names], rows=rows, is_open=True),
    ]
    return Section(name="results", title="The results", parts=parts)


def _gain(report: Report) -> str:
    if report.json["winner"] == "best":
        return NOTHING
    metric, gain = report.json["metric"], report.json["gain"]
    return f"{better(metric['name'], gain['value'])} ({interval(metric, gain)})"


def _took(report: Report) -> str:
    total = sum(each.get("seconds") or 0.0 for each in report.json.get("stages") or ())
    return seconds(total) if total else NOTHING


def _candidates(both: Both) -> Section:
    rows = [{row["method"]: row for row in report.candidates} for report in both.reports]
    methods = list(dict.fromkeys(method for each in rows for method in each))
    table = Table(
        caption="Candidates of both",
        heads=["method", *(f"{what}, {name}" for name in both.names for what in ("value", "gain"))],
        rows=[
            [method, *(word for pair in zip(rows, both.reports, strict=True) for word in _told(method, *pair))]
            for method in methods
        ],
    )
    if both.metric is None:
        return Section(name="candidates", title="Candidates", parts=[table])
    pairs = [
        Pair(label=method, first=_of(rows[0], method, both), second=_of(rows[1], method, both)) for method in methods
    ]
    known = [pair for pair in pairs if pair.first is not None or pair.second is not None]
    title = capital(f"{both.metric} of each candidate")
    direction = "right" if both.reports[0].higher_is_better else "left"
    figure = Figure(
        name="candidates",
        title=title,
        reading=(
            f"One row per method: the circle is {both.names[0]}, the square {both.names[1]}; {direction} is better. A "
            f"mark alone is a method that only one of them tried."
        ),
        picture=dumbbells(
            "candidates",
            (title, "; ".join(f"{pair.label}: {_pair_told(pair, both.metric)}" for pair in known)),
            known,
            both.names,
            (both.metric, tick_of(both.metric)),
        ),
        table=table,
        data={
            "candidates": [
                {"method": pair.label, "first": rounded(pair.first), "second": rounded(pair.second)} for pair in known
            ]
        },
    )
    return Section(name="candidates", title="Candidates", parts=[figure])


def _of(rows: Mapping[str, Any], method: str, both: Both) -> float | None:
    return _value(rows[method], both.metric or "") if method in rows else None


def _pair_told(pair: Pair, metric: str) -> str:
    return " and ".join(value_of(metric, value) for value in (pair.first, pair.second))


def _told(method: str, rows: Mapping[str, Any], report: Report) -> list[str]:
    if method not in rows:
        return [NOTHING, NOTHING]
    row = rows[method]
    gain = NOTHING if method == "best" else better(report.metric, row["gain"])
    return [value_of(report.metric, _value(row, report.metric)), gain]


def _coefficients(both: Both) -> Section:
    """Of the winners, over the checkpoints of both."""
    weights = [dict(zip(report.labels, of_checkpoints(report.winner), strict=True)) for report in both.reports]
    names = list(dict.fromkeys(name for each in weights for name in each))
    ranges = blocks(len(names), both.reports[0].limits.side)
    cells = Cells(
        values=[means([each.get(name, 0.0) for name in names], ranges) for each in weights],
        rows=list(both.names),
        columns=ends([shorten(name, 12) for name in names], ranges),
        columns_are="checkpoint",
    )
    show = places_of(cells.known)
    kept = spread(len(names), both.reports[0].limits.rows)
    title = "Coefficients of the two results"
    figure = Figure(
        name="coefficients",
        title=title,
        reading="One row per result, one column per checkpoint: blue adds a checkpoint, orange takes it away.",
        picture=heatmap(
            "coefficients", (title, f"{len(names)} checkpoints"), cells, diverging(cells.known), show, "coefficient"
        ),
        table=Table(
            caption=title,
            heads=["checkpoint", *both.names],
            rows=[[names[index], *(_weight(each.get(names[index])) for each in weights)] for index in kept],
            note="" if len(kept) == len(names) else "Those in between are in the two `coefficients.json`.",
        ),
        data=matrix_json(cells),
    )
    return Section(name="coefficients", title="Coefficients", parts=[figure])


def _weight(weight: float | None) -> str:
    return NOTHING if weight is None else f"{weight:.4f}"


def _differences(both: Both) -> Section:
    parts: list[Part] = []
    for caption, get in (
        ("Settings that differ", _settings),
        ("Inputs that differ", _inputs),
        ("Versions that differ", _versions),
    ):
        rows = list(_differing(*(get(report) for report in both.reports)))
        most = both.reports[0].limits.rows
        note = f"{len(rows) - most:,} more differ." if len(rows) > most else ""
        if rows:
            parts.append(Table(caption=caption, heads=["", *both.names], rows=rows[:most], note=note, is_open=True))
        else:
            parts.append(f"{caption}: none.")
    return Section(name="differences", title="What was different", parts=parts)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[list[str]]:
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            yield [shorten(name, MOST_CHARS), _plain(first.get(name)), _plain(second.get(name))]


def _plain(value: Any) -> str:
    if value in (None, {}, []):
        return NOTHING
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), MOST_CHARS)


def _settings(report: Report) -> Mapping[str, Any]:
    return report.part("settings")


def _versions(report: Report) -> Mapping[str, Any]:
    return report.part("versions")


def _inputs(report: Report) -> dict[str, Any]:
    """What was read -> the beginning of its digest."""
    found: dict[str, Any] = {}
    for name, entry in report.part("inputs").get("data", {}).items():
        found[name] = (entry.get("sha256") or entry.get("sha256_of_names_and_sizes") or "")[:12]
    for name, digest in report.part("inputs").get("side_files", {}).items():
        found[name] = digest[:12]
    for checkpoint in report.json["checkpoints"]:
        for name, digest in (checkpoint.get("files") or {}).items():
            found[name if name == checkpoint["name"] else f"{checkpoint['name']}/{name}"] = digest[:12]
    return found
