"""The loss of mixtures on the same few examples, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.directions.checkpoint_directions import STREAMED
from ladle_engine.errors import CheckpointError, MethodError, TaskError
from ladle_engine.evaluation.bootstrap import resampled
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.methods.context import MethodContext
from ladle_engine.progress import Pace
from ladle_engine.tasks.base import Metric

OF_A_POINT = ("non-finite-loss", "non-finite-weights", "model-mismatch")
"""Codes of errors that say something of one point alone: far from all checkpoints a loss may overflow, or a value leave
its range. All ranks meet them together."""


@dataclass(frozen=True)
class Loss:
    """Of one model on the examples that all are compared on."""

    evaluation: Evaluation | None
    """None where it is not finite."""
    metric: Metric
    seed: int

    @property
    def value(self) -> float:
        return math.inf if self.evaluation is None else self.evaluation.score(self.metric)

    @cached_property
    def samples(self) -> Tensor:
        """float64 [R]: in each of R samples of the examples."""
        assert self.evaluation is not None
        return resampled(self.evaluation, self.metric, self.seed)

    def to_json(self) -> float | None:
        return self.value if math.isfinite(self.value) else None


@dataclass(kw_only=True)
class Measure:
    """Evaluates models for a diagnosis. What is known already, also from before a crash, is not evaluated again."""

    context: MethodContext
    pace: Pace
    done: int = 0

    @property
    def examples(self) -> int:
        """Those of the first round of the fit split: a random sample, on which candidates are known too."""
        return self.context.evaluations.rounds["fit"][0]

    def losses(self, mixtures: Sequence[Coefficients]) -> list[Loss]:
        """Collective."""
        with self._reading(mixtures):
            return [self.loss(mixture) for mixture in mixtures]

    def loss(self, mixture: Coefficients) -> Loss:
        """Collective: on the fit split, which judges nobody."""
        metric = self.context.loss
        return Loss(self._evaluated(mixture, "fit", self.examples, metric), metric, self.context.seed)

    def on_select(self, mixtures: Sequence[Coefficients]) -> None:
        """Collective: the judging metric on the whole select split becomes known."""
        size = self.context.evaluations.size("select")
        with self._reading(mixtures):
            for mixture in mixtures:
                self._evaluated(mixture, "select", size, self.context.metric)

    def finish(self) -> None:
        """Fewer were needed than could have been."""
        self.pace.total = self.done
        self.pace.step(self.done)

    def _evaluated(self, mixture: Coefficients, split: str, end: int, metric: Metric) -> Evaluation | None:
        try:
            found = self.context.evaluations.in_passing(mixture, split, end, metric, exactly=self._from_files)
        except (CheckpointError, MethodError, TaskError) as error:
            if error.code not in OF_A_POINT:
                raise
            return None
        finally:
            self.done += 1
            self.pace.total = max(self.pace.total, self.done)
            self.pace.step(self.done)
        return found if found.is_finite else None

    @property
    def _from_files(self) -> bool:
        """Where no direction is kept, every mixture is read from the files: then several at once, and exactly."""
        return self.context.weights.plan.precision == STREAMED

    def _reading(self, mixtures: Sequence[Coefficients]) -> AbstractContextManager[None]:
        return self.context.weights.exact.awaiting(mixtures) if self._from_files else nullcontext()
