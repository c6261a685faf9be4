"""`alpha`, K x G: one weight per checkpoint and group. Every method ends in one; every model comes from one.

K checkpoints, G groups; T draws of M random directions, for the one method that has such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ladle_engine.random_signs import random_signs

SIGNS_AT_ONCE = 1 << 20
"""Elements whose random signs are made together, to bound memory."""

SUM_TOLERANCE = 1e-6
"""Weights whose sum is this close to 1 make an average."""


@dataclass(frozen=True, kw_only=True)
class RandomPart:
    """`sum over draws t and rows m of weights[t, m, g] * signs(seed, t, m)`; see `random_signs`."""

    seed: int
    weights_TMG: Tensor
    """float64: T draws of M rows, for G groups."""

    def add_to(self, out: Tensor, name: str, start: int, group: int) -> None:
        """Adds to the flat elements of one tensor from `start` on, in the order of draws and rows."""
        for first in range(0, len(out), SIGNS_AT_ONCE):
            part = out[first : first + SIGNS_AT_ONCE]
            for draw, weights_M in enumerate(self.weights_TMG[:, :, group].tolist()):
                for row, weight in enumerate(weights_M):
                    if weight != 0.0:
                        signs = random_signs(self.seed, draw, row, name, start + first, len(part))
                        part.add_(signs.to(part), alpha=weight)

    def to_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "weights": self.weights_TMG.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RandomPart:
        return cls(seed=data["seed"], weights_TMG=torch.tensor(data["weights"], dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The model is `sum_i alpha[i, g] * w_i` for the tensors of each group g."""

    checkpoints: tuple[str, ...]
    """Names of the K checkpoints, in order."""
    groups: tuple[str, ...]
    """Names of the G groups."""
    group_of: Mapping[str, int]
    """Tensor name -> group index, for every floating tensor of a checkpoint, buffers included."""
    alpha_KG: Tensor
    """float64, each column sums to 1 (unless the user's own do not); entries may be negative."""
    random: RandomPart | None = None
    """What random directions add to the sum; None for all methods but `random`."""
    base: bool = False
    """Whether the first row is that of the checkpoints' ancestor, which is not one of them."""

    def __post_init__(self) -> None:
        assert self.alpha_KG.shape == (len(self.checkpoints), len(self.groups))
        assert self.alpha_KG.dtype == torch.float64

    def of(self, tensor_name: str) -> Tensor:
        """float64 [K]: the weights of one tensor."""
        return self.alpha_KG[:, self.group_of[tensor_name]]

    @property
    def own_names(self) -> tuple[str, ...]:
        """Without the base's."""
        return self.checkpoints[1:] if self.base else self.checkpoints

    @property
    def own_KG(self) -> Tensor:
        """Without the base's row."""
        return self.alpha_KG[1:] if self.base else self.alpha_KG

    @property
    def base_G(self) -> Tensor | None:
        """The base's weights, where it has a row."""
        return self.alpha_KG[0] if self.base else None

    def single(self) -> int | None:
        """The index of the only checkpoint that takes part, if the model is that checkpoint itself."""
        first = int(self.alpha_KG[:, 0].argmax())
        only = torch.zeros_like(self.alpha_KG)
        only[first] = 1.0
        return first if self.random is None and torch.equal(only, self.alpha_KG) else None

    @cached_property
    def digest(self) -> str:
        """Equal for equal coefficients of the same checkpoints: names what is known of the model."""
        single = self.single()
        if single is not None:
            return "single-base" if self.base and single == 0 else f"single-{single - self.base}"
        layout = json.dumps([self.groups, sorted(self.group_of.items())]).encode()
        layout += json.dumps(self.random.to_json() if self.random else None).encode()
        return hashlib.sha256(layout + self.alpha_KG.contiguous().numpy().tobytes()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoints": list(self.checkpoints),
            "groups": list(self.groups),
            "group_of": dict(self.group_of),
            "alpha": self.alpha_KG.tolist(),
            **({"random": self.random.to_json()} if self.random else {}),
            **({"base": True} if self.base else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coefficients:
        """float64 survives JSON exactly: Python writes the shortest text that reads back as the same number."""
        return cls(
            checkpoints=tuple(data["checkpoints"]),
            groups=tuple(data["groups"]),
            group_of=dict(data["group_of"]),
            alpha_KG=torch.tensor(data["alpha"], dtype=torch.float64),
            random=RandomPart.from_json(data["random"]) if data.get("random") else None,
            base=data.get("base") is True,
        )

    @classmethod
    def whole_model(
        cls, checkpoints: Sequence[str], tensor_names: Sequence[str], alpha_K: Sequence[float] | Tensor
    ) -> Coefficients:
        """One weight per checkpoint for all tensors."""
        column = torch.as_tensor(alpha_K, dtype=torch.float64).reshape(-1, 1)
        return cls(
            checkpoints=tuple(checkpoints),
            groups=("model",),
            group_of=dict.fromkeys(tensor_names, 0),
            alpha_KG=column,
        )
