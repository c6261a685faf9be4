"""Quantisers that a network trains with: ranges, scale and zero point belong together, so a mixture has one file's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.model.binding import Binding

MARKS = ({"scale", "zero_point"}, {"min_val", "max_val"})
"""Buffers by which a module of any library is known to be a quantiser, or an observer of ranges."""
SWITCH = "observer_enabled"


def quantiser_buffers(model: nn.Module) -> Iterator[Tensor]:
    """All buffers of quantisers and observers, those of the modules inside them too."""
    for module in model.modules():
        own = {name for name, _ in module.named_buffers(recurse=False)}
        if any(mark <= own for mark in MARKS):
            yield from module.buffers()


def refuse_observing(checkpoints: CheckpointSet, binding: Binding) -> None:
    """Raises `TaskError` (model-mismatch) for a quantiser that would follow the examples on which it is judged."""
    switches = [name for name in binding.counters if name.rpartition(".")[2] == SWITCH]
    if not switches:
        return
    with open_all(checkpoints) as readers:
        for name in switches:
            for checkpoint, reader in zip(checkpoints.checkpoints, readers, strict=True):
                if name in reader.tensors() and bool(reader.read(name).any()):
                    raise TaskError(
                        "model-mismatch",
                        f"`{name}` must be 0, but is 1 in `{checkpoint.name}`: the quantiser would change with every "
                        f"batch on which the model is judged. Apply torch's `disable_observer` to the model and save "
                        f"it again.",
                    )
