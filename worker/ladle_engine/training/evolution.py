"""CMA-ES: a normal distribution over points that moves to where points rank best, and learns its shape on the way.

Hansen 2016, The CMA Evolution Strategy: A Tutorial, figure 6; the arithmetic is that of the library `cmaes`.

N numbers, P points of a generation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle_engine.distributed.collectives import Collectives


def usual_population(numbers: int) -> int:
    """How many points a generation has (eq. 48)."""
    return 4 + math.floor(3 * math.log(numbers))


class Evolution:
    """All ranks see the same points: rank 0's, since the last bits of a decomposition are a machine's own."""

    def __init__(self, numbers: int, sigma: float, population: int, seed: int, collectives: Collectives) -> None:
        """The distribution begins at the origin, `sigma` wide in each direction."""
        # What it takes along for its other algorithms (scipy) is slow to import.
        from cmaes import CMA

        self._cma = CMA(mean=np.zeros(numbers), sigma=sigma, population_size=population)
        self._seed = seed
        self._collectives = collectives

    @property
    def generation(self) -> int:
        """How many are behind it."""
        return int(self._cma.generation)

    @property
    def mean(self) -> Tensor:
        """Collective: float64 [N], the distribution's."""
        return self._of_rank_0(self._cma.mean)

    def ask(self) -> Tensor:
        """Collective: float64 [P, N]. Each generation is drawn by a seed of its own, so no generator has to be kept."""
        self._cma.reseed_rng(np.random.SeedSequence([self._seed, self.generation]).generate_state(1)[0])
        return self._of_rank_0(np.stack([self._cma.ask() for _ in range(self._cma.population_size)]))

    def tell(self, points_PN: Tensor, order: Sequence[int]) -> None:
        """`order` is that of the points, the best first. CMA-ES goes by ranks, whatever the values."""
        points = points_PN.numpy()
        self._cma.tell([(points[index], float(rank)) for rank, index in enumerate(order)])
        # What is saved is half of a matrix whose halves may differ by a rounding: all go on from that half.
        self.resume(self.state())

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain numbers and tensors: the mean, the paths and the covariance matrix."""
        return {name: _plain(value) for name, value in self._cma.__getstate__().items()}

    def resume(self, state: Mapping[str, Any]) -> None:
        arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in state.items()}
        self._cma.__setstate__(arrays)

    def _of_rank_0(self, values: np.ndarray) -> Tensor:
        content = bytearray(self._collectives.broadcast(np.ascontiguousarray(values, dtype=np.float64).tobytes()))
        return torch.frombuffer(content, dtype=torch.float64).view(values.shape).clone()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value
