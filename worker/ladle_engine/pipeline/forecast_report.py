"""The forecast of a job: what averaging was expected to bring, from what was known of the single checkpoints alone."""

from __future__ import annotations

from typing import Any

from ladle_engine.methods.context import MethodContext
from ladle_engine.subspace.forecast import Seen, forecast


def forecast_of(context: MethodContext) -> dict[str, Any] | None:
    """The entry `forecast` of the report, the same on every rank; None where nothing can be told."""
    return forecast(seen_in(context))


def seen_in(context: MethodContext) -> Seen:
    """What a job knows before it makes an average. Losses are those of the first round of the race for the best
    checkpoint."""
    singles = [context.one_checkpoint(index) for index in range(len(context.checkpoints.names))]
    count = context.evaluations.rounds["select"][0]
    known = [context.evaluations.known(single, "select", context.loss) for single in singles]
    losses = [each.first(count).loss for each in known if each is not None and len(each) >= count > 0]
    return Seen(
        distances_KK=context.geometry.distances_KK(),
        centre_norm=float(context.geometry.centre_squared_T.sum().sqrt()),
        steps=context.checkpoints.known_steps,
        losses=losses if len(losses) == len(singles) else None,
    )
