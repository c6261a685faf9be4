"""Writes the tables of evidence.md from the committed figures: `python docs/evidence_tables.py`.

A table is between `<!-- from the figures: NAME -->` and `<!-- end -->`. A test fails while the page is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "evidence.md"
SECTION = re.compile(r"(<!-- from the figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Run = Mapping[str, Any]
NAMES = {
    "adam-end": "Adam, the whole schedule",
    "adam-half": "Adam, half of the schedule",
    "sgd-whole": "SGD, the whole schedule",
    "sgd-short": "SGD, a schedule of half the length",
    "best": "best checkpoint",
    "second-best": "second best checkpoint",
    "last": "last checkpoint",
    "uniform": "uniform (SWA)",
    "greedy-soup": "greedy soup",
    "twa": "TWA",
    "twa-layerwise": "TWA by layer",
    "last-k": "mean of the last k",
    "ema": "EMA",
    "base": "base model",
    "uniform-rank-8": "uniform, cut to the adapters' rank",
    "uniform-factors": "uniform, factor by factor",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a table of the papers reports."""

    name: str
    title: str
    higher_is_better: bool
    digits: int
    scale: float = 1.0
    part: str = "test"
    """Of a row's entry; `cost` is what its model took to make."""

    def of(self, row: Mapping[str, Any]) -> float:
        return self.scale * float(row[self.part][self.name])

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def better(self, one: float, other: float) -> bool:
        return one > other if self.higher_is_better else one < other


BLEU = Measured(name="bleu", title="BLEU", higher_is_better=True, digits=2)
PERPLEXITY = Measured(name="perplexity", title="perplexity", higher_is_better=False, digits=3)
ACCURACY = Measured(name="accuracy", title="accuracy, %", higher_is_better=True, digits=2, scale=100)
LOSS = Measured(name="loss", title="loss", higher_is_better=False, digits=4)
SECONDS = Measured(name="cpu_s", title="CPU seconds", higher_is_better=False, digits=0, part="cost")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file of figures, and what the papers' table of that kind claims."""

    file: str
    command: str
    measured: tuple[Measured, ...]
    claims: tuple[tuple[str, str], ...]
    """Pairs of rows: the first is better, in the papers."""

    def text(self) -> str:
        runs = runs_of(self.file)
        if not runs:
            return f"**Missing**: these figures have not been made yet. `{self.command}` makes them.\n"
        parts = []
        for models in dict.fromkeys(run.get("models") for run in runs):
            chosen = [run for run in runs if run.get("models") == models]
            heading = f"**N = {models}**\n\n" if models else ""
            parts.append(heading + "\n".join(_scores(chosen, each) for each in self.measured))
        return "\n".join([*parts, self._claims(runs)])

    def _claims(self, runs: Sequence[Run]) -> str:
        measured = self.measured[0]
        lines = [f"| the papers' order, by {measured.title} | holds in |", "|---|---|"]
        for better, worse in self.claims:
            pairs = [(_rows(run, measured).get(better), _rows(run, measured).get(worse)) for run in runs]
            known = [(one, other) for one, other in pairs if one is not None and other is not None]
            if known:
                held = sum(measured.better(one, other) for one, other in known)
                lines.append(f"| {_name(better)} beats {_name(worse)} | {held} of {len(known)} |")
        return "\n".join(lines) + "\n"


def runs_of(file: str) -> list[Run]:
    path = DOCS / "evidence" / f"{file}.json"
    runs: list[Run] = json.loads(path.read_text())["runs"] if path.exists() else []
    return runs


def _rows(run: Run, measured: Measured) -> dict[str, float]:
    return {_key(row): measured.of(row) for row in run["rows"]}


def _key(row: Mapping[str, Any]) -> str:
    """TWA on the training set and on the validation set are two rows."""
    method = str(row["method"])
    return f"{method}:{row['trained_on']}" if method.startswith("twa") and "trained_on" in row else method


def _name(key: str) -> str:
    method, _, trained_on = key.partition(":")
    return NAMES[method] + (f", coefficients on the {trained_on}" if trained_on else "")


def _scores(runs: Sequence[Run], measured: Measured) -> str:
    by_run = [_rows(run, measured) for run in runs]
    heads = [f"seed {run['seed']}" for run in runs]
    lines = [f"| {measured.title} | {' | '.join(heads)} | mean |", "|---" * (len(runs) + 2) + "|"]
    for key in by_run[0]:
        values = [rows[key] for rows in by_run if key in rows]
        cells = [measured.text(rows[key]) if key in rows else "" for rows in by_run]
        lines.append(f"| {_name(key)} | {' | '.join(cells)} | {measured.text(mean(values))} |")
    returned = [next((row["method"] for row in run["rows"] if row.get("winner")), None) for run in runs]
    if any(returned) and measured.part == "test":
        lines.append(f"| Ladle returns | {' | '.join(f'`{method}`' for method in returned)} | |")
    return "\n".join(lines) + "\n"


SOUPS = (("uniform", "best"), ("greedy-soup", "best"), ("twa", "greedy-soup"), ("twa-layerwise", "twa"))
TABLES = {
    "translation": Table(
        file="translation",
        command="python examples/papers/translation.py",
        measured=(BLEU, LOSS),
        claims=(
            ("adam-end", "adam-half"),
            ("adam-half", "uniform"),
            ("twa:training part", "adam-half"),
            ("twa:training part", "adam-end"),
        ),
    ),
    "head-stage": Table(
        file="head-stage",
        command="python examples/papers/head_stage.py",
        measured=(ACCURACY, LOSS, SECONDS),
        claims=(
            ("sgd-whole", "uniform"),
            ("twa:training part", "uniform"),
            ("twa:training part", "sgd-whole"),
        ),
    ),
    "language": Table(
        file="language",
        command="python examples/papers/language.py",
        measured=(PERPLEXITY,),
        claims=(("best", "uniform"), *SOUPS[1:]),
    ),
    "adapters": Table(
        file="adapters",
        command="python examples/papers/adapters.py",
        measured=(PERPLEXITY,),
        claims=(("uniform", "uniform-factors"), *SOUPS),
    ),
    **{
        name: Table(
            file=f"finetunes-{name}",
            command=f"python examples/papers/finetunes.py {name}",
            measured=(ACCURACY, LOSS),
            claims=SOUPS,
        )
        for name in ("cells", "sections")
    },
}
MADE: dict[str, Callable[[], str]] = {name: table.text for name, table in TABLES.items()}


def filled(page: str) -> str:
    """The page with its tables as the figures say."""
    return SECTION.sub(lambda found: found[1] + MADE[found[2]]() + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
