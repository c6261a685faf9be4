"""The user's functions tried on a few examples, before anything else: what the loss is, and what is wrong with it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladle_engine.tasks.given.data import Given, spread
from ladle_engine.tasks.given.functions import Functions
from ladle_engine.tasks.given.nested import to_device
from ladle_engine.tasks.given.user_code import refuse

EXAMPLES = 8
RELATIVE, ABSOLUTE = 5e-4, 1e-5
"""Sums of float32 in another order, or of another size, differ by less."""
COARSE = 3e-2
"""The same on a GPU, whose matrix products may be less precise."""


class Kind(enum.StrEnum):
    """Of what a loss returns."""

    PER_EXAMPLE = "per example"
    MEAN = "mean"
    """Of the examples: that of the whole is the mean of the parts'."""
    TOGETHER = "together"
    """It depends on which examples are in the batch, as a mean over tokens or a comparison between examples does."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was found."""

    kind: Kind
    scores: Mapping[str, Tensor]
    """What `metrics` returns for the examples that were tried."""
    remarks: tuple[str, ...]


def try_functions(functions: Functions, given: Given, device: torch.device) -> Trial:
    """Raises `TaskError` (task-failed) for functions that fail, or break a rule."""
    model = functions.build_model().to(device).float().eval()
    indices = spread(len(given), EXAMPLES)
    tried = _Tried(functions=functions, given=given, model=model, device=device)
    _refuse_other_model(tried, indices)
    with torch.no_grad(), _unchanged(functions, model):
        kind, remarks = tried.kind_of_batches(indices) if given.is_whole_batches else tried.kind_of_rows(indices)
        scores = tried.scores(indices)
    return Trial(kind=kind, scores=scores, remarks=tuple(remarks))


@dataclass(frozen=True, kw_only=True)
class _Tried:
    functions: Functions
    given: Given
    model: nn.Module
    device: torch.device

    def losses(self, indices: Sequence[int]) -> Tensor:
        return self.functions.losses(self.model, to_device(self.given.fetch(indices), self.device))

    def scores(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Of whole batches, the first one's."""
        used = indices[:1] if self.given.is_whole_batches else indices
        scores = self.functions.scores(self.model, to_device(self.given.fetch(used), self.device))
        for name, rows in scores.items():
            if not self.given.is_whole_batches and len(rows) != len(used):
                refuse(
                    "metrics",
                    f"return one value per example for `{name}`, [{len(used)}] here",
                    f"returns {list(rows.shape)}",
                    self.functions.metrics,
                )
        return scores

    def kind_of_batches(self, indices: Sequence[int]) -> tuple[Kind, list[str]]:
        one, again = self.losses(indices[:1]), self.losses(indices[:1])
        return Kind.MEAN if one.ndim == 0 else Kind.PER_EXAMPLE, [] if self.close(one, again) else [_noisy(one, again)]

    def kind_of_rows(self, indices: Sequence[int]) -> tuple[Kind, list[str]]:
        whole, again = self.losses(indices), self.losses(indices)
        remarks = [] if self.close(whole, again) else [_noisy(whole, again)]
        half, count = len(indices) // 2, len(indices)
        cuts = [cut for cut in dict.fromkeys((1, half // 2, half, count - 1)) if 0 < cut < count]
        parts = [(self.losses(indices[:cut]), self.losses(indices[cut:]), cut) for cut in cuts]
        if whole.ndim == 1:
            self._refuse_wrong_length(whole, len(indices))
            apart = any(not self.close(whole, torch.cat([one.reshape(-1), other])) for one, other, _ in parts)
            return Kind.PER_EXAMPLE, [*remarks, _ALONE] if apart and not remarks else remarks
        return self._kind_of_scalar(whole, parts, len(indices), remarks)

    def _kind_of_scalar(
        self, whole: Tensor, parts: list[tuple[Tensor, Tensor, int]], count: int, remarks: list[str]
    ) -> tuple[Kind, list[str]]:
        means = [(one * cut + other * (count - cut)) / count for one, other, cut in parts]
        sums = [one + other for one, other, _ in parts]
        if all(self.close(whole, mean) for mean in means) or remarks:
            return Kind.MEAN, remarks
        if all(self.close(whole, total) for total in sums):
            refuse(
                "loss",
                "return the mean over the batch's examples, or one value for each of them",
                f"returns their sum: {float(whole):g} for {count} examples, as much as that of their parts together. "
                f'`reduction="none"` gives one value for each',
                self.functions.loss,
            )
        worst = max(means, key=lambda mean: abs(float(mean - whole)))
        return Kind.TOGETHER, [_together(whole, worst, count)]

    def _refuse_wrong_length(self, losses: Tensor, count: int) -> None:
        if len(losses) != count:
            rule = f"return the loss of each example, [{count}] here, or their mean"
            refuse("loss", rule, f"returns {list(losses.shape)}", self.functions.loss)

    def close(self, one: Tensor, other: Tensor) -> bool:
        if one.shape != other.shape or not bool(torch.isfinite(one).all() and torch.isfinite(other).all()):
            # Weights that nobody has trained may give anything.
            return one.shape == other.shape
        relative = RELATIVE if self.device.type == "cpu" else COARSE
        return torch.allclose(one, other, rtol=relative, atol=ABSOLUTE)


def _refuse_other_model(tried: _Tried, indices: Sequence[int]) -> None:
    """A notebook's function easily takes the notebook's model in the place of the one that it is given."""
    loss = tried.losses(indices[:1] if tried.given.is_whole_batches else indices).mean()
    function = tried.functions.loss
    if not loss.requires_grad:
        value = "returns a tensor without a gradient (`detach`, `item`, `no_grad` and `argmax` lose it)"
        refuse("loss", "be differentiable by the model's parameters", value, function)
    loss.backward()
    if all(parameter.grad is None for parameter in tried.model.parameters()):
        rule = "be computed with the model that it is given, its first argument"
        refuse("loss", rule, "no parameter of that gets a gradient. Does it take another model?", function)
    tried.model.zero_grad(set_to_none=True)


@contextmanager
def _unchanged(functions: Functions, model: nn.Module) -> Iterator[None]:
    """Raises `TaskError` (task-failed) for functions that change the model, or its mode."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield
    function = functions.loss
    if any(module.training for module in model.modules()):
        refuse("loss", "leave the model in the mode that it is in", "puts it in training mode", function)
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor.nan_to_num(), before[name].nan_to_num()):
            refuse("loss", "leave the model as it is", f"changes `{name}`", function)


def _noisy(one: Tensor, other: Tensor) -> str:
    return (
        f"`loss=` gives another value for the same batch and weights the second time ({float(one.mean()):g}, then "
        f"{float(other.mean()):g}), so models are told apart less well than the intervals say."
    )


_ALONE = (
    "`loss=` gives an example another value when others are in its batch, by padding perhaps. Results then change with "
    "`batch_size`."
)


def _together(whole: Tensor, mean: Tensor, count: int) -> str:
    return (
        f"`loss=` is no mean over examples: it is {float(whole):g} for {count} examples together, and {float(mean):g} "
        f"for the mean of their parts. A mean over tokens, weights of classes or a comparison between examples does "
        f"that. Results change with `batch_size` and the number of ranks. One value for each example does not."
    )
