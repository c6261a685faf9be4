"""What `config.json` says of a model of transformers, checked before it is believed, and the model made from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.images.preprocessing import MAX_SIDE

CHOICES_OF_CODE = frozenset(
    {
        *("auto_map", "trust_remote_code", "custom_pipelines", "use_kernels", "kernel_config"),
        *(
            f"{prefix}{part}_implementation{suffix}"
            for prefix in ("", "_")
            for part in ("attn", "experts")
            for suffix in ("", "_internal")
        ),
    }
)
SMALL_BUFFERS = 1 << 24
"""Numbers in tables that a model makes itself, such as positions."""
LAYERS = re.compile(r"(?<!max_window_)layers|depth|blocks|stages")
"""Not the first layer with a window, of which Qwen2 has 28 whatever its depth."""


def parse_config(checkpoints: CheckpointSet) -> Any:
    """The config as transformers knows it. Raises `TaskError` (model-mismatch)."""
    # transformers takes seconds to import, which a plug-in with a model of its own does not need.
    from transformers import AutoConfig

    values = _without_choices(checked(checkpoints))
    model_type = values.pop("model_type", None)
    with translated(checkpoints):
        return AutoConfig.for_model(model_type, **values)


def build(checkpoints: CheckpointSet, config: Any, auto_class_name: str) -> nn.Module:
    """The architecture of `config` by an auto class of transformers, with whatever weights: no download, no code of the
    folder. Tried where it takes no memory first. Raises `TaskError` (model-mismatch).
    """
    import transformers

    auto_class = getattr(transformers, auto_class_name)
    with translated(checkpoints):
        with no_larger_than(checkpoints):
            auto_class.from_config(config, trust_remote_code=False)
        model: nn.Module = auto_class.from_config(config, trust_remote_code=False)
    return model


def checked(checkpoints: CheckpointSet) -> Mapping[str, Any]:
    """The config, none of whose lengths is beyond what the tensors can be for: transformers makes lists of them.

    Raises `TaskError` (model-mismatch), also where there is none: nothing else says which model it is.
    """
    config = checkpoints.config
    if config is None:
        raise TaskError(
            "model-mismatch",
            f"The checkpoints must have a `config.json` of transformers, which names the model, but "
            f"`{checkpoints.folder}` has none. Copy it there; for a model of your own write a task: see docs/tasks.md.",
        )
    longest = max((max(info.shape, default=1) for info in checkpoints.tensors.values()), default=1)
    _refuse_more(config, "num_labels", longest)
    for name in filter(LAYERS.search, config):
        _refuse_more(config, name, len(checkpoints.tensors))
    return config


def _without_choices(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config and its parts, without what chooses code: a name of an attention may be one on a model hub."""
    return {name: _decoded(value) for name, value in values.items() if name not in CHOICES_OF_CODE}


def _decoded(value: Any) -> Any:
    """JSON has no infinity: transformers writes `{"__float__": "Infinity"}` for it."""
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    return float(value["__float__"]) if value.keys() == {"__float__"} else _without_choices(value)


@contextmanager
def translated(checkpoints: CheckpointSet) -> Iterator[None]:
    """Wrong values fail wherever transformers first uses them: ZeroDivisionError, RuntimeError, ImportError ..."""
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:
        raise TaskError(
            "model-mismatch",
            f"`config.json` must describe a model that transformers can make, but its model_type is "
            f"{(checkpoints.config or {}).get('model_type')!r} ({type(error).__name__}: {str(error)[:300]}).",
        ) from error


@contextmanager
def no_larger_than(checkpoints: CheckpointSet, where: str = "`config.json`") -> Iterator[None]:
    """Inside, a model that has more than four times the numbers of the checkpoints is refused while it is built, and
    one of endlessly many parts. Encoder-decoders build their embedding four times, which is tied, and stored once.

    A stranger's config may ask for any amount of memory or time, so this is where there is none of it: on `meta`.
    `where` is what describes the model, for messages.
    """
    stored = sum(info.numel for info in checkpoints.tensors.values())
    most_tensors = 10 * len(checkpoints.tensors) + 1000
    most_numbers = {"parameters": 4 * stored, "buffers": max(2 * stored, SMALL_BUFFERS)}
    seen: dict[int, Tensor] = {}
    counts = Counter[str]()

    def too_large(held: str, described: str) -> TaskError:
        return TaskError(
            "model-mismatch",
            f"{where} must describe the model of these checkpoints, which hold {held}, but describes {described} or "
            f"more.",
        )

    def count(kind: str, name: str, tensor: Tensor | None) -> None:
        if tensor is None or id(tensor) in seen:
            return
        # Kept alive, so that no other gets its id.
        seen[id(tensor)] = tensor
        counts[kind] += tensor.numel()
        if counts[kind] > most_numbers[kind]:
            raise too_large(f"{stored:,} parameters", f"{counts[kind]:,} numbers in {kind}")
        if len(seen) > most_tensors:
            raise too_large(f"{len(checkpoints.tensors):,} tensors", f"{len(seen):,}")

    def count_module(module: nn.Module, name: str, inner: nn.Module | None) -> None:
        counts["modules"] += 1
        if counts["modules"] > 10 * most_tensors:
            raise too_large(f"{len(checkpoints.tensors):,} tensors", f"{counts['modules']:,} modules")

    handles = (
        register_module_parameter_registration_hook(lambda _, name, each: count("parameters", name, each)),
        register_module_buffer_registration_hook(lambda _, name, each: count("buffers", name, each)),
        register_module_module_registration_hook(count_module),
    )
    try:
        with torch.device("meta"):
            yield
    finally:
        for handle in handles:
            handle.remove()


def num_channels(config: Mapping[str, Any]) -> int:
    return whole_number(config, "num_channels") or 3


def image_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that the model takes; None where the config does not say."""
    value = _of_images(config, "image_size")
    if value is None:
        return None
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise _refused("image_size", f"a whole number from 1 to {MAX_SIDE}, or two", value)
    return (sides[0], sides[1])


def class_ids(config: Mapping[str, Any]) -> tuple[int, Mapping[str, int] | None]:
    """How many classes the model knows, and the labels by their names where the config has names.

    A name that several labels have is left out: it says nothing about any of them.
    """
    num_labels = whole_number(config, "num_labels")
    names = config.get("id2label")
    if names is None:
        # transformers leaves `id2label` out where it is its default of two.
        return num_labels or 2, None
    if not isinstance(names, dict) or not names:
        raise _refused("id2label", "an object that maps labels to names", names)
    labels = {str(label): label for label in range(len(names))}
    if names.keys() != labels.keys():
        wrong = next(key for key in names if key not in labels)
        raise _refused("id2label", f"keyed by the whole numbers from 0 to {len(names) - 1}", wrong)
    if num_labels not in (None, len(names)):
        raise _refused("num_labels", f"{len(names)}, as many as `id2label` has names", num_labels)
    counts = Counter(str(name) for name in names.values())
    return len(names), {str(name): labels[key] for key, name in names.items() if counts[str(name)] == 1}


def whole_number(config: Mapping[str, Any], name: str) -> int | None:
    value = _of_images(config, name)
    if value is not None and (type(value) is not int or value < 1):
        raise _refused(name, "a whole number of at least 1", value)
    return value


def _of_images(config: Mapping[str, Any], name: str) -> Any:
    """Models of text and images, such as CLIP's, keep what is about images in a part of their config."""
    value, part = config.get(name), config.get("vision_config")
    return part.get(name) if value is None and isinstance(part, dict) else value


def _refuse_more(config: Mapping[str, Any], name: str, most: int) -> None:
    value = config.get(name)
    numbers = value if isinstance(value, list) else [value]
    if sum(number for number in numbers if isinstance(number, int)) > most:
        raise _refused(name, f"at most {most}, as the tensors of the checkpoints say", value)


def _refused(name: str, rule: str, value: Any) -> TaskError:
    return TaskError("model-mismatch", f"`{name}` in `config.json` must be {rule}, but is {repr(value)[:100]}.")
