"""Runs the planned methods one after the other and judges what each chose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ladle_engine.errors import MethodError
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import Gain, gain_over, pick_winner
from ladle_engine.methods import run_once
from ladle_engine.methods.context import Choice, Judged, MethodContext
from ladle_engine.progress import CandidateScored, Score, SetScore, StageStarted, Warned
from ladle_engine.tasks.base import Metric

LEFT_OUT = ("non-finite-loss", "too-few-checkpoints")
"""Codes of `MethodError` that say something about this method alone."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One method's coefficients with its score."""

    method: str
    choice: Choice
    judged: Judged
    gain: Gain
    """On the select split, over the best checkpoint."""
    on_sets: Mapping[str, OnSet]
    """The same on each validation set that has a name."""
    single: Gain | None = None
    """With the interval of this comparison alone, once `gain` has one that holds for all; see `stated.py`."""
    seconds: float

    @property
    def worse_on(self) -> list[str]:
        """The sets on which it is worse than the best checkpoint, beyond its interval."""
        return [name for name, each in self.on_sets.items() if each.gain.high < 0]

    @property
    def score(self) -> Score:
        return Score(
            method=self.method,
            label=self.choice.label,
            select=self.judged.select.scores(),
            fit=self.judged.fit.scores(),
            gain=self.gain.value,
            gain_low=self.gain.low,
            gain_high=self.gain.high,
            sets={
                name: SetScore(
                    select=each.known.scores(),
                    gain=each.gain.value,
                    gain_low=each.gain.low,
                    gain_high=each.gain.high,
                )
                for name, each in self.on_sets.items()
            },
        )


@dataclass(frozen=True, kw_only=True)
class OnSet:
    """What a candidate is worth on the select split of one validation set."""

    known: Evaluation
    gain: Gain
    single: Gain | None = None
    """As a candidate's."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a method chose, not judged yet."""

    method: str
    choice: Choice
    seconds: float


def run_methods(context: MethodContext, after_each: Callable[[], None]) -> list[Candidate]:
    """Collective, as `after_each` may be: one candidate per method, `best` first.

    With several methods to try, one that cannot be had (`LEFT_OUT`) is left out with a warning; alone, it raises
    `MethodError`. Those that can only be judged from the files are judged last, all of them from one reading.
    """
    candidates: list[Candidate] = []
    waiting: list[Chosen] = []

    def judge(chosen: Chosen) -> None:
        with leaving_out(context, chosen.method):
            candidates.append(_judged(context, chosen, candidates[0] if candidates else None))
            after_each()
            context.on_event(CandidateScored(score=candidates[-1].score))

    for method in context.plan.methods:
        started = time.monotonic()
        with leaving_out(context, method):
            choice = run_once(context, method)
            chosen = Chosen(method=method, choice=choice, seconds=time.monotonic() - started)
            if context.judges_from_files:
                waiting.append(chosen)
            else:
                judge(chosen)
    if waiting:
        with context.reading_together([chosen.choice.coefficients for chosen in waiting]):
            for chosen in waiting:
                judge(chosen)
    return sorted(candidates, key=lambda candidate: context.plan.methods.index(candidate.method))


@contextmanager
def leaving_out(context: MethodContext, method: str) -> Iterator[None]:
    """Among several methods, turns an error that says something about this one alone into a warning."""
    try:
        yield
    except MethodError as error:
        if error.code not in LEFT_OUT or len(context.plan.methods) <= 2:
            raise
        context.on_event(Warned(message=f"Method `{method}` was left out. {error.message}"))


def winner_of(candidates: list[Candidate], context: MethodContext, *, no_set_worse: bool = False) -> Candidate:
    """The best on the select split, never worse there than the best checkpoint: see `pick_winner`.

    With `no_set_worse`, of those that are worse on no set: `best` always is one. Warns of what is lost on some set, or
    for the sake of it.
    """
    best_of_all = _best(candidates, context)
    winner = _best([each for each in candidates if not each.worse_on], context) if no_set_worse else best_of_all
    if winner is not best_of_all:
        told = f"Method `{best_of_all.method}` was not chosen, although it is the best by what judges."
        context.on_event(Warned(message=f"{told} {_worse(best_of_all, context.metric)}"))
    elif winner.worse_on:
        told = "With `no_set_worse=` such a method is not chosen."
        context.on_event(Warned(message=f"{_worse(winner, context.metric)} {told}"))
    return winner


def _best(candidates: list[Candidate], context: MethodContext) -> Candidate:
    return candidates[pick_winner([each.judged.select for each in candidates], context.metric, context.seed)]


def _worse(candidate: Candidate, metric: Metric) -> str:
    """In words, on which sets and by how much."""
    by = ", ".join(f"`{name}` ({candidate.on_sets[name].gain.value:.4f})" for name in candidate.worse_on)
    return (
        f"On some validation sets the {metric.name} of method `{candidate.method}` is worse than that of the best "
        f"checkpoint, beyond the 95 % interval: {by}."
    )


def _judged(context: MethodContext, chosen: Chosen, best: Candidate | None) -> Candidate:
    """Raises `MethodError` (non-finite-loss)."""
    started = time.monotonic()
    context.on_event(StageStarted(stage="select", method=chosen.method))
    judged = context.judge(chosen.choice.coefficients)
    others = ((f"select/{name}", known) for name, known in judged.others.items())
    for split, known in (("select", judged.select), ("fit", judged.fit), *others):
        if not known.is_finite:
            raise MethodError(
                "non-finite-loss",
                f"The loss of method `{chosen.method}` must be finite on the validation set, but is "
                f"{known.loss} on the {split} split.",
            )
    bar = judged if best is None else best.judged
    return Candidate(
        method=chosen.method,
        choice=chosen.choice,
        judged=judged,
        gain=gain_over(judged.select, bar.select, context.metric, context.seed),
        on_sets=_on_sets(judged, bar, context),
        seconds=chosen.seconds + time.monotonic() - started,
    )


def _on_sets(judged: Judged, bar: Judged, context: MethodContext) -> dict[str, OnSet]:
    own, best = (context.named_sets.by_name(each.select, each.others) for each in (judged, bar))
    return {
        name: OnSet(known=known, gain=gain_over(known, best[name], context.metric, context.seed))
        for name, known in own.items()
    }
