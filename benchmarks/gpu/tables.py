"""The tables of `rows.py` and `step_overhead.py`, of reduced sizes: the most telling rows first, until time is up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import rows as rows_bench
import step_overhead as steps_bench
import torch
from measuring import table_lines
from step_tables import HEADER, cells_of, verdicts, with_run
from transformers import ResNetConfig, ResNetForImageClassification

from gpu.parts import Found, Setting, Skipped
from ladle_engine.directions.checkpoint_directions import OFFLOADED, STREAMED
from ladle_engine.directions.formats import ROW_PRECISIONS

NO_TIME = "no time was left"
FIRST_ROW_S = 30.0
"""What a row is expected to take before one has been measured."""


def rows(setting: Setting) -> Found:
    """Shares of a plain read."""
    counts, size, repeats = (rows_bench.COUNTS, 1536 << 20, 5) if setting.on_gpu else ((10,), 4 << 20, 1)
    if setting.quick:
        counts, repeats = counts[:1], min(repeats, 3)
    precisions = ("float32", "int4") if setting.few else ROW_PRECISIONS
    plain = torch.ones(size // 4, device=setting.device)
    found = Found(figures={"repeats": repeats, "runs": [], "left_out": []})
    expected_s = 0.0
    for count in counts:
        for precision in precisions:
            if not setting.budget.allows(expected_s):
                found.figures["left_out"].append(f"{precision}, N = {count}: {NO_TIME}")
                continue
            started = time.monotonic()
            found.figures["runs"].append(rows_bench.measure(precision, count, size, repeats, plain))
            expected_s = time.monotonic() - started
            found.lines = table_lines(rows_bench.HEADER, map(rows_bench.cells_of, found.figures["runs"]))
            setting.keep(found)
    measured = {run["tier"] for run in found.figures["runs"]}
    if setting.on_gpu and measured == set(ROW_PRECISIONS):
        found.figures["verdicts"] = rows_bench.verdicts(found.figures["runs"], setting.device)
        found.lines += ["", *(f"- {line}" for line in found.figures["verdicts"])]
    return _ended(found, found.figures["runs"])


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A row of the table."""

    model: str
    case: steps_bench.Case
    count: int
    precision: str


@dataclass(kw_only=True)
class Expected:
    """How long a row will take, by the one before it: half of that grows with the number of checkpoints, which are read
    and packed, and half stays."""

    seconds: float = FIRST_ROW_S
    count: int | None = None

    def for_count(self, count: int) -> float:
        return self.seconds * (1 + count / (self.count or count)) / 2


def steps(setting: Setting) -> Found:
    """What a step costs over plain SGD."""
    found = Found(figures={"results": {}, "left_out": []})
    bench: steps_bench.Bench | None = None
    expected = Expected()
    for row in _wanted(setting):
        if not setting.budget.allows(expected.for_count(row.count)):
            found.figures["left_out"].append(f"{row.model}, K = {row.count}, {row.precision}: {NO_TIME}")
            continue
        started = time.monotonic()
        if bench is None or row.case is not bench.case:
            # The last model's memory is freed first.
            bench = None
            bench = _opened(setting, row, found)
        result = found.figures["results"][row.model]
        result["runs"] = with_run(result["runs"], steps_bench.run_of(result, bench, row.count, row.precision))
        found.lines = [line for each in found.figures["results"].values() for line in _lines(each)]
        setting.keep(found)
        expected = Expected(seconds=time.monotonic() - started, count=row.count)
    runs = [run for result in found.figures["results"].values() for run in result["runs"]]
    return _ended(found, runs)


def _opened(setting: Setting, row: Wanted, found: Found) -> steps_bench.Bench:
    steps_bench.release_free_memory(setting.device)
    torch.manual_seed(0)
    bench = steps_bench.Bench(row.case, setting.device, 1 if setting.small else 5)
    found.figures["results"][row.model] = {**steps_bench.result_of(row.model, bench, setting.quick), "runs": []}
    return bench


def _wanted(setting: Setting) -> list[Wanted]:
    """The most telling first."""
    if setting.small:
        config = ResNetConfig(num_labels=1000, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])  # type: ignore[call-arg]  # a field of its base class
        tiny = steps_bench.Case(build=ResNetForImageClassification, config=config, image_size=16, batch_size=4)
        return _of("resnet-tiny", tiny, (3, ("float32", "int4", STREAMED)))
    resnet, vit = (steps_bench.ON_GPU[name] for name in ("resnet-50", "vit-b-16"))
    if setting.quick:
        return _of("resnet-50", resnet, (10, ("float32", "int8")))
    first = (10, ROW_PRECISIONS), (100, ("int8", "float32")), (300, ("int8", "float32", "int4", "bfloat16"))
    return [
        *_of("resnet-50", resnet, *first, (10, (OFFLOADED, STREAMED))),
        *_of("vit-b-16", vit, (10, ROW_PRECISIONS)),
    ]


def _of(model: str, case: steps_bench.Case, *rows: tuple[int, Sequence[str]]) -> list[Wanted]:
    return [
        Wanted(model=model, case=case, count=count, precision=precision)
        for count, precisions in rows
        for precision in precisions
    ]


def _lines(result: dict[str, object]) -> list[str]:
    runs = result["runs"]
    assert isinstance(runs, list)
    title = f"{result['model']}, batches of {result['batch_size']}"
    return [f"### {title}", "", *verdicts(result), "", *table_lines(HEADER, map(cells_of, runs)), ""]


def _ended(found: Found, runs: Sequence[object]) -> Found:
    """Raises `Skipped` where there was no time for a single row."""
    left_out = found.figures["left_out"]
    if not runs:
        raise Skipped(NO_TIME)
    found.says = f"{len(runs)} rows measured"
    if left_out:
        found.says += f", {len(left_out)} left out"
        found.lines += ["", "Left out: " + "; ".join(left_out) + "."]
    return found
