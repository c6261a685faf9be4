"""Centre, directions and their geometry (paper, section 4.1).

Shape suffixes: K checkpoints, G groups, T parameter tensors, P elements of one tensor, C elements of one chunk.

The optimiser moves `u`, K x G, in units of the directions' lengths: `w = c + sum_i u_i (w_i - c)`. With the paper's
unit directions `e_i` and lengths `d_i` this is `beta_i = u_i d_i` (eq. 4), so one learning rate serves every model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ladle_engine.binding import Binding
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.groups import Groups
from ladle_engine.progress import Pace, ProgressCallback

CHUNK_ELEMENTS = 1 << 20
"""How many elements of a tensor are handled at once, for each checkpoint."""

RELATIVE_LENGTH_THRESHOLD = 1e-6
"""A direction shorter than this share of the centre's norm is rounding noise (float32 resolves 6e-8) and is dropped:
normalised to unit length it would move a frozen tensor by that noise."""

DUPLICATE = 1e-7
"""Two checkpoints closer than this share of the largest distance are one: distances are differences of squares."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Inner products of the directions, tensor by tensor, in float64."""

    names: tuple[str, ...]
    """The T parameter tensors."""
    gram_TKK: Tensor
    """`(w_i - c)^T (w_j - c)`."""
    centre_squared_T: Tensor
    """`|c|^2`."""

    def gram_GKK(self, groups: Groups) -> Tensor:
        return _sum_by_group(self.gram_TKK, self.names, groups)

    def lengths_KG(self, groups: Groups) -> Tensor:
        """`d_i = |w_i - c|`."""
        return self.gram_GKK(groups).diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().T

    def live_KG(self, groups: Groups) -> Tensor:
        """bool: the directions that are kept; see `RELATIVE_LENGTH_THRESHOLD`."""
        centre_G = _sum_by_group(self.centre_squared_T, self.names, groups).sqrt()
        lengths_KG = self.lengths_KG(groups)
        # A group whose centre is zero (a fresh bias) is judged by its own longest direction.
        scale_G = torch.maximum(centre_G, lengths_KG.amax(dim=0))
        return lengths_KG > RELATIVE_LENGTH_THRESHOLD * scale_G

    def distances_KK(self) -> Tensor:
        """`|w_i - w_j|` over the whole model."""
        gram_KK = self.gram_TKK.sum(dim=0)
        squared_K = gram_KK.diagonal()
        return (squared_K[:, None] + squared_K[None, :] - 2 * gram_KK).clamp(min=0).sqrt()

    def duplicates(self) -> list[tuple[int, int]]:
        """Pairs of checkpoints whose parameters are the same up to rounding."""
        distances_KK = self.distances_KK()
        same_KK = distances_KK <= DUPLICATE * distances_KK.max()
        return [(i, j) for i, j in same_KK.triu(diagonal=1).nonzero().tolist()]

    def cosines_KK(self) -> Tensor:
        """Cosines between the directions over the whole model; 0 where one is degenerate."""
        gram_KK = self.gram_TKK.sum(dim=0)
        lengths_K = gram_KK.diagonal().clamp(min=0).sqrt()
        product_KK = lengths_K[:, None] * lengths_K[None, :]
        return torch.where(product_KK > 0, gram_KK / product_KK.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def _sum_by_group(values_T: Tensor, names: tuple[str, ...], groups: Groups) -> Tensor:
    index_T = torch.tensor([groups.of[name] for name in names])
    return values_T.new_zeros((len(groups), *values_T.shape[1:])).index_add_(0, index_T, values_T)


def measure(checkpoints: CheckpointSet, binding: Binding, tell: ProgressCallback) -> Geometry:
    """One pass over all files; memory is K x CHUNK_ELEMENTS float64 numbers."""
    names = tuple(binding.parameters)
    K = len(checkpoints.checkpoints)
    gram_TKK = torch.zeros(len(names), K, K, dtype=torch.float64)
    centre_squared_T = torch.zeros(len(names), dtype=torch.float64)
    pace = Pace(tell, "measure", len(names))
    with open_all(checkpoints) as readers:
        for t, name in enumerate(names):
            for _, weights_KC in read_chunks(readers, name, torch.float64):
                centre_C = weights_KC.mean(dim=0)
                directions_KC = weights_KC.sub_(centre_C)
                gram_TKK[t] += directions_KC @ directions_KC.T
                centre_squared_T[t] += centre_C @ centre_C
            pace.step(t + 1)
    return Geometry(names=names, gram_TKK=gram_TKK, centre_squared_T=centre_squared_T)


class OpenCheckpoints:
    """All K checkpoints open at once; what the formats allow is memory-mapped, so this costs no memory."""

    def __init__(self, checkpoints: CheckpointSet) -> None:
        self._stack = ExitStack()
        self.readers: list[TensorReader] = []
        with ExitStack() as stack:
            for checkpoint in checkpoints.checkpoints:
                self.readers.append(stack.enter_context(open_checkpoint(checkpoint)))
            self._stack = stack.pop_all()

    def __enter__(self) -> list[TensorReader]:
        return self.readers

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()


def open_all(checkpoints: CheckpointSet) -> OpenCheckpoints:
    return OpenCheckpoints(checkpoints)


def read_chunks(readers: list[TensorReader], name: str, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yields `(elements, weights_KC)`: the same flat range of one tensor from every checkpoint, converted."""
    flat = [reader.read(name).reshape(-1) for reader in readers]
    for start in range(0, len(flat[0]), CHUNK_ELEMENTS):
        elements = slice(start, min(start + CHUNK_ELEMENTS, len(flat[0])))
        yield elements, torch.stack([weights[elements].to(dtype) for weights in flat])


class Directions(Protocol):
    """Where the directions are kept while coefficients are trained; see DESIGN's precision tiers."""

    def place(self, u_KG: Tensor, groups: Groups) -> None:
        """Writes `c + sum_i u_i (w_i - c)` into the model's parameters."""
        ...

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """float64 [K]: `(w_i - c)^T g` for one parameter (eq. 6, times `d_i`)."""
        ...

    def close(self) -> None: ...


class ResidentDirections:
    """All directions in memory, on the model's device, as float32 or bfloat16."""

    def __init__(self, checkpoints: CheckpointSet, binding: Binding, dtype: torch.dtype) -> None:
        self._parameters = binding.parameters
        self._centre: dict[str, Tensor] = {}
        self._directions_KP: dict[str, Tensor] = {}
        K = len(checkpoints.checkpoints)
        with open_all(checkpoints) as readers:
            for name, parameter in binding.parameters.items():
                centre = torch.empty(parameter.numel(), dtype=torch.float32, device=parameter.device)
                directions_KP = torch.empty(K, parameter.numel(), dtype=dtype, device=parameter.device)
                for elements, weights_KC in read_chunks(readers, name, torch.float64):
                    centre_C = weights_KC.mean(dim=0)
                    centre[elements] = centre_C.to(centre)
                    directions_KP[:, elements] = weights_KC.sub_(centre_C).to(directions_KP)
                self._centre[name] = centre
                self._directions_KP[name] = directions_KP

    @torch.no_grad()
    def place(self, u_KG: Tensor, groups: Groups) -> None:
        for name, parameter in self._parameters.items():
            directions_KP = self._directions_KP[name]
            u_K = u_KG[:, groups.of[name]].to(device=directions_KP.device, dtype=torch.float32)
            moved_P = _combine(directions_KP, u_K).add_(self._centre[name])
            parameter.copy_(moved_P.view_as(parameter))

    @torch.no_grad()
    def project(self, name: str, gradient: Tensor) -> Tensor:
        directions_KP = self._directions_KP[name]
        gradient_P = gradient.reshape(-1).to(torch.float32)
        if directions_KP.dtype is torch.float32:
            return (directions_KP @ gradient_P).to(device="cpu", dtype=torch.float64)
        projected_K = gradient_P.new_zeros(len(directions_KP))
        for start in range(0, len(gradient_P), CHUNK_ELEMENTS):
            elements = slice(start, start + CHUNK_ELEMENTS)
            projected_K += directions_KP[:, elements].float() @ gradient_P[elements]
        return projected_K.to(device="cpu", dtype=torch.float64)

    def close(self) -> None:
        self._directions_KP.clear()
        self._centre.clear()


def _combine(directions_KP: Tensor, u_K: Tensor) -> Tensor:
    """float32 [P]: `sum_i u_i (w_i - c)`, without a float32 copy of low-precision directions."""
    if directions_KP.dtype is torch.float32:
        return u_K @ directions_KP
    combined_P = torch.empty(directions_KP.shape[1], dtype=torch.float32, device=directions_KP.device)
    for start in range(0, len(combined_P), CHUNK_ELEMENTS):
        elements = slice(start, start + CHUNK_ELEMENTS)
        combined_P[elements] = u_K @ directions_KP[:, elements].float()
    return combined_P


class StreamedDirections:
    """Nothing resident: every step reads the memory-mapped files again. Slower, and fits where nothing else does."""

    def __init__(self, checkpoints: CheckpointSet, binding: Binding) -> None:
        self._open = open_all(checkpoints)
        self._parameters = binding.parameters

    @torch.no_grad()
    def place(self, u_KG: Tensor, groups: Groups) -> None:
        for name, parameter in self._parameters.items():
            u_K = u_KG[:, groups.of[name]].to(torch.float32)
            # `c + sum u_i (w_i - c)`, so that the rounding is that of the short directions and not of the weights.
            moved_P = torch.empty(parameter.numel())
            for elements, weights_KC in read_chunks(self._open.readers, name, torch.float32):
                centre_C = weights_KC.mean(dim=0)
                moved_P[elements] = (u_K @ weights_KC.sub_(centre_C)).add_(centre_C)
            parameter.copy_(moved_P.view_as(parameter))

    @torch.no_grad()
    def project(self, name: str, gradient: Tensor) -> Tensor:
        gradient_P = gradient.reshape(-1).to(device="cpu", dtype=torch.float32)
        projected_K = torch.zeros(len(self._open.readers), dtype=torch.float64)
        for elements, weights_KC in read_chunks(self._open.readers, name, torch.float32):
            directions_KC = weights_KC.sub_(weights_KC.mean(dim=0))
            projected_K += (directions_KC @ gradient_P[elements]).to(torch.float64)
        return projected_K

    def close(self) -> None:
        self._open.close()


def open_directions(storage: str, checkpoints: CheckpointSet, binding: Binding) -> Directions:
    """`storage` is `float32`, `bfloat16` or `streamed`."""
    if storage == "streamed":
        return StreamedDirections(checkpoints, binding)
    dtypes: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return ResidentDirections(checkpoints, binding, dtypes[storage])


def alpha_from_u(u_KG: Tensor) -> Tensor:
    """float64 K x G: the coefficients of the checkpoints, `alpha_i = u_i + (1 - sum_j u_j) / K`.

    This is DESIGN section 3's `beta_i/d_i + (1 - S)/K` with `u_i = beta_i/d_i`.
    """
    u_KG = u_KG.to(torch.float64)
    return u_KG + (1.0 - u_KG.sum(dim=0, keepdim=True)) / len(u_KG)
