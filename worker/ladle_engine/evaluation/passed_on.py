"""What is known of a model, as one job leaves it to another: see `pipeline/along/earlier.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.cache import GENERATED, Evaluations


@dataclass(frozen=True, kw_only=True)
class PassedOn:
    """Of one model."""

    on: Mapping[str, Mapping[str, Tensor]]
    """Split, as `Evaluations` calls it -> statistic -> float64 [N] or [N, S], of the split's first N examples."""
    statistics: Mapping[str, Tensor] | None
    """Those that were made for it; None where they are not kept."""


def passed_on(evaluations: Evaluations, coefficients: Coefficients) -> PassedOn:
    """What is known of it now."""
    known = evaluations._record(coefficients)
    return PassedOn(
        on={split: evaluation.values for split, evaluation in known.on.items()}, statistics=known.statistics
    )


def take_up(evaluations: Evaluations, coefficients: Coefficients, passed: PassedOn) -> bool:
    """Makes it known, and says whether any of it was not.

    Whoever calls it answers for its being the same model on the same examples. Raises `ValueError` for what cannot be.
    """
    known, is_new = evaluations._record(coefficients), False
    for key, values in passed.on.items():
        lengths = {len(rows) for rows in values.values()}
        split = key.removesuffix(GENERATED)
        if split not in evaluations.rounds or len(lengths) != 1 or max(lengths) > evaluations.size(split):
            raise ValueError(f"it has values of {sorted(lengths)} examples of the {split} split")
        if key not in known.on or len(known.on[key]) < max(lengths):
            known.on[key], is_new = evaluations._evaluation(split, values), True
    if known.statistics is None:
        known.statistics = passed.statistics
    return is_new
