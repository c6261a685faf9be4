"""Which examples each step sees."""

from __future__ import annotations

import torch
from torch import Tensor

from ladle_engine.tasks.examples import Examples

FEWEST = 2
"""Examples of each set in a step, because BatchNorm has no use for one."""


class BatchOrder:
    """Which examples each step sees: a function of the seed and the step alone, so that a resumed run sees the same.

    Every pass is a fresh shuffle; the short rest of a pass is left out, so all batches weigh the same. Fewer examples
    than a batch are one batch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self._num_examples = num_examples
        self._batch_size = min(batch_size, num_examples)
        self._seed = seed
        self.per_pass = num_examples // self._batch_size
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """int64 [batch_size]: positions among the examples."""
        number, position = divmod(step, self.per_pass)
        if number != self._pass:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 % 2**63 + number)
            self._order = torch.randperm(self._num_examples, generator=generator)
            self._pass = number
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]


class ExampleOrder:
    """The same for the examples of several sets: every step sees some of each, as many as its weight says.

    A set of which fewer are left than a step takes begins another pass, so sets may be of any size.
    """

    def __init__(self, examples: Examples, seed: int) -> None:
        size = examples.task.batch_size
        self._parts = [
            (positions, BatchOrder(len(positions), max(round(weight * size), min(size, FEWEST)), seed))
            for weight, positions in examples.positions_by_set()
        ]
        self.sizes = tuple(len(order.batch(0)) for _, order in self._parts)
        """How many examples of each set a step sees."""
        self.per_pass = max(order.per_pass for _, order in self._parts)
        """Of the set that takes the longest."""

    def batch(self, step: int) -> Tensor:
        """int64: positions among the examples."""
        return torch.cat([positions[order.batch(step)] for positions, order in self._parts])
