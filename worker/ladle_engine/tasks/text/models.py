"""Models of transformers for tasks on texts: made from `config.json` alone, and called with what they take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.text.heads import HEADS, refuse_another_head


def build_model(checkpoints: CheckpointSet, auto_class_name: str, task: str) -> nn.Module:
    """The architecture alone, by an auto class of transformers, such as `AutoModelForCausalLM`: no download, no code
    from the folder, no more numbers than the checkpoints have, and whatever weights.

    `task` is a name for messages. Raises `TaskError` (model-mismatch), in words where the model is for another task.
    """
    refuse_another_head(checkpoints, auto_class_name, task)
    config = model_config.parse_config(checkpoints)
    if not _has_class(config, auto_class_name):
        raise TaskError(
            "model-mismatch",
            f"Task `{task}` needs {HEADS[auto_class_name].needs}, but transformers has no `{auto_class_name}` for the "
            f"model_type {config.model_type!r} of `config.json`.",
        )
    return model_config.build(checkpoints, config, auto_class_name)


def fits(checkpoints: CheckpointSet, auto_class_name: str) -> bool:
    """Whether transformers has such a class for the `model_type` of `config.json`. Imports transformers."""
    from transformers import CONFIG_MAPPING

    model_type = (checkpoints.config or {}).get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return False
    return CONFIG_MAPPING[model_type] in _auto_class(auto_class_name)._model_mapping


def inputs_for(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of what a tokenizer has made, that which the model's `forward` takes: not every model has `token_type_ids`."""
    parameters = inspect.signature(model.forward).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    names = ("input_ids", "attention_mask", "token_type_ids")
    required = [name for name in names if name in batch and name in parameters]
    return {name: batch[name] for name in required or (names if takes_all else ()) if name in batch}


def call(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The model's answer. What fails in it is the model's, for instance with ids that it has no embedding for.

    Raises `TaskError` (model-mismatch).
    """
    try:
        return model(**inputs)
    except Exception as error:
        if is_machine_fault(error):
            raise
        shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in inputs.items() if isinstance(each, Tensor))
        raise TaskError(
            "model-mismatch",
            f"The model must take a batch of the shapes {shapes}, but says: {type(error).__name__}: {str(error)[:500]}",
        ) from error


def _has_class(config: Any, auto_class_name: str) -> bool:
    return type(config) in _auto_class(auto_class_name)._model_mapping


def _auto_class(name: str) -> Any:
    # transformers takes seconds to import.
    import transformers

    return getattr(transformers, name)


def logits_of(answer: Any) -> Tensor:
    """A model of transformers answers with an object, or with a tuple where its config says so."""
    found: Tensor = answer if isinstance(answer, Tensor) else answer[0] if isinstance(answer, tuple) else answer.logits
    return found
