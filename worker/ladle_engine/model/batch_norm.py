"""BatchNorm and its kin: which modules keep running statistics, and their batch statistics over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import TaskError

RunningNorm = _BatchNorm | _InstanceNorm
"""Normalises by the batch's statistics (or each example's) while it is trained, afterwards by their running mean."""


def batch_norms(model: nn.Module) -> list[RunningNorm]:
    """The modules whose running statistics a pass over examples in training mode makes anew."""
    return [
        module
        for module in model.modules()
        if isinstance(module, (_BatchNorm, _InstanceNorm))
        and module.track_running_stats
        and module.running_mean is not None
    ]


def synchronise(modules: Iterable[RunningNorm], collectives: Collectives) -> None:
    """Makes the modules take their statistics over the examples of all ranks.

    The coefficients then do not depend on the number of ranks. torch's own SyncBatchNorm works on GPUs only. Every rank
    must have an example of every batch.
    """
    for module in modules:
        if not isinstance(module, _Synchronised):
            own: Any = type(module)
            module.__class__ = _synchronised(own)
        module.__dict__["collectives"] = collectives


@contextmanager
def each_on_its_own(modules: Sequence[RunningNorm]) -> Iterator[None]:
    """Inside, a rank can run the model without the others."""
    before = [(module, module.__class__, module.__dict__.get("collectives")) for module in modules]
    # A SyncBatchNorm too: what it was would wait for the others.
    synchronise(modules, SingleProcess())
    try:
        yield
    finally:
        for module, own, collectives in before:
            module.__class__, module.__dict__["collectives"] = own, collectives


class _Synchronised(nn.Module):
    """Mixed into a module's own class: whatever that does around its normalisation stays as it is."""

    collectives: Collectives

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # SyncBatchNorm's own would cross between ranks by itself, and on GPUs only.
        own = partial(_BatchNorm.forward, self) if isinstance(self, nn.SyncBatchNorm) else super().forward
        if not self.training or self.collectives.size == 1:
            return own(*args, **kwargs)
        with _OverRanks(self.collectives) as over_ranks:
            output = own(*args, **kwargs)
        if not over_ranks.used:
            raise TaskError(
                "model-mismatch",
                f"The statistics of a `{type(self).__bases__[1].__name__}` must be made by `batch_norm` or "
                f"`instance_norm` of `torch.nn.functional` to be the same on all ranks, but it makes them in a way of "
                f"its own. Run the job on one rank.",
            )
        return output


@cache
def _synchronised(own: type[nn.Module]) -> Any:
    return type(f"Synchronised{own.__name__}", (_Synchronised, own), {})


class _OverRanks(TorchFunctionMode):
    """Inside, torch's two functions that make running statistics make them of the examples of all ranks.

    Their inputs are [B, C, ...] and lie over the ranks along B.
    """

    def __init__(self, collectives: Collectives) -> None:
        super().__init__()
        self.used = False
        self._collectives = collectives

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        over_ranks: dict[Any, Any] = {F.batch_norm: self._batch_norm, F.instance_norm: self._instance_norm}
        self.used = self.used or func in over_ranks
        return over_ranks.get(func, func)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        over = [dimension for dimension in range(input.ndim) if dimension != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        # Whatever is made of the count stays on the device: reading it would hold up a GPU at every BatchNorm.
        own_count = input.new_full((1,), input.numel() / input.shape[1])
        counted = self._collectives.differentiable_all_reduce(torch.cat([input.sum(over), own_count]))
        count = counted[-1].detach()
        mean_C = counted[:-1] / count
        # Two passes: the difference of two large sums would lose what the equality of ranks needs.
        centred = input - mean_C.view(shape)
        variance_C = self._collectives.differentiable_all_reduce(centred.square().sum(over)) / count
        _update(running_mean, mean_C, momentum)
        _update(running_var, variance_C * (count / (count - 1).clamp(min=1)), momentum)
        normalised = centred * torch.rsqrt(variance_C + eps).view(shape)
        if weight is not None:
            normalised = normalised * weight.view(shape)
        return normalised if bias is None else normalised + bias.view(shape)

    def _instance_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Each example is normalised by itself; the running statistics follow the mean over the examples."""
        if not use_input_stats:
            return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        values_BCP = input.detach().flatten(2)
        sums_C = torch.cat([values_BCP.mean(dim=2).sum(dim=0), values_BCP.var(dim=2).sum(dim=0)])
        counted = self._collectives.all_reduce(torch.cat([sums_C, input.new_full((1,), len(input))]))
        mean_C, variance_C = (counted[:-1] / counted[-1]).chunk(2)
        _update(running_mean, mean_C, momentum)
        _update(running_var, variance_C, momentum)
        return F.instance_norm(input, None, None, weight, bias, True, momentum, eps)


def _update(running: Tensor | None, batch_C: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(batch_C.detach(), momentum)
