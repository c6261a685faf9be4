"""Models that a library builds by name: the name is checked, and what nothing says is found by experiment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from ladle_engine.checkpoints.names import fit
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo
from ladle_engine.errors import TaskError
from ladle_engine.options import did_you_mean

TRIED_CLASSES = (7, 11)
"""Numbers of classes of the experiment. What they change the shape of is the head."""

Create = Callable[[int], nn.Module]
"""The model for so many classes."""


def known_name(name: str, names: Collection[str], library: str, where: str) -> str:
    """Raises `TaskError` with the nearest names. `where` says what named it: "`model` in `args.yaml`"."""
    if name in names:
        return name
    hint = did_you_mean(name, names, most=3)
    code = "invalid-task-options" if where.startswith("Task option") else "model-mismatch"
    raise TaskError(code, f"{where} must be a model that {library} has, but is `{name[:200]}`.{hint}")


def classes_in_head(create: Create, checkpoints: CheckpointSet) -> int | None:
    """How many classes the checkpoints' head has; None where it cannot be told.

    Found by experiment: the model is built for two numbers of classes, and what differs in shape is looked up.
    """
    one, other = (_shapes(create(number)) for number in TRIED_CLASSES)
    stored = fit(one, checkpoints.tensors)
    found = set()
    for name, info in one.items():
        if name not in stored or name not in other or info.shape == other[name].shape:
            continue
        shape = checkpoints.tensors[stored[name]].shape
        pairs = zip(info.shape, other[name].shape, shape, strict=False)
        found |= {length for first, second, length in pairs if (first, second) == TRIED_CLASSES}
    return found.pop() if len(found) == 1 else None


def agreed_classes(stated: int | None, in_head: int | None, where: str) -> int:
    """What the file says, where it says what the tensors say. Raises `TaskError` (model-mismatch)."""
    if stated is not None and in_head not in (None, stated):
        raise TaskError(
            "model-mismatch",
            f"`num_classes` in {where} must be {in_head}, as the head of the checkpoints has it, but is {stated}.",
        )
    found = in_head or stated
    if found is None:
        raise TaskError(
            "model-mismatch",
            f"The checkpoints must hold the model that {where} names, but none of their tensors is its head.",
        )
    return found


def _shapes(model: nn.Module) -> Mapping[str, TensorInfo]:
    return {name: TensorInfo(shape=tuple(each.shape), dtype=each.dtype) for name, each in model.state_dict().items()}


def on_meta(create: Callable[[], nn.Module]) -> nn.Module:
    """Without memory for its weights."""
    with torch.device("meta"):
        return create()
