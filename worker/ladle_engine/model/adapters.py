"""LoRA adapters put into a base model, which is frozen: only what the adapters hold gets coefficients."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.adapters.config import PREFIX
from ladle_engine.checkpoints.adapters.modules import Module
from ladle_engine.checkpoints.adapters.space import DELTA
from ladle_engine.checkpoints.types import AdapterSet, CheckpointSet, TensorInfo
from ladle_engine.errors import TaskError
from ladle_engine.model.binding import Binding, bind
from ladle_engine.tasks.libraries import require

NAME = "default"
"""Of the adapter in the model."""


def bind_adapters(model: nn.Module, checkpoints: CheckpointSet) -> Binding:
    """Puts layers of LoRA into `model`, a base model with its weights, in place.

    Raises `TaskError` (model-mismatch) where it is not the base of these adapters, and (missing-library) without peft.
    """
    adapters = checkpoints.adapters
    assert adapters is not None
    given: Any = model
    if hasattr(given, "unload") and hasattr(given, "peft_config"):
        model = given.unload()
    layers = {layer: _layer_in(model, layer) for layer in adapters.modules}
    _refuse_other_sizes(model, checkpoints.tensors, adapters, layers)
    _inject(model, checkpoints.tensors, adapters, layers)
    whole = [name for name in checkpoints.tensors if ".lora_" not in name]
    _untie(model, {_in_model(name) for name in whole})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    binding = bind(model, checkpoints, _stored_names(model, checkpoints.tensors))
    for parameter in binding.parameters.values():
        parameter.requires_grad_(True)
    return binding


def num_parameters(binding: Binding, checkpoints: CheckpointSet) -> int:
    """Of a checkpoint as people know it: in delta space adapters have more numbers than their files."""
    return binding.num_parameters if checkpoints.adapters is None else checkpoints.adapters.num_parameters


def _in_model(name: str) -> str:
    return name.removeprefix(PREFIX)


def _layer_in(model: nn.Module, layer: str) -> str:
    name = _in_model(layer)
    try:
        model.get_submodule(name)
    except AttributeError as error:
        there = ", ".join(f"`{each}`" for each, module in model.named_modules() if isinstance(module, nn.Linear))
        raise _another_base(
            f"have the layer `{name}`, which the adapters adapt, but has {there[:300] or 'no layers'}"
        ) from error
    return name


def _refuse_other_sizes(
    model: nn.Module, tensors: Mapping[str, TensorInfo], adapters: AdapterSet, layers: Mapping[str, str]
) -> None:
    for layer, name in layers.items():
        module: Module = adapters.modules[layer]
        weight = getattr(model.get_submodule(name), "weight", None)
        if not isinstance(weight, Tensor):
            raise _another_base(f"have a weight in the layer `{name}`, which the adapters adapt, but has none")
        expected = module.num_inputs * module.num_outputs
        if weight.numel() != expected or module.num_outputs not in weight.shape:
            raise _another_base(
                f"have {module.num_inputs} inputs and {module.num_outputs} outputs in `{name}`, as the adapters do, "
                f"but its weight is {tuple(weight.shape)}"
            )


def _another_base(rule: str) -> TaskError:
    return TaskError(
        "model-mismatch",
        f"The base model must {rule}. Is it the one that the adapters were trained on? `base_model=` says where it is.",
    )


def _inject(
    model: nn.Module, tensors: Mapping[str, TensorInfo], adapters: AdapterSet, layers: Mapping[str, str]
) -> None:
    """By the layers' own names: `target_modules` may be a pattern of a stranger's."""
    peft = require("peft", "adapters")
    ranks = {name: tensors[adapters.modules[layer].a].shape[0] for layer, name in layers.items()}
    largest = max(ranks.values())
    config = peft.LoraConfig(
        r=largest,
        lora_alpha=largest,
        target_modules=list(layers.values()),
        rank_pattern={re.escape(name): rank for name, rank in ranks.items() if rank != largest},
        fan_in_fan_out=bool(adapters.config.get("fan_in_fan_out")),
        use_dora=bool(adapters.config.get("use_dora")),
        lora_bias=any(adapters.modules[layer].bias in tensors for layer in layers),
    )
    try:
        with warnings.catch_warnings():
            # Of a convolution of GPT-2's kind, which it then takes the right way round.
            warnings.simplefilter("ignore")
            peft.inject_adapter_in_model(config, model, NAME)
    except (ValueError, NotImplementedError) as error:
        raise TaskError(
            "model-mismatch", f"PEFT must be able to put the adapters into the base model, but says: {str(error)[:300]}"
        ) from error
    for layer, name in layers.items():
        adapted: Any = model.get_submodule(name)
        adapted.scaling[NAME] = 1.0 if adapters.space == DELTA else adapters.modules[layer].scale


def _untie(model: nn.Module, whole: set[str]) -> None:
    """What an adapter holds whole (`modules_to_save`) is its own, even if the base model ties it to another tensor."""
    owners: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owners.setdefault(id(tensor), []).append(name)
    for names in owners.values():
        if len(names) < 2 or not whole & set(names):
            continue
        for name in names:
            if name in whole:
                parent, _, attribute = name.rpartition(".")
                module = model.get_submodule(parent)
                setattr(module, attribute, nn.Parameter(getattr(module, attribute).detach().clone()))


def _stored_names(model: nn.Module, tensors: Mapping[str, TensorInfo]) -> dict[str, str | None]:
    """Name in the model -> name in the adapters, which is without that of the adapter; None for the base's own."""
    names: dict[str, str | None] = {}
    for name in model.state_dict():
        plain = PREFIX + name.replace(f".{NAME}", "", 1) if ".lora_" in name else PREFIX + name
        tries = (plain, plain.removesuffix(".weight"), plain.removeprefix(PREFIX))
        names[name] = next((each for each in tries if each in tensors), None)
    return names


@torch.no_grad()
def load_base(model: nn.Module, base: CheckpointSet, names: Mapping[str, str | None], held: set[str]) -> Binding:
    """What fills a base model from its own file. `held` are the model's tensors that the adapters hold whole.

    The base may lack them, such as the head of a classifier, and may have others that the model has no use for.

    Raises `TaskError` (model-mismatch).
    """
    state = model.state_dict()
    own = {name for name in held & state.keys() if _is_absent(state[name], base.tensors.get(names.get(name) or name))}
    given = {**names, **dict.fromkeys(own)}
    kept = set(given.values()) | {name for name in state if name not in given}
    unused = {name: name for name in base.tensors if name not in kept and name not in state}
    unused |= {f"(base) {name}": name for name in own if name in base.tensors}
    return bind(model, base, {**unused, **given})


def _is_absent(tensor: Tensor, stored: TensorInfo | None) -> bool:
    return stored is None or stored.shape != tuple(tensor.shape)
