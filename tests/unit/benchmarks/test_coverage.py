"""The simulation of coverage states what a job states: its matrices and the engine's objects give the same."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.simultaneous import Compared, Simultaneous, simultaneous
from ladle_engine.tasks.base import Metric
from tests.docs.snippets import REPOSITORY

METRICS = {
    "accuracy": Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0),
    "loss": Metric(name="loss", higher_is_better=False),
}


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """`benchmarks/coverage.py`, by its path: `coverage` is also the name of a well-known package."""
    folder = REPOSITORY / "benchmarks"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", folder / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def by_engine(here: Any, values: torch.Tensor, metric: Metric) -> Simultaneous:
    """The same from one evaluation per model. The simulation's losses are negative, for more to be better."""
    sign = 1.0 if metric.higher_is_better else -1.0
    models = [
        Evaluation(metrics=(metric,), values={metric.name: sign * values_n.double()}, strata=None)
        for values_n in values.T
    ]
    means = values.mean(dim=0)
    best = int(means[: here.K].argmax())
    picked = [here.K + each.start + int(means[here.K :][each].argmax()) for each in here.groups]
    return simultaneous(
        Compared(
            best=models[best],
            candidates=[models[i] for i in picked],
            averages=[models[i] for i in range(here.K, len(models)) if i not in picked],
            checkpoints=[models[i] for i in range(here.K) if i != best],
        ),
        metric,
        seed=0,
    )


@pytest.mark.parametrize("models", ["equal", "one ahead", "better"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_simulation_and_the_engine_state_the_same(coverage: ModuleType, metric: str, models: str) -> None:
    here = coverage.world(metric, models, 5, 400)
    values, good = coverage.drawn(here, coverage.one_error(here), torch.Generator().manual_seed(1))
    told = coverage.stated(here, values, good, seed=0)
    found = by_engine(here, values, METRICS[metric])
    assert told.gains.tolist() == pytest.approx([each.value for each in found.gains], abs=1e-6)
    assert told.single.tolist() == pytest.approx(found.errors, rel=1e-4)
    # 400 draws there and 2,000 here: a point in the tail is known to some percent.
    assert told.low == pytest.approx(found.low, rel=0.1)
    assert told.high == pytest.approx(found.high, rel=0.1)
    below = [each.value - each.low for each in found.gains]
    assert (told.low * told.wide).tolist() == pytest.approx(below, rel=0.1)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_holds_where_that_of_one_comparison_does_not(coverage: ModuleType, metric: str) -> None:
    """Averages are better, and the best of several is a little lucky: 60 repetitions of a small cell."""
    cell = coverage.cell(metric, "better", 50, 200, first=0, count=60)
    assert cell["single"] < 0.93
    assert cell["simultaneous"] >= 0.93
    assert cell["false"] <= 0.05
