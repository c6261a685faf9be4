"""Runs the planned methods one after the other and judges what each chose."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ladle_engine.errors import MethodError
from ladle_engine.evaluation.gain import Gain, gain_over, pick
from ladle_engine.methods import run_once
from ladle_engine.methods.context import Choice, Judged, MethodContext
from ladle_engine.progress import CandidateScored, Score, StageStarted, Warned

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
    seconds: float

    @property
    def score(self) -> Score:
        return Score(
            method=self.method,
            label=self.choice.label,
            select=self.judged.select.means(),
            fit=self.judged.fit.means(),
            gain=self.gain.value,
            gain_low=self.gain.low,
            gain_high=self.gain.high,
        )


def run_methods(context: MethodContext) -> list[Candidate]:
    """Collective: one candidate a method, `best` first.

    With several methods to try, one that cannot be had (`LEFT_OUT`) is left out with a warning; alone, it raises
    `MethodError`.
    """
    candidates: list[Candidate] = []
    for method in context.plan.methods:
        started = time.monotonic()
        try:
            choice = run_once(context, method)
            context.on_event(StageStarted(stage="select", method=method))
            judged = _judge(context, method, choice)
        except MethodError as error:
            if error.code not in LEFT_OUT or len(context.plan.methods) <= 2:
                raise
            context.on_event(Warned(message=f"Method `{method}` was left out. {error.message}"))
            continue
        bar = candidates[0].judged if candidates else judged
        candidate = Candidate(
            method=method,
            choice=choice,
            judged=judged,
            gain=gain_over(judged.select, bar.select, context.metric),
            seconds=time.monotonic() - started,
        )
        candidates.append(candidate)
        context.on_event(CandidateScored(score=candidate.score))
    return candidates


def winner_of(candidates: list[Candidate], context: MethodContext) -> Candidate:
    """The best on the select split. `best` is among the candidates, so it is never worse than the best checkpoint."""
    return candidates[pick([candidate.judged.select for candidate in candidates], context.metric)]


def _judge(context: MethodContext, method: str, choice: Choice) -> Judged:
    judged = context.judge(choice.coefficients)
    for split, known in (("select", judged.select), ("fit", judged.fit)):
        if not known.is_finite:
            raise MethodError(
                "non-finite-loss",
                f"The loss of method `{method}` must be finite on the validation set, but is {known.means()['loss']} "
                f"on the {split} split.",
            )
    return judged
