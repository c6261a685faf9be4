"""The forecast of a job: what averaging was expected to bring, from what was known of the single checkpoints alone."""

from __future__ import annotations

from typing import Any

from ladle_engine.methods.context import MethodContext
from ladle_engine.subspace.forecast import Seen, forecast


def forecast_of(context: MethodContext) -> dict[str, Any] | None:
    """The entry `forecast` of the report, the same on every rank; None where nothing can be told."""
    return forecast(seen_in(context))


def seen_in(context: MethodContext) -> Seen:
    """What a job knows before it makes an average. Losses are those of the fit split where all checkpoints were
    evaluated on it, as the greedy soup does, else those of the first round of the race on the select split."""
    return Seen(
        distances_KK=context.geometry.distances_KK(),
        centre_norm=float(context.geometry.centre_squared_T.sum().sqrt()),
        steps=[checkpoint.step for checkpoint in context.checkpoints.checkpoints],
        losses=_losses(context, "fit", context.evaluations.size("fit"))
        or _losses(context, "select", context.evaluations.rounds["select"][0]),
    )


def _losses(context: MethodContext, split: str, count: int) -> list[float] | None:
    """On the first `count` examples; None where one is not known on so many."""
    singles = [context.one_checkpoint(index) for index in range(len(context.checkpoints.names))]
    known = [context.evaluations.known(single, split, context.loss) for single in singles]
    losses = [each.first(count).loss for each in known if each is not None and len(each) >= count > 0]
    return losses if len(losses) == len(singles) else None
