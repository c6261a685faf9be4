"""What every method works with: the bound checkpoints, the two splits, and a model to place coefficients in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.evaluation.cache import Evaluations
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.racing import race
from ladle_engine.evaluation.sets import NamedSets
from ladle_engine.evaluation.statistics_choice import StatisticsChoice
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Grouping, Groups, whole_model
from ladle_engine.model.local_shard import local_part
from ladle_engine.output.adapter_result import AdapterOutput
from ladle_engine.output.overflow import largest, limit, too_large
from ladle_engine.placements.base import REPLICATED
from ladle_engine.placements.base_row import add_base
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.geometry import Geometry
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.guard import gives_logits


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model's values on both splits, and the statistics that were made for it."""

    fit: Evaluation
    """On the first round of the split, the same examples for every model. It is shown; only that it must be finite
    decides anything."""
    select: Evaluation
    others: Mapping[str, Evaluation] = field(default_factory=dict)
    """On the validation sets that do not judge, by name."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a method chose."""

    coefficients: Coefficients
    label: str
    """The method and what it settled on, for people: `last-k (k = 5)`."""
    losses: list[float] = field(default_factory=list)
    """The training loss of every step, for trained methods."""
    course: Mapping[str, Any] | None = None
    """How training went, as plain JSON; see `training.path.Course`. None where no coefficients of checkpoints were."""
    details: Mapping[str, Any] | None = None
    """What else the report says of this choice, as plain JSON."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which methods run, and how."""

    methods: tuple[str, ...]
    """In the order in which they run."""
    options: Mapping[str, Any]
    """Every method's parsed options: others may start from one that is not a candidate itself."""
    with_starts: tuple[str, ...]
    """The methods that run, and those that they start from."""
    groupings: tuple[Grouping, ...]
    """Of all of `with_starts`."""
    mixes: bool
    """Whether any of `with_starts` may choose anything but a single checkpoint."""
    keeps_outputs: bool
    """Whether any of `with_starts` combines what the checkpoints put out."""
    weight_vectors: int
    """The most vectors of the model's size that one of them keeps besides the directions."""
    uses_base: bool = False
    """Whether any of `with_starts` needs the checkpoints' ancestor."""
    needs_order: bool = False
    """Whether all that was asked for goes by the order of the checkpoints. `auto` tries other methods too."""


def served_in(output_dtypes: Mapping[str, torch.dtype], device: torch.device) -> torch.dtype | None:
    """The type in which a model of these tensors computes where it is served: that of halves, on a GPU."""
    # A few float32 tensors, such as norms, leave a model one of halves.
    halves = set(output_dtypes.values()) & {torch.bfloat16, torch.float16}
    return halves.pop() if device.type == "cuda" and len(halves) == 1 else None


@dataclass(kw_only=True)
class MethodContext:
    """Made once per job by `average`; methods read it and place coefficients in its model."""

    plan: Plan
    run_method: Callable[[MethodContext, str], Choice]
    """Runs a method by name, once per job; see `choice_of`."""
    checkpoints: CheckpointSet
    task: Task
    metric: Metric
    """What candidates are judged by."""
    binding: Binding
    geometry: Geometry
    fit: Examples
    """Chooses coefficients: trains them, and picks ingredients."""
    select: Examples
    """Judges candidates, and picks rows of fixed numbers (a checkpoint, k, a decay) or multiples; never trains."""
    others: Mapping[str, Examples] = field(default_factory=dict)
    """What the select split is of the validation sets that do not judge, by name; it is shown."""
    named_sets: NamedSets = field(default_factory=NamedSets)
    coefficient_examples: Examples
    """Trains coefficients: the fit split, or the training set when the job names one (TWA-t)."""
    statistics: StatisticsChoice
    """How those of mixtures are made."""
    weights: ModelWeights
    """Fills the model with combinations of the checkpoints."""
    output_dtypes: Mapping[str, torch.dtype]
    """Tensor name -> the type it is written in."""
    adapter_output: AdapterOutput | None = None
    """How mixtures of adapters become adapters again."""
    seed: int
    collectives: Collectives
    state: ResumeState
    on_event: ProgressCallback
    choices: dict[str, Choice] = field(default_factory=dict, init=False)
    """What the methods that have run chose, by name."""
    _holds_own: bool = field(default=True, init=False)
    """Whether the model may hold a checkpoint's own tensors where mixtures have those that are taken."""
    _reference_counters: Mapping[str, Tensor] | None = field(default=None, init=False)
    evaluations: Evaluations = field(init=False)

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(
            {"fit": self.fit, "select": self.select, **{_split_of(name): each for name, each in self.others.items()}},
            model=self.binding.model,
            load_weights=self.load_weights,
            approximate=self._approximate,
            collectives=self.collectives,
            state=self.state,
            seed=self.seed,
            served_in=served_in(self.output_dtypes, self.select.device),
        )
        if self.plan.keeps_outputs and gives_logits(self.task):
            self.evaluations.begin_keeping(len(self.checkpoints.names))

    def close(self) -> None:
        self.weights.close()

    def choice_of(self, method: str) -> Choice:
        """Collective: what another method chose, for one that starts from it."""
        return self.run_method(self, method)

    def coefficients(self, alpha_K: Sequence[float] | Tensor) -> Coefficients:
        """Whole-model coefficients."""
        return Coefficients.whole_model(self.checkpoints.names, self.binding.floating, alpha_K)

    def coefficients_with_base(self, base_G: Tensor, own_KG: Tensor, groups: Groups) -> Coefficients:
        """With a weight for the base; without its row where it has none, because such a model may be known already."""
        has_base = bool(base_G.any())
        return Coefficients(
            checkpoints=(self.checkpoints.with_base if has_base else self.checkpoints).names,
            groups=groups.names,
            group_of=groups.of,
            alpha_KG=torch.cat([base_G[None], own_KG]) if has_base else own_KG,
            base=has_base,
        )

    def one_checkpoint(self, index: int) -> Coefficients:
        alpha_K = torch.zeros(len(self.checkpoints.names), dtype=torch.float64)
        alpha_K[index] = 1.0
        return self.coefficients(alpha_K)

    def not_its_own(self, checkpoint: Checkpoint) -> list[str]:
        """The tensors that a checkpoint has from another one even where it is judged alone: it has none that fit."""
        with open_checkpoint(checkpoint) as reader:
            return [name for name in self.checkpoints.taken if not self.checkpoints.has_own(reader, name)]

    def single_of(self, coefficients: Coefficients) -> Checkpoint | None:
        """The only checkpoint that takes part, or the base; None for a mixture."""
        single = coefficients.single()
        rows = self.checkpoints.rows_of(coefficients.checkpoints)
        return None if single is None else rows.checkpoints[single]

    def tensors_taken(self, coefficients: Coefficients) -> dict[str, int]:
        """Of a model with these coefficients, how many of its tensors are another checkpoint's as they are, by that
        checkpoint's name: none of a single one, but for those that it has not itself."""
        single = self.single_of(coefficients)
        names = self.checkpoints.taken if single is None else self.not_its_own(single)
        return dict(Counter(self.checkpoints.taken[name] for name in names))

    def load_weights(
        self,
        coefficients: Coefficients,
        recomputed: Mapping[str, Tensor] | None = None,
        exactly: bool = False,
        alone: bool = False,
    ) -> Mapping[str, Tensor]:
        """Fills the model. Returns the statistics that were made for the mixture; none for a single checkpoint.

        Collective, unless `alone`: see `each_places_alone`.

        `recomputed` are those of an earlier call, which spare making them again. `exactly` takes the weights from the
        files: for a mixture, where the directions are coarser than float32.
        """
        ranks = SingleProcess() if alone else self.collectives
        single = self.single_of(coefficients)
        if single is not None:
            self._load_single(single, coefficients, exactly, ranks)
            return {}
        self.load_shared(ranks)
        groups = Groups(names=coefficients.groups, of=dict(coefficients.group_of))
        # Opening a placement may lower the precision, where memory runs out.
        placement = None if exactly and self.weights.coarse() else self.weights.placement(groups)
        if placement is None or (exactly and self.weights.coarse()):
            self.weights.exact.load(coefficients)
        else:
            placement.load_weights(coefficients.own_KG, groups)
            if coefficients.base_G is not None:
                assert self.checkpoints.base is not None, "the coefficients are of its set"
                add_base(self.checkpoints.base, self.binding.parameters, coefficients.base_G, groups)
        if coefficients.random is not None:
            for name, parameter in self.binding.parameters.items():
                local, start = local_part(parameter)
                coefficients.random.add_to(local, name, start, groups.of[name])
        peaks = self._round(self.binding.parameters, ranks)
        if self.adapter_output is not None:
            # What is judged has the rank that is written.
            self.adapter_output.load(self.binding.parameters)
        if recomputed is None:
            recomputed = self.statistics.policy.recompute(coefficients.alpha_KG, groups)
        else:
            for name, values in recomputed.items():
                self.binding.statistics[name].copy_(values)
        if peaks := peaks | self._round(self.binding.statistics, ranks):
            raise MethodError("non-finite-loss", self._too_large("the average", peaks))
        return recomputed

    def _load_single(
        self, checkpoint: Checkpoint, coefficients: Coefficients, exactly: bool, ranks: Collectives
    ) -> None:
        with open_checkpoint(checkpoint) as reader:
            if self.weights.holds_singles and not exactly and not coefficients.base:
                groups = Groups(names=coefficients.groups, of=dict(coefficients.group_of))
                self.weights.placement(groups).load_weights(coefficients.alpha_KG, groups)
            elif not self.weights.exact.load_awaited(coefficients):
                self.binding.load_parameters(reader)
            self.binding.load_buffers(reader)
            self.binding.load_constants(reader)
            self._holds_own = True
        rounded = (self.binding.parameters, self.binding.statistics, self.binding.constants)
        if peaks := {name: peak for tensors in rounded for name, peak in self._round(tensors, ranks).items()}:
            whose = f"checkpoint `{checkpoint.name}`"
            raise CheckpointError("non-finite-weights", self._too_large(whose, peaks))

    @property
    def each_places_alone(self) -> bool:
        """Whether every rank can fill its model without the others, once `load_weights` has placed a mixture: it has
        all directions, and makes no statistics over the ranks."""
        return self.weights.plan.placement == REPLICATED and not self.statistics.is_recomputed

    def _approximate(self, coefficients: Coefficients) -> str | None:
        """The precision of the directions from which a model is placed now, where it is not quite what will be written:
        a checkpoint itself is only rounded to float32."""
        if coefficients.single() is not None:
            return "float32" if self.weights.holds_singles and not coefficients.base else None
        return self.weights.coarse()

    def load_shared(self, ranks: Collectives | None = None) -> None:
        """Collective over `ranks`, by default all: what all mixtures have, whichever checkpoint the model held before:
        the reference's counters, and what is left out of the average.

        Raises `CheckpointError` where the output's type cannot hold it.
        """
        if self._holds_own:
            self.binding.load_constants()
            if peaks := self._round(self.binding.constants, ranks or self.collectives):
                name = next(iter(peaks))
                raise CheckpointError("non-finite-weights", self._too_large(f"`{self.checkpoints.taken[name]}`", peaks))
            self._holds_own = False
        if self._reference_counters is None:
            self._reference_counters = self.binding.counters_of(self.checkpoints.reference)
        for name, target in self.binding.counters.items():
            target.copy_(self._reference_counters[name])

    @torch.no_grad()
    def _round(self, tensors: Mapping[str, Tensor], ranks: Collectives) -> dict[str, float]:
        """What is judged is what will be written: rounded to the output's type.

        Collective over `ranks`: those that are too large for it, with their largest value. They are the same on every
        rank, because each may hold only a part.
        """
        rounded = [
            name
            for name, tensor in tensors.items()
            if self.output_dtypes[name] is not torch.float32 and tensor.is_floating_point()
        ]
        if not rounded:
            return {}
        peaks = torch.zeros(len(rounded))
        for index, name in enumerate(rounded):
            local, _ = local_part(tensors[name])
            peak = largest(local)
            if not peak < limit(self.output_dtypes[name]):
                peaks[index] = peak
            local.copy_(local.to(self.output_dtypes[name]))
        size = ranks.size
        of_all = ranks.all_gather(peaks, [len(rounded)] * size).view(size, len(rounded)).amax(dim=0)
        return {name: peak for name, peak in zip(rounded, of_all.tolist(), strict=True) if peak != 0.0}

    def _too_large(self, whose: str, peaks: Mapping[str, float]) -> str:
        name, peak = next(iter(peaks.items()))
        return too_large(name, whose, peak, self.output_dtypes[name])

    def race(
        self,
        contenders: Sequence[Coefficients],
        *,
        stage: str = "train",
        method: str | None = None,
        by_loss: bool = False,
        kin: bool = True,
    ) -> int:
        """Collective: the index of the best on the select split, by the judging metric or by the loss; of `kin` one
        that is nearly as good: see `race`.

        Raises `CheckpointError` for a checkpoint whose loss is not finite.
        """
        total = len(contenders) * len(self.evaluations.rounds["select"])
        pace = Pace(self.on_event, stage, total, method=method, unit="examples")
        metric = self.loss if by_loss else self.metric
        return race(self.evaluations, contenders, "select", metric, pace, kin=kin)

    @property
    def loss(self) -> Metric:
        return next(metric for metric in self.task.metrics if metric.name == "loss")

    def whole_model(self) -> Groups:
        return whole_model(self.binding)

    @property
    def judges_from_files(self) -> bool:
        """Whether models are not judged as the directions give them: they can share a reading of the files."""
        return self.weights.coarse() is not None

    def reading_together(self, mixtures: Sequence[Coefficients]) -> AbstractContextManager[None]:
        """Inside, these are judged in this order, with as few readings of the files as memory allows.

        Directions are freed: no method may run after it.
        """
        self.weights.close()
        return self.weights.exact.awaiting(mixtures)

    def judge(self, coefficients: Coefficients, *, save: bool = True) -> Judged:
        """Collective: values on the select split and on the first round of the fit split.

        Of the weights that will be written, whatever precision the directions have. What is known stays known, with
        `save` also after a crash.
        """
        wanted = {
            # It is only shown, which is not worth generating text for.
            "fit": (self.evaluations.rounds["fit"][0], self.loss if self.metric.generated else self.metric),
            **{
                split: (self.evaluations.size(split), self.metric) for split in ("select", *map(_split_of, self.others))
            },
        }
        on = self.evaluations.exactly(coefficients, wanted)
        if save:
            self.evaluations.save()
        return Judged(
            fit=on["fit"],
            select=on["select"],
            others={name: on[_split_of(name)] for name in self.others},
            statistics=self.evaluations.statistics(coefficients),
        )


def _split_of(name: str) -> str:
    """The select split of a validation set that does not judge, as it is called among the evaluations."""
    return f"select/{name}"
