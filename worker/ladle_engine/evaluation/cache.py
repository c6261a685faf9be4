"""What is known of every model: its values on the first examples of a split, never computed twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import CheckpointError, TaskError
from ladle_engine.evaluation.evaluate import Evaluation, evaluate, per_example
from ladle_engine.evaluation.kept_outputs import KeptOutputs
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import Examples

FIRST_ROUND = 256
"""Examples; fewer say too little for a model to be given up."""
GROWTH = 4
"""A contender is placed once a round, which reads checkpoints: few rounds."""
CHECKS = 16
"""How often a whole evaluation asks whether it can still reach the bar."""
ROUNDING = 1e-9
"""A model is only given up for a mean that differs by more."""
SAVING_SHARE = 0.05
"""Of the time, at most, goes into saving the state."""
STATE_KEY = "evaluations"
GENERATED = ", generated"
"""Ends the keys of what was computed from generated text."""

ROUNDED_TO = ", in "
"""In the key of a model as coarse directions give it, between its digest and their precision."""

LoadWeights = Callable[[Coefficients, Mapping[str, Tensor] | None, bool], Mapping[str, Tensor]]
"""Fills the model, and returns the statistics that were made for it; those of the second argument, if it has them. With
the third one the weights come from the files, else from the directions, which may be coarse."""


@dataclass
class _Known:
    """One model's."""

    statistics: Mapping[str, Tensor] | None = None
    """None until the model was placed."""
    on: dict[str, Evaluation] = field(default_factory=dict)
    """Split -> its values on the first examples; what generated metrics need is apart, see `_key`."""


@dataclass(frozen=True, kw_only=True)
class PassedOn:
    """What is known of one model, as one job leaves it to another: see `pipeline/along/earlier.py`."""

    on: Mapping[str, Mapping[str, Tensor]]
    """Split, as `Evaluations` calls it -> statistic -> float64 [N] or [N, S], of the split's first N examples."""
    statistics: Mapping[str, Tensor] | None
    """Those that were made for it; None where they are not kept."""


class Evaluations:
    """Models by their coefficients; a model's evaluation is extended from the first examples of a split to more.

    The order of a split is a seeded shuffle, cut into rounds. Up to the end of a round the examples are a random sample
    of the split, and of several sets of each the same share; within a round they are sorted, so that data are read in
    order.

    Making it is collective: it takes up what the resume state holds.
    """

    def __init__(
        self,
        splits: Mapping[str, Examples],
        *,
        model: nn.Module,
        load_weights: LoadWeights,
        approximate: Callable[[Coefficients], str | None],
        collectives: Collectives,
        state: ResumeState,
        seed: int,
        served_in: torch.dtype | None = None,
    ) -> None:
        ends = {name: ends_by_set(examples) for name, examples in splits.items()}
        self.rounds = {name: tuple(map(sum, zip(*of_sets, strict=True))) for name, of_sets in ends.items()}
        """Split -> the ends of its rounds; the last one is the number of its examples."""
        self._splits = {name: in_rounds(examples, ends[name], seed) for name, examples in splits.items()}
        self._model = model
        self._load_weights = load_weights
        self._approximate = approximate
        """The precision of the directions from which a model is placed now, if that is not exactly what is written."""
        self._collectives = collectives
        self._state = state
        self._served_in = served_in
        self.kept: KeptOutputs | None = None
        """What single checkpoints put out on the fit split, where that is kept."""
        self._known = {
            digest: _Known(
                statistics=saved["statistics"],
                on={key: self._evaluation(_split(key), values) for key, values in saved["on"].items()},
            )
            for digest, saved in (state.load(STATE_KEY) or {}).items()
        }
        self._save_not_before = 0.0
        self.num_judged = 0
        """How many times a model was evaluated on an example; what was known already does not count."""

    def _evaluation(self, split: str, values: Mapping[str, Tensor]) -> Evaluation:
        """Of the first examples of the split, as many as there are values of."""
        examples = self._splits[split]
        count = len(next(iter(values.values())))
        return Evaluation(metrics=examples.task.metrics, values=values, strata=examples.at(slice(count)).strata)

    def size(self, split: str) -> int:
        return len(self._splits[split])

    def set_sizes(self, split: str, end: int | None = None) -> list[int]:
        """How many of the first `end` examples each set has; all, without an end."""
        return [len(positions) for _, positions in self._splits[split].at(slice(end)).positions_by_set()]

    def known(self, coefficients: Coefficients, split: str, metric: Metric) -> Evaluation | None:
        """What `metric` is computed from, and the loss, as far as it is known already; None where it is nothing."""
        known = _enough(self._record(coefficients), split, metric)
        if coefficients.single() is None:
            return known
        # What is known exactly is only rounded in the other, and better.
        exact = _enough(self._record(coefficients, exactly=True), split, metric)
        return known if exact is None or (known is not None and len(known) > len(exact)) else exact

    def best_known(self, coefficients: Coefficients, split: str, metric: Metric) -> Evaluation | None:
        """To be shown: what is known of the model as it will be written, unless more is known of it as the directions
        give it."""
        exact, known = (_enough(self._record(coefficients, exactly), split, metric) for exactly in (True, False))
        return known if _size(known) > _size(exact) else exact

    def all_known(self, split: str, metric: Metric) -> dict[str, Evaluation]:
        """Digest of coefficients -> what is known of every model whose values are finite, from whatever weights it is
        known on the most examples. In an order that does not depend on when they were evaluated."""
        found: dict[str, Evaluation] = {}
        for key in sorted(self._known):
            digest, known = _digest(key), _enough(self._known[key], split, metric)
            if known is not None and known.is_finite and len(known) > _size(found.get(digest)):
                found[digest] = known
        return found

    def in_passing(
        self, coefficients: Coefficients, split: str, end: int, metric: Metric, *, exactly: bool = False
    ) -> Evaluation:
        """Collective: as `first`, or as `exactly`, on no more examples, for a model that is not going to be written:
        the statistics that are made for it are not kept."""
        record = self._record(coefficients, exactly)
        is_new = record.statistics is None
        if exactly:
            found = self.exactly(coefficients, {split: (end, metric)})[split]
        else:
            found = self.first(coefficients, split, end, metric)
        if is_new:
            record.statistics = None
        return found.first(end)

    def first(self, coefficients: Coefficients, split: str, end: int, metric: Metric) -> Evaluation:
        """Collective: what `metric` is computed from, and the loss, on the first `end` examples or, where it is known,
        on more.

        Raises `CheckpointError` for a checkpoint whose loss is not finite, `TaskError` for a value out of its range.
        """
        known = self.known(coefficients, split, metric)
        if known is None or len(known) < end:
            self._place_in_model(coefficients)
            known = self._extend(coefficients, split, end, metric)
        return known

    def whole(self, coefficients: Coefficients, split: str, metric: Metric) -> Evaluation:
        """Collective: the same on all examples. Raises as `first`."""
        return self.first(coefficients, split, self.size(split), metric)

    def exactly(self, coefficients: Coefficients, wanted: Mapping[str, tuple[int, Metric]]) -> dict[str, Evaluation]:
        """Collective: split -> the same for its metric on its first so many examples, of what will be written, however
        coarse the directions are. The model is placed once. Raises as `first`."""
        record = self._record(coefficients, exactly=True)
        if any(_size(_enough(record, split, metric)) < end for split, (end, metric) in wanted.items()):
            self._place_in_model(coefficients, exactly=True)
        return {
            split: self._extend(coefficients, split, end, metric, exactly=True).first(end)
            for split, (end, metric) in wanted.items()
        }

    def unless_below(
        self, coefficients: Coefficients, split: str, bar: Evaluation, metric: Metric
    ) -> Evaluation | None:
        """Collective: the values on all examples; None as soon as the rest cannot lift `metric` to the bar's any more.

        That is certain, not likely: the rest is taken to be as good as the metric's range allows. Raises as `first`.
        """
        size, batch_size = self.size(split), self._splits[split].task.batch_size
        assert len(bar) == size
        known = self.known(coefficients, split, metric)
        placed = False
        together = batch_size * self._collectives.size
        step = -(-size // (CHECKS * together)) * together
        while known is None or len(known) < size:
            if known is not None and is_below(known, bar, metric):
                return None
            if not placed:
                self._place_in_model(coefficients)
                placed = True
            end = min(size, _size(known) + step)
            known = self._extend(coefficients, split, end, metric)
        return known

    def begin_keeping(self, num_checkpoints: int) -> None:
        """From now on, what single checkpoints put out on the fit split is kept, for a task that `gives_logits`."""
        self.kept = KeptOutputs(
            model=self._model,
            examples=self._splits["fit"],
            round_ends=self.rounds["fit"],
            num_checkpoints=num_checkpoints,
            collectives=self._collectives,
            state=self._state,
            served_in=self._served_in,
        )

    def keep_outputs(self, coefficients: Coefficients, metric: Metric) -> int:
        """Collective: evaluates a single checkpoint on so many examples of the fit split as outputs are kept of, and
        returns their number: 0 where the model puts out too much for it. Raises as `first`."""
        assert self.kept is not None
        if not self.kept.knows_most:
            self._place_in_model(coefficients)
        if end := self.kept.most_examples():
            self.first(coefficients, "fit", end, metric)
            if not self.kept.are_kept(coefficients, end):
                # It was evaluated before, and the file is lost.
                self._place_in_model(coefficients)
                self.kept.evaluate(coefficients, 0, end)
        return end

    def known_of(self, coefficients: Coefficients) -> PassedOn:
        """What is known of a model now, to be left to another job."""
        known = self._record(coefficients)
        return PassedOn(
            on={split: evaluation.values for split, evaluation in known.on.items()}, statistics=known.statistics
        )

    def take_up(self, coefficients: Coefficients, passed: PassedOn) -> bool:
        """Makes it known, and says whether any of it was not.

        Whoever calls it answers for its being the same model on the same examples. Raises `ValueError` for what cannot
        be.
        """
        known, is_new = self._record(coefficients), False
        for key, values in passed.on.items():
            lengths = {len(rows) for rows in values.values()}
            split = _split(key)
            if split not in self.rounds or len(lengths) != 1 or max(lengths) > self.size(split):
                raise ValueError(f"it has values of {sorted(lengths)} examples of the {split} split")
            if key not in known.on or len(known.on[key]) < max(lengths):
                known.on[key], is_new = self._evaluation(split, values), True
        if known.statistics is None:
            known.statistics = passed.statistics
        return is_new

    def statistics(self, coefficients: Coefficients) -> Mapping[str, Tensor]:
        """Those that were made for a model that was evaluated exactly."""
        return self._record(coefficients, exactly=True).statistics or {}

    def forget_statistics(self, models: Iterable[Coefficients]) -> None:
        """Those that were made for models that are not going to be written."""
        for coefficients in models:
            self._record(coefficients).statistics = None

    def save(self) -> None:
        """Into the resume state: one file, whatever the number of checkpoints."""
        started = time.monotonic()
        self._state.save(
            STATE_KEY,
            {
                digest: {
                    "statistics": None if known.statistics is None else dict(known.statistics),
                    "on": {split: dict(evaluation.values) for split, evaluation in known.on.items()},
                }
                for digest, known in self._known.items()
            },
        )
        now = time.monotonic()
        self._save_not_before = now + (now - started) / SAVING_SHARE

    def _record(self, coefficients: Coefficients, exactly: bool = False) -> _Known:
        precision = None if exactly else self._approximate(coefficients)
        key = coefficients.digest if precision is None else f"{coefficients.digest}{ROUNDED_TO}{precision}"
        return self._known.setdefault(key, _Known())

    def _place_in_model(self, coefficients: Coefficients, exactly: bool = False) -> None:
        record = self._record(coefficients, exactly)
        record.statistics = self._load_weights(coefficients, record.statistics, exactly)

    def _extend(
        self, coefficients: Coefficients, split: str, end: int, metric: Metric, exactly: bool = False
    ) -> Evaluation:
        """The model must hold `coefficients`, unless nothing is missing."""
        record = self._record(coefficients, exactly)
        for generated in (False, True) if metric.generated else (False,):
            self._extend_kind(record, coefficients, split, end, generated)
        known = _enough(record, split, metric)
        assert known is not None
        return known

    def _extend_kind(self, record: _Known, coefficients: Coefficients, split: str, end: int, generated: bool) -> None:
        key, examples = _key(split, generated), self._splits[split]
        known = record.on.get(key)
        start = _size(known)
        if start >= end:
            return
        kept_to = self._kept_to(key, coefficients)
        stop = min(end, kept_to) if start < kept_to else end
        if self.kept is not None and start < kept_to:
            more = self.kept.evaluate(coefficients, start, stop)
        else:
            more = evaluate(
                self._model, examples.at(slice(start, stop)), self._collectives,
                generated=generated, served_in=self._served_in,
            )  # fmt: skip
        self.num_judged += stop - start
        _check(more, coefficients, split)
        record.on[key] = more if known is None else known.and_then(more)
        if stop < end:
            self._extend_kind(record, coefficients, split, end, generated)
        if self._state.is_due() and time.monotonic() >= self._save_not_before:
            self.save()

    def _kept_to(self, key: str, coefficients: Coefficients) -> int:
        """Of how many of the first examples what the model puts out is kept. It must hold the checkpoint."""
        is_kept = self.kept is not None and key == "fit" and coefficients.single() is not None
        is_kept = is_kept and not coefficients.base
        return self.kept.most_examples() if self.kept is not None and is_kept else 0


def _key(split: str, generated: bool) -> str:
    return f"{split}{GENERATED}" if generated else split


def _digest(key: str) -> str:
    """Of the model."""
    return key.partition(ROUNDED_TO)[0]


def _size(known: Evaluation | None) -> int:
    return 0 if known is None else len(known)


def _split(key: str) -> str:
    return key.removesuffix(GENERATED)


def _enough(record: _Known, split: str, metric: Metric) -> Evaluation | None:
    """What is known of the metric's statistics and of those of the loss, on the same examples."""
    known = record.on.get(_key(split, generated=False))
    if not metric.generated or known is None:
        return known
    generated = record.on.get(_key(split, generated=True))
    return None if generated is None else known.beside(generated)


def round_ends(total: int, batch_size: int) -> tuple[int, ...]:
    """The ends of the rounds over `total` examples: whole batches, each end `GROWTH` times the one before.

    No round begins beyond the half: what it saved would not pay for placing its contenders once more.
    """
    end = -(-FIRST_ROUND // batch_size) * batch_size
    ends = []
    while 2 * end <= total:
        ends.append(end)
        end *= GROWTH
    return (*ends, total)


def ends_by_set(examples: Examples) -> list[tuple[int, ...]]:
    """The same for each set. All have as many rounds, those of the smallest, and the same share of each in a round."""
    sizes = [len(positions) for _, positions in examples.positions_by_set()]
    fewest = min(sizes)
    return [tuple(round(size * end / fewest) for end in round_ends(fewest, examples.task.batch_size)) for size in sizes]


def in_rounds(examples: Examples, ends: Sequence[Sequence[int]], seed: int) -> Examples:
    """Each set shuffled, and sorted again within each round. `ends` are those of `ends_by_set`."""
    by_set = [
        _in_rounds(examples.indices[positions], own, seed)
        for (_, positions), own in zip(examples.positions_by_set(), ends, strict=True)
    ]
    return replace(examples, indices=torch.cat([part for parts in zip(*by_set, strict=True) for part in parts]))


def _in_rounds(indices: Tensor, ends: Sequence[int], seed: int) -> list[Tensor]:
    """Of one set, round by round."""
    shuffled = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
    starts = (0, *ends[:-1])
    return [shuffled[start:end].sort().values for start, end in zip(starts, ends, strict=True)]


def is_below(known: Evaluation, bar: Evaluation, metric: Metric) -> bool:
    """Whether the metric on all examples is certain to be worse than that of `bar`, which is known on all of them.

    Never where no mean stands for the metric: the rest may change it in any way.
    """
    if not known.is_finite:
        return bar.is_finite
    sets = list(zip(known.sets, bar.sets, strict=True))
    if (name := per_example(metric, num_sets=len(sets))) is None:
        return False
    bound = metric.high if metric.higher_is_better else metric.low
    possible = sum(weight * _possible_mean(part.values[name], len(whole), bound) for (weight, part), (_, whole) in sets)
    reached = sum(weight * float(whole.values[name].mean()) for _, (weight, whole) in sets)
    margin = ROUNDING * (1 + abs(reached))
    return possible < reached - margin if metric.higher_is_better else possible > reached + margin


def _possible_mean(values: Tensor, count: int, bound: float) -> float:
    """Of `count` values, if all but these are as good as can be."""
    rest = count - len(values)
    # An infinite bound on no example at all would be NaN.
    return (float(values.sum()) + (rest * bound if rest else 0.0)) / count


def _check(more: Evaluation, coefficients: Coefficients, split: str) -> None:
    single = coefficients.single()
    if single is not None and not more.is_finite:
        broken = next(name for name, rows in more.values.items() if not bool(torch.isfinite(rows).all()))
        raise CheckpointError(
            "non-finite-loss",
            f"The loss of every checkpoint must be finite on the validation set, but "
            f"{'that' if broken == 'loss' else f'`{broken}`'} of `{coefficients.checkpoints[single]}` is "
            f"{float(more.values[broken].mean())} on the {split} split. Leave it out with `exclude=`.",
        )
    for metric in more.metrics:
        if (name := metric.per_example) is None or name not in more.values:
            continue
        values = more.values[name]
        if bool(((values < metric.low) | (values > metric.high)).any()):
            raise TaskError(
                "model-mismatch",
                f"`{name}` must lie within {metric.low:g} and {metric.high:g}, as the task declares, but lies within "
                f"{float(values.min()):g} and {float(values.max()):g}.",
            )
