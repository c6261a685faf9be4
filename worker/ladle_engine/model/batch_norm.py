"""BatchNorm modules: which keep running statistics, and their batch statistics over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ladle_engine.distributed.collectives import Collectives


def synchronise(modules: Sequence[_BatchNorm], collectives: Collectives) -> None:
    """Makes the modules take their batch statistics over the examples of all ranks.

    The coefficients then do not depend on the number of ranks. torch's own SyncBatchNorm works on GPUs only. Every rank
    must have an example of every batch.
    """
    for module in modules:
        module.forward = partial(_synchronised_batch_norm, module, collectives)  # type: ignore[method-assign]  # on purpose


@contextmanager
def each_on_its_own(modules: Sequence[_BatchNorm]) -> Iterator[None]:
    """Inside, what `synchronise` did is undone: a rank can run the model without the others."""
    synchronised = {module: module.__dict__.pop("forward") for module in modules if "forward" in module.__dict__}
    try:
        yield
    finally:
        for module, forward in synchronised.items():
            module.forward = forward  # type: ignore[method-assign]  # as it was


def _synchronised_batch_norm(module: _BatchNorm, collectives: Collectives, x: Tensor) -> Tensor:
    """`x` is [B, C, ...]."""
    if not module.training:
        return F.batch_norm(
            x, module.running_mean, module.running_var, module.weight, module.bias, training=False, eps=module.eps
        )
    over = [dimension for dimension in range(x.ndim) if dimension != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    # Whatever is made of the count stays on the device: reading it would hold up a GPU at every BatchNorm.
    counted = collectives.differentiable_all_reduce(torch.cat([x.sum(over), x.new_full((1,), x.numel() / x.shape[1])]))
    count = counted[-1].detach()
    mean_C = counted[:-1] / count
    # Two passes: the difference of two large sums would lose what the equality of ranks needs.
    centred = x - mean_C.view(shape)
    variance_C = collectives.differentiable_all_reduce(centred.square().sum(over)) / count
    if module.running_mean is not None and module.running_var is not None and module.momentum is not None:
        module.running_mean.lerp_(mean_C.detach(), module.momentum)
        module.running_var.lerp_(variance_C.detach() * (count / (count - 1).clamp(min=1)), module.momentum)
    normalised = centred * torch.rsqrt(variance_C + module.eps).view(shape)
    if module.weight is None or module.bias is None:
        return normalised
    return normalised * module.weight.view(shape) + module.bias.view(shape)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The modules that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
