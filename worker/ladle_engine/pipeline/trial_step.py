"""One forward and backward pass, tried before memory is planned."""

from __future__ import annotations

import torch
from torch import Tensor

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.distributed.out_of_memory import RELIEF, fits_everywhere
from ladle_engine.errors import EngineError
from ladle_engine.model.batch_norm import batch_norms, each_on_its_own
from ladle_engine.model.binding import Binding
from ladle_engine.placements.memory_probe import available_bytes
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.examples import Examples


def trial_batch(examples: Examples, collectives: Collectives) -> Tensor:
    """A rank's share of one batch, and two examples at least, as BatchNorm wants."""
    most = min(examples.task.batch_size, len(examples))
    return examples.indices[: max(-(-most // collectives.size), 2)]


def first_trial(
    task: Task, binding: Binding, examples: Examples, indices: Tensor, sharded: bool, collectives: Collectives
) -> None:
    """Collective: a `trial_step`. Raises `EngineError` (out-of-memory) on every rank where it does not fit on one."""
    if sharded:
        # FSDP2's passes are collective: the others are within one, and could not be told.
        with collectives.translate_collective_errors():
            trial_step(task, binding, examples, indices)
        return
    free = available_bytes(examples.device)
    _, fits = fits_everywhere(lambda: trial_step(task, binding, examples, indices), collectives)
    if not fits:
        raise EngineError(
            "out-of-memory",
            f"`batch_size` must leave room for one forward and backward pass on every rank, but is {task.batch_size}: "
            f"a pass with {len(indices)} examples a rank ran out of memory, where {free:,} bytes were free on "
            f"{examples.device}. {RELIEF}",
        )


def trial_step(task: Task, binding: Binding, examples: Examples, indices: Tensor) -> None:
    """One forward and backward pass, whose gradients are freed as they arrive: what a training step takes."""

    def free(parameter: torch.nn.Parameter) -> None:
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(free)
        for parameter in binding.parameters.values()
        if parameter.requires_grad
    ]
    # As coefficients are trained: batch statistics keep more for backward than running ones.
    binding.model.eval()
    modules = batch_norms(binding.model)
    for module in modules:
        module.train()
    try:
        with each_on_its_own(modules):
            task.loss(binding.model, examples.batch(indices)).backward()
    finally:
        for handle in handles:
            handle.remove()
