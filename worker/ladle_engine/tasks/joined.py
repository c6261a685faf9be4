"""Several data sets as one, and which of them each example is of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.tasks.base import Batch, DataSet


@dataclass(frozen=True, kw_only=True)
class Strata:
    """Which of several sets each of N examples is of, and how much each set counts, however many examples it has."""

    weights: tuple[float, ...]
    """Per set; they sum to 1."""
    of: Tensor
    """int64 [N]: the number of the set."""

    def first(self, count: int) -> Strata:
        return Strata(weights=self.weights, of=self.of[:count])

    def and_then(self, more: Strata) -> Strata:
        return Strata(weights=self.weights, of=torch.cat([self.of, more.of]))

    def positions(self) -> list[Tensor]:
        """Of each set's examples among the N; empty for a set without any here."""
        return [(self.of == number).nonzero().view(-1) for number in range(len(self.weights))]


class JoinedData:
    """Data sets one after the other, by name."""

    def __init__(self, sets: Mapping[str, DataSet], weights: Mapping[str, float]) -> None:
        self.weights = tuple(weights[name] for name in sets)
        self._names = tuple(sets)
        self._ends = torch.tensor(list(itertools.accumulate(len(data) for data in sets.values())))
        self.sets = tuple(zip(sets.values(), [0, *self._ends[:-1].tolist()], strict=True))
        """Each with the index of its first example."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    def strata(self, indices: Tensor) -> Strata:
        return Strata(weights=self.weights, of=torch.bucketize(indices, self._ends, right=True))

    def batch(self, indices: Tensor) -> Batch:
        """Raises `DataError` (invalid-data) for examples of several sets that do not go into one batch."""
        parts = [
            (positions, data.batch(indices[positions] - start))
            for (data, start), positions in zip(self.sets, self.strata(indices).positions(), strict=True)
            if len(positions)
        ]
        if len(parts) == 1:
            return parts[0][1]
        kinds = [{name: (tensor.dtype, tensor.shape[1:]) for name, tensor in batch.items()} for _, batch in parts]
        if any(kind != kinds[0] for kind in kinds):
            raise DataError(
                "invalid-data",
                f"The examples of all validation sets that judge must have the same names, types and shapes, because "
                f"the model has BatchNorm, but those of {' and '.join(f'`{name}`' for name in self._names)} have not. "
                f"Let one set judge with `judge_by=`.",
            )
        order = torch.cat([positions for positions, _ in parts]).argsort()
        return {name: torch.cat([batch[name] for _, batch in parts])[order] for name in kinds[0]}
