"""Where training begins: at the mean, a checkpoint, what another method chose, or what the fit split picks of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import CONFIDENCE, gain_over
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.model.groups import Groups

CENTRE = "centre"
PICKED = "auto"
"""The fit split picks."""

START_HELP = (
    "where training begins: centre, a checkpoint's name, another method's name, or auto: the fit split picks among the "
    "centre, the best checkpoint and, where the job has them, the greedy soup and the cached outputs"
)

ENOUGH_EXAMPLES = 4096
"""Of the fit split, to tell starts apart."""

SINGLES, SOUP, OUTPUTS = "best", "greedy-soup", "cached-outputs"
"""Methods that contenders come from."""

ONE_WEIGHT = "have one weight for each checkpoint in every group, which finer `groups` may give"


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The start that the fit split has picked."""

    name: str
    coefficients: Coefficients
    losses: dict[str, float]
    """Of every contender, by name."""
    examples: int
    """On which they are."""

    def to_json(self, fell_back: bool) -> dict[str, Any]:
        return {"start": self.name, "fit_loss": self.losses, "examples": self.examples, "fell_back": fell_back}


def start_of(context: MethodContext, method: str, start: str, groups: Groups, *, none_negative: bool = False) -> Tensor:
    """Collective: float64 K x G. `start` is a name that `refuse_bad_starts` lets through."""
    K = len(context.checkpoints.names)
    if start == CENTRE:
        return torch.full((K, len(groups)), 1.0 / K, dtype=torch.float64)
    if start == PICKED:
        return _regroup(method, pick_start(context, none_negative=none_negative).coefficients, groups)
    if start in context.checkpoints.names:
        alpha_KG = torch.zeros(K, len(groups), dtype=torch.float64)
        alpha_KG[context.checkpoints.names.index(start)] = 1.0
        return alpha_KG
    return _regroup(method, context.choice_of(start).coefficients, groups)


def pick_start(context: MethodContext, *, none_negative: bool = False) -> Picked:
    """Collective: the simplest contender whose loss on the fit split is within one standard error of the lowest.

    Some of them were fitted to these very examples, and the more freely the more they flatter themselves there: hence
    the rule of one standard error (Breiman et al. 1984, section 3.4.3), of the paired difference.

    Contenders are what the job has evaluated anyway, and what costs little beside it: that goes by the job's methods,
    and not by what happens to be known, so that a resumed job picks the same.
    """
    contenders = _contenders(context)
    if none_negative:
        contenders = {name: each for name, each in contenders.items() if float(each.alpha_KG.min()) >= 0}
    end = _examples_to_pick_on(context)
    known = {
        name: context.evaluations.first(each, "fit", end, context.loss).first(end) for name, each in contenders.items()
    }
    # Checkpoints whose loss is not finite are refused before: some contender is left.
    known = {name: each for name, each in known.items() if each.is_finite}
    losses = {name: each.loss for name, each in known.items()}
    lowest = known[min(losses, key=lambda each: losses[each])]
    name = next(name for name, each in known.items() if _is_as_good(each, lowest, context))
    return Picked(name=name, coefficients=contenders[name], losses=losses, examples=end)


def _is_as_good(known: Evaluation, lowest: Evaluation, context: MethodContext) -> bool:
    """Whether a loss is within one standard error of the lowest."""
    if known is lowest:
        return True
    difference = gain_over(known, lowest, context.loss, context.seed)
    error = (difference.high - difference.low) / 2 / NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    return -difference.value <= error


def never_below_start(context: MethodContext, start: str, choice: Choice, *, none_negative: bool = False) -> Choice:
    """Collective: what was trained from a picked start or, where its loss on the fit split is higher, the start itself;
    and the report's words about it. As it is with any other start."""
    if start != PICKED:
        return choice
    picked = pick_start(context, none_negative=none_negative)
    known = context.evaluations.first(choice.coefficients, "fit", picked.examples, context.loss).first(picked.examples)
    if known.is_finite and known.loss <= picked.losses[picked.name]:
        return replace(choice, details=picked.to_json(fell_back=False))
    return replace(choice, coefficients=picked.coefficients, details=picked.to_json(fell_back=True))


def bad_start(method: str, rule: str, value: str, hint: str = "") -> MethodError:
    return MethodError("invalid-method-options", f"`start` of method `{method}` must {rule}, but is {value}.{hint}")


def _contenders(context: MethodContext) -> dict[str, Coefficients]:
    """By name, the simpler first."""
    K = len(context.checkpoints.names)
    runs = context.plan.with_starts
    found = {
        CENTRE: context.coefficients([1.0 / K] * K),
        SINGLES: context.choice_of(SINGLES).coefficients,
    }
    if SOUP in runs:
        found[SOUP] = context.choice_of(SOUP).coefficients
    if OUTPUTS in runs or (SOUP in runs and _keeps_outputs(context)):
        found[OUTPUTS] = context.choice_of(OUTPUTS).coefficients
    return found


def _keeps_outputs(context: MethodContext) -> bool:
    if context.evaluations.kept is None:
        return False
    return context.evaluations.keep_outputs(context.one_checkpoint(0), context.loss) > 0


def _examples_to_pick_on(context: MethodContext) -> int:
    """Up to the end of a round: a random sample."""
    rounds = context.evaluations.rounds["fit"]
    return max((end for end in rounds if end <= ENOUGH_EXAMPLES), default=rounds[0])


def _regroup(method: str, coefficients: Coefficients, groups: Groups) -> Tensor:
    """The same weights, a column for each of `groups`."""
    columns: list[Tensor | None] = [None] * len(groups)
    for name, group in groups.of.items():
        column_K = coefficients.of(name)
        known_K = columns[group]
        if known_K is not None and not torch.equal(known_K, column_K):
            raise bad_start(method, ONE_WEIGHT, f"one with several in the group `{groups.names[group]}`")
        columns[group] = column_K
    return torch.stack([column_K for column_K in columns if column_K is not None], dim=1)
