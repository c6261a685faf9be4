"""Whether the running statistics of mixtures are averaged or recomputed: the fit split says which is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import whole_model
from ladle_engine.model.statistics import (
    MAX_EXAMPLES,
    AveragedStatistics,
    NoStatistics,
    RecomputedStatistics,
    Statistics,
)
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.examples import Examples

STATE_KEY = "statistics"
LEAST_EXAMPLES = 16
"""Losses on fewer say too little, and flatter statistics that come from the same examples."""
FEW_VALUES = 512
"""Per channel. With fewer, statistics are noisy when they are recomputed (benchmarks/results/batch-norm-rules.md)."""


@dataclass(frozen=True, kw_only=True)
class StatisticsChoice:
    """One way for all mixtures of a job; a single checkpoint keeps its own statistics."""

    policy: Statistics
    losses: Mapping[str, float] = field(default_factory=dict)
    """Way -> loss of the mean of all checkpoints on the fit split; empty where there was nothing to choose."""
    examples: int = 0
    """On which they are, or would be, recomputed."""
    values_per_channel: int = 0
    """Those examples times positions, in the BatchNorm where that is least."""

    @property
    def is_recomputed(self) -> bool:
        """Whether each mixture's are made anew, on `examples`, by all ranks together."""
        return isinstance(self.policy, RecomputedStatistics)

    @property
    def warning(self) -> str | None:
        if not self.losses and self.examples:
            return (
                f"BatchNorm's statistics are averaged, because there are only {self.examples} examples to recompute "
                f"them on. A `train_set` with some hundred examples may give a better average."
            )
        if self.values_per_channel >= FEW_VALUES or not self.losses:
            return None
        return (
            f"BatchNorm's statistics are {self.policy.name}, which had the lower loss on the fit split, but there is "
            f"little to recompute them on: {self.examples} examples, {self.values_per_channel} values per channel. A "
            f"`train_set` with some hundred examples may give a better average."
        )

    def of(self, coefficients: Coefficients) -> str:
        """How those of one candidate were made."""
        return self.policy.name if coefficients.single() is None else "own"

    def to_json(self) -> dict[str, Any]:
        """For the report; a loss that is not finite is null."""
        finite = {name: loss if math.isfinite(loss) else None for name, loss in self.losses.items()}
        return {
            "mixtures": self.policy.name,
            "fit_loss": finite,
            "examples": self.examples,
            "values_per_channel": self.values_per_channel,
        }


@dataclass(frozen=True, kw_only=True)
class StatisticsChooser:
    """What the two ways are compared with."""

    checkpoints: CheckpointSet
    binding: Binding
    examples: Examples
    """On which statistics are recomputed."""
    fit: Examples
    collectives: Collectives
    state: ResumeState
    load_mean: Callable[[], None]
    """Collective: fills the model's parameters with the mean of all checkpoints."""

    def choose(self) -> StatisticsChoice:
        """Collective, before anything is trained: coefficients must see the statistics that will be used."""
        if not self.binding.statistics:
            return StatisticsChoice(policy=NoStatistics(self.binding))
        averaged = AveragedStatistics(self.checkpoints, self.binding)
        # In a batch of one there is nothing to take a mean of.
        if not self.binding.running_norms or self.examples.task.batch_size < 2:
            return StatisticsChoice(policy=averaged)
        if len(self.fit) < LEAST_EXAMPLES or len(self.examples) < LEAST_EXAMPLES:
            return StatisticsChoice(policy=averaged, examples=len(self.examples))
        recomputed = RecomputedStatistics(self.checkpoints, self.binding, self.examples, self.collectives)
        known = self.state.load(STATE_KEY)
        if known is None:
            losses = {policy.name: self._loss(policy) for policy in (averaged, recomputed)}
            known = {"losses": losses, "values_per_channel": recomputed.values_per_channel}
            self.state.save(STATE_KEY, known)
        by_name: dict[str, Statistics] = {policy.name: policy for policy in (averaged, recomputed)}
        return StatisticsChoice(policy=by_name[lowest(known["losses"])], examples=recomputed.num_examples, **known)

    def _loss(self, policy: Statistics) -> float:
        """Of the mean of all checkpoints, on the fit split."""
        groups = whole_model(self.binding)
        K = len(self.checkpoints.names)
        self.load_mean()
        policy.recompute(torch.full((K, 1), 1 / K, dtype=torch.float64), groups)
        return evaluate(self.binding.model, self.fit.sample(MAX_EXAMPLES), self.collectives).loss


def lowest(losses: Mapping[str, float]) -> str:
    """Of equals the last one; a loss that is not a number counts as infinite."""
    return min(reversed(list(losses)), key=lambda name: losses[name] if not math.isnan(losses[name]) else math.inf)
