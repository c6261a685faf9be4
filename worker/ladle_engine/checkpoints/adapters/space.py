"""A set of adapters in the space in which they are to be averaged: that of their deltas, or of their factors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from torch import Tensor

from ladle_engine.checkpoints.adapters.config import CONFIG_FILE
from ladle_engine.checkpoints.adapters.delta import DeltaView, SharedBasis, finite
from ladle_engine.checkpoints.adapters.reader import FORMAT, Adapter, AdapterReader, Scaled, View
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import AdapterSet, Checkpoint, CheckpointSet
from ladle_engine.errors import CheckpointError

DELTA, FACTORS = "delta", "factors"
SPACES = (DELTA, FACTORS)
BARE = re.compile(r"(^|[._])lora_(A|B|up|down|embedding_A|embedding_B|magnitude_vector)\b")
"""In names of tensors, also those of other tools than PEFT."""


def in_space(checkpoints: CheckpointSet, space: str) -> CheckpointSet:
    """The same checkpoints; adapters as they are averaged in `space`. Others stay as they are.

    Raises `CheckpointError` (mismatched, unsupported) for adapters that cannot be averaged with each other.
    """
    if not any(each.format == FORMAT for each in checkpoints.checkpoints):
        _refuse_bare_factors(checkpoints)
        return checkpoints
    _refuse_whole_models(checkpoints)
    with ExitStack() as stack:
        readers = [stack.enter_context(open_checkpoint(replace(each, view=None))) for each in checkpoints.checkpoints]
        adapters = [reader.adapter for reader in readers if isinstance(reader, AdapterReader)]
        _refuse_other_bases(adapters)
        _refuse_other_layers(adapters)
        view = _delta_view(checkpoints, adapters) if space == DELTA else _factor_view(adapters)
        reference = adapters[-1]
        made = AdapterSet(
            space=space,
            config=dict(reference.config.values),
            base=reference.config.base,
            modules=dict(reference.modules),
            num_parameters=sum(info.numel for info in reference.weights.tensors().values()),
            ranks=tuple(max(module.rank for module in each.modules.values()) for each in adapters),
        )
        return replace(
            checkpoints,
            checkpoints=tuple(replace(each, view=view) for each in checkpoints.checkpoints),
            tensors=dict(view.tensors(reference)),
            side_files=tuple(path for path in checkpoints.side_files if path.name != CONFIG_FILE),
            adapters=made,
        )


def _delta_view(checkpoints: CheckpointSet, adapters: Sequence[Adapter]) -> View:
    if dora := next((each for each in adapters if each.config.is_dora), None):
        raise CheckpointError(
            "unsupported-tensors",
            f"Adapters must be plain LoRA to be averaged by what they add to the weights, but `{dora.name}` is DoRA, "
            f"whose magnitudes are no part of a sum. Choose `adapter_space=` factors.",
        )
    ranks = {module.a: 0 for module in adapters[0].modules.values()}
    for adapter in adapters:
        for module in adapter.modules.values():
            ranks[module.a] += module.rank
    return DeltaView(SharedBasis(partial(_first_factors, checkpoints.checkpoints)), ranks)


def _first_factors(checkpoints: Sequence[Checkpoint], name: str) -> list[Tensor]:
    found = []
    for checkpoint in checkpoints:
        with open_checkpoint(replace(checkpoint, view=None)) as reader:
            found.append(finite(checkpoint, name, reader.read(name)))
    return found


def _factor_view(adapters: Sequence[Adapter]) -> View:
    reference = adapters[-1]
    for adapter in adapters:
        for layer, module in adapter.modules.items():
            if module.rank != reference.modules[layer].rank:
                raise CheckpointError(
                    "mismatched-checkpoints",
                    f"Adapters must have the same ranks to be averaged factor by factor, but `{layer}` has rank "
                    f"{module.rank} in `{adapter.name}` and {reference.modules[layer].rank} in `{reference.name}`. "
                    f"Choose `adapter_space=` delta, which takes any ranks.",
                )
    return Scaled({module.b: module.scale for module in reference.modules.values()})


def _refuse_bare_factors(checkpoints: CheckpointSet) -> None:
    """Files of factors alone. Without a config nobody knows their scale, and a mean of factors is no mean of models."""
    if all(BARE.search(name) for name in checkpoints.tensors):
        raise CheckpointError(
            "unsupported-tensors",
            f"`{checkpoints.reference.name}` must be a whole model, or lie beside its `{CONFIG_FILE}`, but holds "
            f"nothing but factors of LoRA. Put each adapter in a folder of its own, as `adapter_model.safetensors` "
            f"with its config, as PEFT's `save_pretrained` does.",
        )


def _refuse_whole_models(checkpoints: CheckpointSet) -> None:
    others = [each.name for each in checkpoints.checkpoints if each.format != FORMAT]
    if others:
        adapter = next(each.name for each in checkpoints.checkpoints if each.format == FORMAT)
        raise CheckpointError(
            "mismatched-checkpoints",
            f"Checkpoints must all be adapters or all be whole models, but `{adapter}` is an adapter and `{others[0]}` "
            f"is not. Leave one kind out with `exclude=`.",
        )


def _refuse_other_bases(adapters: Sequence[Adapter]) -> None:
    by_base: dict[str, str] = {}
    for adapter in adapters:
        by_base.setdefault(_last_part(adapter.config.base), adapter.name)
    if len(by_base) > 1:
        told = " and ".join(f"`{name}` is one of `{base}`" for base, name in list(by_base.items())[:2])
        raise CheckpointError(
            "mismatched-checkpoints",
            f"All adapters must be of one base model, but {told}, by their `base_model_name_or_path`. Leave the odd "
            f"one out with `exclude=`.",
        )


def _last_part(base: str | None) -> str:
    """The same folder may lie elsewhere on the machine of another run; its name stays."""
    return (base or "no base model").rpartition("/")[2]


def _refuse_other_layers(adapters: Sequence[Adapter]) -> None:
    reference = adapters[-1]
    for adapter in adapters:
        for one, other in ((adapter, reference), (reference, adapter)):
            if extra := [layer for layer in one.modules if layer not in other.modules]:
                raise CheckpointError(
                    "mismatched-checkpoints",
                    f"All adapters must have the same target modules, but `{one.name}` adapts `{extra[0]}`, and "
                    f"`{other.name}` does not. Leave the odd one out with `exclude=`.",
                )
        for layer, module in adapter.modules.items():
            ours = reference.modules[layer]
            sizes, expected = (module.num_outputs, module.a_info.shape[1:]), (ours.num_outputs, ours.a_info.shape[1:])
            if sizes != expected or module.a != ours.a:
                raise CheckpointError(
                    "mismatched-checkpoints",
                    f"All adapters must be of one base model, but `{layer}` has {sizes[0]} outputs and inputs "
                    f"{sizes[1]} in `{adapter.name}`, and {expected[0]} and {expected[1]} in `{reference.name}`. Leave "
                    f"the odd one out with `exclude=`.",
                )
        if adapter.config.is_dora != reference.config.is_dora:
            raise CheckpointError(
                "mismatched-checkpoints",
                f"Adapters must all be DoRA or all be plain LoRA, but of `{adapter.name}` and `{reference.name}` one "
                f"is DoRA. Leave the odd one out with `exclude=`.",
            )
