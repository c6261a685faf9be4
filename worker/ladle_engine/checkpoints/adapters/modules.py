"""Which tensors of an adapter are the two factors of which layer, and what is beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ladle_engine.checkpoints.adapters.config import PREFIX, AdapterConfig
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError

PAIRS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
"""How the names of the first factor end -> how those of the second do."""
BIAS = ".lora_B.bias"
"""Scaled as `B A` is, and added beside it."""
OTHERS = (BIAS, ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
"""Further names with `lora_` in them that are averaged as they are; the last two are DoRA's."""


@dataclass(frozen=True, kw_only=True)
class Module:
    """One layer's factors: `A` of [rank, inputs ...] and `B` of [outputs, rank, 1 ...]."""

    a: str
    """Names of the tensors."""
    b: str
    bias: str
    """Its name, whether there is one or not."""
    a_info: TensorInfo
    b_info: TensorInfo
    scale: float

    @property
    def rank(self) -> int:
        return self.a_info.shape[0]

    @property
    def num_inputs(self) -> int:
        return math.prod(self.a_info.shape[1:])

    @property
    def num_outputs(self) -> int:
        return self.b_info.shape[0]

    def a_shape(self, rank: int) -> tuple[int, ...]:
        """That of the first factor of another rank."""
        return (rank, *self.a_info.shape[1:])

    def b_shape(self, rank: int) -> tuple[int, ...]:
        return (self.num_outputs, rank, *self.b_info.shape[2:])


def modules_of(path: Path, config: AdapterConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, Module]:
    """By the layer's name, with `PREFIX`. Raises `CheckpointError` where names, shapes and config do not agree."""
    found: dict[str, Module] = {}
    for a_name, info in tensors.items():
        ending = next((each for each in PAIRS if a_name.endswith(each)), None)
        if ending is None:
            continue
        layer = a_name.removesuffix(ending)
        b_name = layer + PAIRS[ending]
        if b_name not in tensors:
            raise _corrupt(path, f"must hold both factors of each layer, but has `{a_name}` and no `{b_name}`")
        found[layer] = _module(path, config, layer, (a_name, info), (b_name, tensors[b_name]))
    if not found:
        raise _corrupt(path, "must hold factors of LoRA (`lora_A`, `lora_B`), but has none")
    known = {name for module in found.values() for name in (module.a, module.b)}
    strange = [name for name in tensors if ".lora_" in name and name not in known and not name.endswith(OTHERS)]
    if strange:
        raise CheckpointError(
            "unsupported-tensors",
            f"An adapter of LoRA must hold only `lora_A`, `lora_B` and whole tensors, but `{path}` has `{strange[0]}`.",
        )
    return found


def without_ranks(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The same for adapters of the same layers, whatever their ranks: 0 stands in the place of these."""
    found = dict(tensors)
    for name, info in tensors.items():
        for a_ending, b_ending in PAIRS.items():
            if name.endswith(a_ending):
                found[name] = replace(info, shape=(0, *info.shape[1:]))
            elif name.endswith(b_ending):
                found[name] = replace(info, shape=(*info.shape[:1], 0, *info.shape[2:]))
    return found


def _module(
    path: Path, config: AdapterConfig, layer: str, a: tuple[str, TensorInfo], b: tuple[str, TensorInfo]
) -> Module:
    (a_name, a_info), (b_name, b_info) = a, b
    inner = layer.removeprefix(PREFIX)
    told = config.rank_of(inner)
    if len(a_info.shape) < 2 or len(b_info.shape) < 2 or not (a_info.is_floating and b_info.is_floating):
        raise _corrupt(path, f"must have matrices of floating-point numbers as factors, but not of `{layer}`")
    if a_info.shape[0] != told:
        raise _corrupt(
            path, f"has `{a_name}` of rank {a_info.shape[0]}, but `{config.path.name}` says that its rank is {told}"
        )
    if b_info.shape[1] != told or math.prod(b_info.shape[2:]) != 1:
        # Of a grouped convolution, too, B has less than the rank.
        raise _corrupt(path, f"has `{b_name}` of shape {b_info.shape}, which must be [outputs, {told}]")
    return Module(a=a_name, b=b_name, bias=layer + BIAS, a_info=a_info, b_info=b_info, scale=config.scale_of(inner))


def _corrupt(path: Path, what: str) -> CheckpointError:
    return CheckpointError("corrupt-checkpoint", f"The adapter file `{path}` {what}.")
