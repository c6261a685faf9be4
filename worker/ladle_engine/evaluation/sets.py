"""Validation sets with names: which of them judge, and what a model is worth on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ladle_engine.evaluation.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class NamedSets:
    """The validation sets of a job; none where the only one has no name."""

    names: tuple[str, ...] = ()
    """All, as they were given."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Those that judge, in the same order, and how much each counts; they sum to 1."""

    def by_name(self, judging: Evaluation, others: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
        """One model's evaluation on each set, from that on all sets that judge and those on the others."""
        found = {name: part for name, (_, part) in zip(self.weights, judging.sets, strict=False)} | dict(others)
        return {name: found[name] for name in self.names}
