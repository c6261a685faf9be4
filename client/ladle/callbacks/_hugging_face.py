"""Models that write themselves: those of transformers and PEFT. Neither is imported here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def saves_itself(model: nn.Module) -> bool:
    """Whether its `save_pretrained` takes a state: then config and names are what `from_pretrained` reads."""
    return _is_a(model, "transformers", "PreTrainedModel") or is_peft(model)


def is_peft(model: nn.Module) -> bool:
    """Whether it saves adapters only."""
    return _is_a(model, "peft", "PeftModel")


def trained_part(model: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model with adapters, the part of its state that is saved: the frozen base need not be copied."""
    if not is_peft(model):
        return state
    from peft import get_peft_model_state_dict

    saved: dict[str, Any] = get_peft_model_state_dict(model, state_dict=dict(state))
    places = {_place(tensor) for tensor in saved.values() if isinstance(tensor, Tensor)}
    part = {name: value for name, value in state.items() if isinstance(value, Tensor) and _place(value) in places}
    # What is made for saving, such as a prompt's embedding, is no part of the state.
    return part if {_place(value) for value in part.values()} == places else state


def _is_a(model: nn.Module, module: str, name: str) -> bool:
    """Nothing is one that was never imported."""
    kind = getattr(sys.modules.get(module), name, None) if module in sys.modules else None
    return kind is not None and isinstance(model, kind)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape))
