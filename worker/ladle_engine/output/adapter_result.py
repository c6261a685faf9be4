"""A combination of adapters as PEFT loads it: `adapter_model.safetensors` and `adapter_config.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.adapters.config import CONFIG_FILE
from ladle_engine.checkpoints.adapters.modules import Module
from ladle_engine.checkpoints.adapters.reader import AdapterReader
from ladle_engine.checkpoints.adapters.space import DELTA
from ladle_engine.checkpoints.types import AdapterSet, CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError
from ladle_engine.output.adapter_factors import DEFAULT_ERROR, Factored, RankRule, refactor
from ladle_engine.output.folder import SAFETENSORS
from ladle_engine.output.recipe import OUTPUT_DTYPES, Recipe


@dataclass(frozen=True, kw_only=True)
class AdapterOutput:
    """How combinations of adapters in delta space become adapters again."""

    adapters: AdapterSet
    rule: RankRule
    dtype: str = "keep"
    """A key of `OUTPUT_DTYPES`."""

    def dtype_of(self, module: Module, factor: TensorInfo) -> torch.dtype:
        return OUTPUT_DTYPES[self.dtype] or factor.dtype

    def factored(self, tensor: Any) -> Factored:
        """`tensor(name)` is the mixture's factor of that name, in delta space."""
        return refactor(self.adapters.modules, tensor, self.rule)

    def written(self, factored: Factored) -> dict[str, Tensor]:
        """The factors by their names, in the type and shape in which they are written."""
        found: dict[str, Tensor] = {}
        for layer, (a_NI, b_ON) in factored.factors.items():
            module: Module = self.adapters.modules[layer]
            found[module.a] = a_NI.reshape(module.a_shape(factored.rank)).to(self.dtype_of(module, module.a_info))
            found[module.b] = b_ON.reshape(module.b_shape(factored.rank)).to(self.dtype_of(module, module.b_info))
        return found

    def to_json(self) -> dict[str, Any]:
        """What `rebuild` needs to write the same."""
        return {"space": DELTA, "rank": self.rule.rank, "error": self.rule.error, "dtype": self.dtype}

    @torch.no_grad()
    def load(self, parameters: Mapping[str, Tensor]) -> Factored:
        """Puts in the place of the model's factors, which are those of a mixture, what would be written of it."""
        factored = self.factored(parameters.__getitem__)
        for name, tensor in self.written(factored).items():
            _fill(parameters[name], tensor)
        return factored


def refuse_other_format(checkpoints: CheckpointSet, output_format: str) -> None:
    """Raises `CheckpointError` (unsupported-tensors) where adapters would be written as what PEFT does not read."""
    if checkpoints.adapters is not None and output_format != SAFETENSORS:
        raise CheckpointError(
            "unsupported-tensors",
            f"`output_format=` must be `{SAFETENSORS}` for adapters, because PEFT reads nothing else, but is "
            f"`{output_format}`.",
        )


def refuse_for_whole_models(space: str, rank: int | None, error: float | None, base_model: object = None) -> None:
    """Raises `CheckpointError` (mismatched-checkpoints) for what was said of adapters where there are none."""
    given = {"adapter_space": None if space == DELTA else space, "adapter_rank": rank, "adapter_error": error}
    for name, value in (given | {"base_model": base_model}).items():
        if value is not None:
            raise CheckpointError(
                "mismatched-checkpoints",
                f"`{name}=` must be absent, because the checkpoints are whole models and not adapters, but is {value}.",
            )


def adapter_output(
    checkpoints: CheckpointSet, rank: int | None, error: float | None, dtype: str
) -> AdapterOutput | None:
    """None for whole models, and for adapters that are averaged factor by factor."""
    if checkpoints.adapters is None or checkpoints.adapters.space != DELTA:
        return None
    rule = RankRule(rank=rank, error=DEFAULT_ERROR if error is None else error)
    return AdapterOutput(adapters=checkpoints.adapters, rule=rule, dtype=dtype)


def _fill(parameter: Tensor, tensor: Tensor) -> None:
    """The model has room for more ranks: zeros stand there. Where it has less room, there are zeros in the tensor."""
    parameter.zero_()
    common = tuple(slice(min(*sizes)) for sizes in zip(parameter.shape, tensor.shape, strict=True))
    parameter[common].copy_(tensor[common])


@dataclass(frozen=True, kw_only=True)
class AsWritten:
    """What a recipe comes to on disk."""

    recipe: Recipe
    config: Mapping[str, Any] | None = None
    """`adapter_config.json`; None for a whole model, which has no such file."""
    factored: Factored | None = None
    """Where factors of another rank were made."""

    def write_config(self, folder: Path) -> dict[str, str]:
        """Writes the config where there is one. File name -> SHA-256."""
        if self.config is None:
            return {}
        text = (json.dumps(self.config, indent=2) + "\n").encode()
        (folder / CONFIG_FILE).write_bytes(text)
        return {CONFIG_FILE: hashlib.sha256(text).hexdigest()}


def as_written(recipe: Recipe, readers: Sequence[TensorReader], output: AdapterOutput | None) -> AsWritten:
    """The recipe itself for whole models. A single adapter is written as it is, whatever rank it has.

    `readers` are the checkpoints'.
    """
    adapters = recipe.checkpoints.adapters
    if adapters is None:
        return AsWritten(recipe=recipe)
    if (single := recipe.coefficients.single()) is not None:
        return _single(recipe, readers[single])
    if adapters.space != DELTA:
        return AsWritten(recipe=recipe, config=adapters.config)
    assert output is not None, "who averages adapters says how they are written"
    factored = output.factored(lambda name: recipe.tensor(name, readers))
    factors = output.written(factored)
    whole = {name: recipe.tensor(name, readers) for name in recipe.output_dtypes if name not in factors}
    return AsWritten(
        recipe=_of_tensors(recipe, {name: factors.get(name, whole.get(name)) for name in recipe.output_dtypes}),
        config=_plain_config(adapters.config, factored.rank),
        factored=factored,
    )


def _single(recipe: Recipe, reader: TensorReader) -> AsWritten:
    assert isinstance(reader, AdapterReader)
    stored = reader.adapter.weights
    tensors: dict[str, Tensor | None] = {}
    for name in recipe.output_dtypes:
        tensors[name] = stored.read(name)
    return AsWritten(recipe=_of_tensors(recipe, tensors), config=reader.adapter.config.values)


def _of_tensors(recipe: Recipe, tensors: Mapping[str, Tensor | None]) -> Recipe:
    """A recipe of tensors that are there already."""
    made = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    infos = {name: TensorInfo(shape=tuple(each.shape), dtype=each.dtype) for name, each in made.items()}
    return replace(
        recipe,
        checkpoints=replace(recipe.checkpoints, tensors=infos),
        output_dtypes={name: each.dtype for name, each in made.items()},
        statistics=made,
    )


def _plain_config(config: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The reference's, of an adapter of this rank whose scale is 1: it stands in the factors."""
    others = {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    return {**config, **others, "init_lora_weights": True}
