"""What the rows share: Ladle's methods on a folder of checkpoints, each judged on a test set that nothing has seen."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine import average, candidate_state, discover
from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.model.binding import bind
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.examples import Examples

Scores = dict[str, float]
Row = dict[str, Any]


class TestSet:
    """The untouched examples, and what a state dict named as in the checkpoints scores on them."""

    def __init__(
        self,
        checkpoints: Path | CheckpointSet,
        test: Path,
        task: str | type[Task] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._found = discover(checkpoints) if isinstance(checkpoints, Path) else checkpoints
        self._task = choose_task(self._found, task, options or {})
        data = self._task.open_data(test, self._found)
        self._examples = Examples(
            task=self._task, data=data, indices=torch.arange(len(data)), device=torch.device("cpu")
        )

    def __len__(self) -> int:
        return len(self._examples)

    def scores(self, state: Mapping[str, Tensor]) -> Scores:
        """Every metric of the task, also those of generated text."""
        model = self._task.build_model(self._found)
        binding = bind(model, self._found, self._task.stored_names(model, self._found))
        with torch.no_grad():
            for name, target in {**binding.parameters, **binding.statistics, **binding.counters}.items():
                target.copy_(state[name])
        found = evaluate(model, self._examples, SingleProcess())
        if any(metric.generated for metric in self._task.metrics):
            found = found.beside(evaluate(model, self._examples, SingleProcess(), generated=True))
        return found.scores()


def compare(
    checkpoints: Path,
    val: Path,
    test: TestSet,
    methods: Sequence[str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    state_of: Callable[[Path, str], Mapping[str, Tensor]] | None = None,
    **arguments: Any,
) -> list[Row]:
    """One job that tries `methods`, then every candidate on the test set; the winner's row says so.

    `state_of` gives a candidate's state dict, from `coefficients.json` and its name, where it is not the file's own.
    """
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "out"
        outcome = average(
            checkpoints,
            val,
            output=output,
            method_options={"methods": list(methods), "options": dict(options or {})},
            **arguments,
        )
        report = json.loads((output / "report.json").read_text())
        rows = []
        for score, candidate in zip(outcome.candidates, report["candidates"], strict=True):
            coefficients = output / "coefficients.json"
            state = (
                candidate_state(coefficients, checkpoints, score.method)
                if state_of is None
                else state_of(coefficients, score.method)
            )
            rows.append(
                {
                    "method": score.method,
                    "label": score.label,
                    "winner": score.method == outcome.method,
                    "test": rounded(test.scores(state)),
                    "select": rounded(score.select),
                    "seconds": round(candidate["seconds"], 1),
                }
            )
    return rows


def quick_options(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A few steps, which show only that all works."""
    return {method: {"steps": 4} for method in methods if method.startswith("twa")}


def rounded(scores: Mapping[str, float]) -> Scores:
    return {name: round(value, 6) for name, value in scores.items()}


class Clock:
    """Seconds of this process's CPU time, which other programs do not lengthen."""

    def __init__(self) -> None:
        self._started = time.process_time()

    def seconds(self) -> int:
        return round(time.process_time() - self._started)
