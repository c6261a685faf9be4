"""transformers saves some models under other names than they have in memory, and renames while it loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError


def stored_names(model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
    """Name in `model`, a `PreTrainedModel` -> name in the checkpoints, where transformers renames.

    Found by experiment and not from its tables, which change: a state dict whose every tensor is filled with its own
    number is loaded by `from_pretrained`, and the number that arrives in a tensor tells where that came from.

    Raises `TaskError` (model-mismatch) for a tensor that transformers puts together from several.
    """
    if all(name in checkpoints.tensors for name in model.state_dict()):
        return {}
    originals = list(checkpoints.tensors)
    numbered = {
        name: torch.full((), float(number)).expand(checkpoints.tensors[name].shape)
        for number, name in enumerate(originals)
    }
    loader: Any = type(model)
    loaded, info = loader.from_pretrained(
        None, config=model.config, state_dict=numbered, dtype=torch.float32, output_loading_info=True
    )
    names: dict[str, str] = {}
    for name, tensor in loaded.state_dict().items():
        if name in info["missing_keys"] or tensor.numel() == 0:
            continue
        number = float(tensor.reshape(-1)[0])
        if not bool((tensor == number).all()):
            raise TaskError(
                "model-mismatch",
                f"Every tensor of the model must be one tensor of the checkpoints, but transformers makes `{name}` "
                f"from several. Save the checkpoints in the model's own format (`save_original_format=False`).",
            )
        original = originals[int(number)]
        if original != name:
            names[name] = original
    return names
