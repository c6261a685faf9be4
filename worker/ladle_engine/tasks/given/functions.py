"""The functions of a user's: called, and what they return brought into the engine's form."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.contract import NAME, shown
from ladle_engine.tasks.given.nested import shown as shown_batch
from ladle_engine.tasks.given.user_code import functions_faults, refuse

Loss = Callable[[nn.Module, Any], Any]
"""A model and a batch -> the loss of each example [B], or their mean."""
Metrics = Callable[[nn.Module, Any], Mapping[str, Tensor]]
"""A model and a batch -> name -> a value of each example [B]."""
LOWER_IS_BETTER = {
    *("loss", "error", "errors", "err", "nll", "perplexity", "ppl", "mse", "mae", "rmse", "wer", "cer", "ter"),
    *("brier", "ece", "distance"),
}
"""Words in the names of metrics of which less is better, unless a `Metric` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Functions:
    """Raises `ValueError` for what cannot be called as it will be."""

    model: nn.Module | Callable[[], nn.Module]
    loss: Loss
    metrics: Metrics | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            _refuse_uncallable("model", self.model, "a `torch.nn.Module` or a function that builds one", 0)
        _refuse_criterion(self.loss)
        _refuse_uncallable("loss", self.loss, "a function of the model and a batch", 2)
        if self.metrics is not None:
            _refuse_uncallable("metrics", self.metrics, "a function of the model and a batch", 2)

    def build_model(self) -> nn.Module:
        """One of the engine's own: the user's stays as it is."""
        if isinstance(self.model, nn.Module):
            return _copied(_unwrapped(self.model))
        with functions_faults("model", self.model, "nothing"):
            built: Any = self.model()
        if not isinstance(built, nn.Module):
            refuse("model", "build a `torch.nn.Module`", f"builds {shown(built)}", self.model)
        return _unwrapped(built)

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """float32, [B] or a scalar."""
        with functions_faults("loss", self.loss, _called_with(batch)):
            value: Any = self.loss(model, batch)
        if isinstance(value, Mapping) and "loss" in value:
            # As Lightning's steps and the models of transformers return it.
            value = value["loss"]
        rule = "return a tensor: the loss of each example [B], or their mean"
        if not isinstance(value, Tensor):
            refuse("loss", rule, f"returns {shown(value)}", self.loss)
        if value.ndim > 1 or not value.is_floating_point():
            hint = " (take the mean over all dimensions but the first)" if value.ndim > 1 else ""
            refuse("loss", rule, f"returns {shown(value)}{hint}", self.loss)
        return value.float()

    def scores(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Name -> what stands for it of each example; empty without `metrics`."""
        if self.metrics is None:
            return {}
        with functions_faults("metrics", self.metrics, _called_with(batch)):
            found: Any = self.metrics(model, batch)
        if not isinstance(found, Mapping) or not found:
            refuse("metrics", "return a mapping from names to tensors", f"returns {shown(found)}", self.metrics)
        for name, rows in found.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                rule = "return names of lower-case letters, digits, `-`, `_` and `.`"
                refuse("metrics", rule, f"returns {shown(name)}", self.metrics)
            if not isinstance(rows, Tensor):
                rule = f"return one value per example for `{name}`"
                refuse("metrics", rule, f"returns {shown(rows)} (leave out `.item()`)", self.metrics)
        return dict(found)


def _called_with(batch: Any) -> str:
    return f"the model and a batch, here {shown_batch(batch)}"


def _refuse_criterion(loss: Any) -> None:
    """A loss of torch's takes outputs and targets, and nobody but the user knows where these are in a batch."""
    module = str(getattr(loss, "__module__", ""))
    if isinstance(loss, nn.Module) or module.startswith(("torch.nn", "torch._C._nn")):
        name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
        raise ValueError(
            f"`loss` must be a function of the model and a batch, but is `{name}`, which takes outputs and targets. "
            f"Write `lambda model, batch: criterion(model(batch[0]), batch[1])`."
        )


def _refuse_uncallable(name: str, function: Any, rule: str, arguments: int) -> None:
    if not callable(function):
        raise ValueError(f"`{name}` must be {rule}, but is {shown(function)}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Built in: no telling.
        return
    taken = list(signature.parameters)
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        raise ValueError(f"`{name}` must be {rule}, but takes ({', '.join(taken)}).") from error
    if arguments == 2 and taken[0] == "batch" and taken[1] in ("model", "net", "module"):
        raise ValueError(f"`{name}` must take the model first and then the batch, but takes ({', '.join(taken)}).")


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without what runs it on several devices or compiles it: Ladle does its own."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _copied(model: nn.Module) -> nn.Module:
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        # Locks, open files, tensors with a history: whatever a module may hold.
        value = f"cannot be copied ({type(error).__name__}: {error})"
        refuse("model", "be a module that can be copied, so that yours stays as it is, or a function", value)
    for parameter in made.parameters():
        parameter.grad = None
    return made


def metrics_of(scores: Mapping[str, Tensor], declared: Metric | None) -> list[Metric]:
    """What the user's function returns, as the engine takes it; but for the loss."""
    statistics = set(declared.needs) if declared is not None and declared.of is not None else set()
    found = [
        declared if declared is not None and declared.name == name else _guessed(name, rows)
        for name, rows in scores.items()
        if name != "loss" and name not in statistics
    ]
    if declared is not None and declared not in found and declared.name != "loss":
        found.insert(0, declared)
    return found


def _guessed(name: str, rows: Tensor) -> Metric:
    higher = LOWER_IS_BETTER.isdisjoint(re.split("[-_.]", name))
    if rows.dtype == torch.bool:
        # Known bounds let the engine evaluate less.
        return Metric(name=name, higher_is_better=higher, low=0.0, high=1.0)
    return Metric(name=name, higher_is_better=higher)
