"""What every method works with: the bound checkpoints, the two splits, and a model to place coefficients in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ladle_engine.binding import Binding
from ladle_engine.buckets import local_part
from ladle_engine.buffers import Statistics
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.collectives import Collectives
from ladle_engine.errors import CheckpointError
from ladle_engine.evaluate import Evaluation
from ladle_engine.evaluations import Evaluations
from ladle_engine.examples import Examples
from ladle_engine.geometry import Geometry
from ladle_engine.groups import Groups, whole_model
from ladle_engine.model_weights import ModelWeights
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.race import race
from ladle_engine.state import ResumeState
from ladle_engine.tasks.base import Metric, Task


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model's values on both splits, and the statistics that were made for it."""

    fit: Evaluation
    select: Evaluation
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class Workspace:
    """Made once a job by `average`; methods read it and place coefficients in its model."""

    checkpoints: CheckpointSet
    task: Task
    metric: Metric
    """What candidates are judged by."""
    binding: Binding
    geometry: Geometry
    fit: Examples
    """Chooses coefficients: trains them, and picks ingredients."""
    select: Examples
    """Judges candidates, and picks rows of fixed numbers (a checkpoint, k, a decay); never trains."""
    coefficient_examples: Examples
    """Trains coefficients: the fit split, or the training set when the job names one (TWA-t)."""
    statistics: Statistics
    weights: ModelWeights
    """Fills the model with combinations of the checkpoints."""
    output_dtypes: Mapping[str, torch.dtype]
    """Tensor name -> the type it is written in."""
    seed: int
    collectives: Collectives
    state: ResumeState
    tell: ProgressCallback
    choices: dict[str, Coefficients] = field(default_factory=dict, init=False)
    """What the methods that have run chose, by name: others may start there."""
    _reference_counters: Mapping[str, Tensor] | None = field(default=None, init=False)
    evaluations: Evaluations = field(init=False)

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(
            {"fit": self.fit, "select": self.select},
            model=self.binding.model,
            place=self.place,
            collectives=self.collectives,
            state=self.state,
            seed=self.seed,
        )

    def close(self) -> None:
        self.weights.close()

    def coefficients(self, alpha_K: Sequence[float] | Tensor) -> Coefficients:
        """Whole-model coefficients."""
        return Coefficients.whole_model(self.checkpoints.names, self.binding.floating, alpha_K)

    def one_checkpoint(self, index: int) -> Coefficients:
        alpha_K = torch.zeros(len(self.checkpoints.names), dtype=torch.float64)
        alpha_K[index] = 1.0
        return self.coefficients(alpha_K)

    def place(self, coefficients: Coefficients, settled: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Fills the model. Returns the statistics that were made for the mixture; none for a single checkpoint.

        `settled` are those of an earlier call, which spare making them again.
        """
        single = coefficients.single()
        if single is not None:
            self.binding.load(self.checkpoints.checkpoints[single])
            self._round(self.binding.parameters)
            self._round(self.binding.statistics)
            return {}
        self.use_reference_counters()
        groups = Groups(names=coefficients.groups, of=dict(coefficients.group_of))
        self.weights.placement(groups).place(coefficients.alpha_KG, groups)
        if coefficients.random is not None:
            for name, parameter in self.binding.parameters.items():
                local, start = local_part(parameter)
                coefficients.random.add_to(local, name, start, groups.of[name])
        self._round(self.binding.parameters)
        if settled is None:
            settled = self.statistics.settle(coefficients.alpha_KG, groups)
        else:
            for name, values in settled.items():
                self.binding.statistics[name].copy_(values)
        self._round(self.binding.statistics)
        return settled

    def use_reference_counters(self) -> None:
        """What a mixture has of them, whichever checkpoint the model held before."""
        if self._reference_counters is None:
            self._reference_counters = self.binding.counters_of(self.checkpoints.reference)
        for name, target in self.binding.counters.items():
            target.copy_(self._reference_counters[name])

    @torch.no_grad()
    def _round(self, tensors: Mapping[str, Tensor]) -> None:
        """What is judged is what will be written: rounded to the output's type."""
        for name, tensor in tensors.items():
            output_dtype = self.output_dtypes[name]
            if output_dtype is torch.float32:
                continue
            local, _ = local_part(tensor)
            local.copy_(local.to(output_dtype))
            if not bool(torch.isfinite(local).all()):
                raise CheckpointError(
                    "non-finite-weights",
                    f"Weights must be finite as {output_dtype}, but `{name}` is too large for it. Choose another "
                    f"`dtype`.",
                )

    def race(self, contenders: Sequence[Coefficients], *, stage: str = "train", method: str | None = None) -> int:
        """Collective: the index of the best on the select split, by the judging metric; see `race`.

        Raises `CheckpointError` for a checkpoint whose loss is not finite.
        """
        pace = Pace(self.tell, stage, len(contenders) * len(self.evaluations.rounds["select"]), method=method)
        return race(self.evaluations, contenders, "select", self.metric, pace)

    def whole_model(self) -> Groups:
        return whole_model(self.binding)

    def judge(self, coefficients: Coefficients) -> Judged:
        """Collective: values on both splits, of which what is known already is not computed again."""
        fit, select = self.evaluations.whole(coefficients, "fit", "select")
        self.evaluations.save()
        return Judged(fit=fit, select=select, statistics=self.evaluations.statistics(coefficients))
