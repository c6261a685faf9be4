"""The rules of `Task`: each function says how a value breaks one, or None. `guard` raises it, `testing` collects it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.options import describe_options
from ladle_engine.tasks.base import Metric

METHODS = ("recognises", "from_options", "build_model", "stored_names", "open_data", "loss", "evaluate")
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
"""Of tasks and metrics, as a job's spec takes them."""
SHOWN_CHARS = 80


@dataclass(frozen=True)
class Broken:
    """A rule and what was found instead: "`loss` of task `x` must RULE, but VALUE."."""

    part: str
    """The method or attribute of the task."""
    rule: str
    value: str

    def message(self, task: str, place: str = "") -> str:
        return f"`{self.part}` of task `{task}` must {self.rule}, but {self.value}{place}."


def broken_declarations(task: Any) -> list[Broken]:
    """Of a task's class, or of an instance: what needs neither options nor checkpoints."""
    found = [
        Broken(name, "be a method", f"is {shown(getattr(task, name, None))}")
        for name in METHODS
        if not callable(getattr(task, name, None))
    ]
    name, summary = getattr(task, "name", None), getattr(task, "summary", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        found.append(Broken("name", "be lower-case letters, digits, `-`, `_` and `.`", f"is {shown(name)}"))
    if not isinstance(summary, str):
        found.append(Broken("summary", "be a text", f"is {shown(summary)}"))
    metrics: Any = getattr(task, "metrics", None)
    found += _broken_metrics(metrics)
    if not found and any(metric.generated for metric in metrics) and not callable(getattr(task, "generate", None)):
        found.append(Broken("generate", "be a method, because there are `generated` metrics", "is absent"))
    return [*found, *_broken_options(getattr(task, "options_type", None))]


def _broken_metrics(metrics: Any) -> list[Broken]:
    if not isinstance(metrics, Sequence) or not metrics or not all(isinstance(metric, Metric) for metric in metrics):
        return [Broken("metrics", "be a tuple of at least one `Metric`", f"is {shown(metrics)}")]
    found = [
        Broken("metrics", "have names of lower-case letters, digits, `-`, `_` and `.`", f"has {shown(metric.name)}")
        for metric in metrics
        if not isinstance(metric.name, str) or not NAME.fullmatch(metric.name)
    ]
    found += [broken for metric in metrics if (broken := _broken_function(metric))]
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        found.append(Broken("metrics", "have a name of its own for each", f"has {', '.join(map(str, names))}"))
    loss = next((metric for metric in metrics if metric.name == "loss"), None)
    if loss is None:
        found.append(Broken("metrics", "have one named `loss`", f"has only {', '.join(map(str, names))}"))
    elif loss.higher_is_better:
        found.append(Broken("metrics", "have a `loss` of which less is better", "says that more of it is better"))
    elif loss.generated:
        found.append(Broken("metrics", "have a `loss` that `evaluate` gives", "says that it is `generated`"))
    return found


def _broken_function(metric: Metric) -> Broken | None:
    """Of a metric that is no mean."""
    if metric.of is None:
        if metric.statistics or metric.rises_with is not None:
            rule = "have `statistics` and `rises_with` only beside `of`, the function of them"
            return Broken("metrics", rule, f"`{metric.name}` has no `of`")
        return None
    if not callable(metric.of):
        return Broken("metrics", "have functions as `of`", f"that of `{metric.name}` is {shown(metric.of)}")
    if not metric.statistics:
        return Broken("metrics", "name the `statistics` that `of` takes", f"`{metric.name}` has none")
    if metric.rises_with is not None and metric.rises_with not in metric.statistics:
        rule = "name one of the `statistics` as `rises_with`"
        return Broken("metrics", rule, f"that of `{metric.name}` is {shown(metric.rises_with)}")
    return None


def _broken_options(options_type: Any) -> list[Broken]:
    if not (isinstance(options_type, type) and dataclasses.is_dataclass(options_type)):
        return [Broken("options_type", "be a dataclass of `option` fields", f"is {shown(options_type)}")]
    try:
        json.dumps(describe_options(options_type))
    except Exception as error:
        # Annotations that do not resolve, defaults that are no JSON values: NameError, TypeError, AttributeError ...
        return [Broken("options_type", "have defaults and types that JSON has", f"fails with {shown(error)}")]
    return []


def broken_batch_size(batch_size: Any) -> Broken | None:
    if isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1:
        return None
    return Broken("batch_size", "be a whole number from 1", f"is {shown(batch_size)}")


def broken_model(model: Any) -> Broken | None:
    if isinstance(model, nn.Module):
        return None
    return Broken("build_model", "return a `torch.nn.Module`", f"returns {shown(model)}")


def broken_memory(model: nn.Module) -> Broken | None:
    """Of a model that is not to be sharded: every tensor must have memory."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    if (name := next((name for name, tensor in tensors if tensor.is_meta), None)) is None:
        return None
    return Broken("build_model", "return a model whose tensors have memory", f"returns `{name}` on the device `meta`")


def broken_names(names: Any) -> Broken | None:
    """What `stored_names` returns."""
    if isinstance(names, Mapping) and all(
        isinstance(name, str) and (stored is None or isinstance(stored, str)) for name, stored in names.items()
    ):
        return None
    return Broken("stored_names", "return a mapping from names to names, `{}` for none", f"returns {shown(names)}")


def broken_data(data: Any, part: str = "open_data") -> Broken | None:
    """What `open_data` or `open_unlabelled` returns."""
    if hasattr(data, "__len__") and callable(getattr(data, "batch", None)):
        return None
    return Broken(part, "return a data set with `__len__` and `batch`", f"returns {shown(data)}")


def broken_batch(batch: Any, count: int) -> Broken | None:
    """What a data set's `batch` returns for `count` indices."""
    part = "open_data(...).batch"
    if not isinstance(batch, Mapping) or not batch:
        return Broken(part, "return a mapping from names to tensors", f"returns {shown(batch)}")
    for name, tensor in batch.items():
        if not isinstance(tensor, Tensor):
            return Broken(part, f"return a tensor for `{name}`", f"returns {shown(tensor)}")
        if tensor.ndim == 0 or len(tensor) != count:
            rule = f"return tensors whose first dimension is the example, {count} of them here"
            return Broken(part, rule, f"returns {shown(tensor)} for `{name}`")
    return None


def broken_loss(loss: Any, device: torch.device, part: str = "loss") -> Broken | None:
    """What `loss` or `entropy` returns for a batch on `device`."""
    rule = f"return the mean {part} over the batch, a float32 scalar tensor"
    if not isinstance(loss, Tensor) or loss.ndim != 0 or loss.dtype != torch.float32:
        return Broken(part, rule, f"returns {shown(loss)}")
    if loss.device != device:
        return Broken(part, f"return a tensor on the batch's device, {device}", f"returns one on {loss.device}")
    if torch.is_grad_enabled() and not loss.requires_grad:
        value = "returns a tensor without a gradient (`detach`, `item` and `argmax` lose it)"
        return Broken(part, "be differentiable by the model's parameters", value)
    return None


def broken_logits(logits: Any, count: int) -> Broken | None:
    """What `logits` returns for a batch of `count` examples."""
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == count and logits.dtype == torch.float32:
        return None
    return Broken("logits", f"return one row of numbers per example, float32 [{count}, C] here", _returns(logits))


def broken_targets(targets: Any, count: int) -> Broken | None:
    """What `targets` returns for a batch of `count` examples."""
    if isinstance(targets, Tensor) and targets.ndim >= 1 and len(targets) == count:
        return None
    return Broken(
        "targets", f"return a tensor whose first dimension is the example, [{count}, ...] here", _returns(targets)
    )


def broken_loss_of_logits(loss: Any, logits: Tensor) -> Broken | None:
    """What `of_logits` returns as `loss`."""
    if isinstance(loss, Tensor) and loss.shape == logits.shape[:1] and loss.dtype == logits.dtype:
        return None
    rule = f"return one `loss` per example in the type of the logits, {shown(logits[:, 0])} here"
    return Broken("of_logits", rule, _returns(loss))


def broken_scores(
    scores: Any, metrics: Sequence[Metric], count: int, device: torch.device, part: str = "evaluate"
) -> Broken | None:
    """What `evaluate` or `generate` returns for a batch of `count` examples on `device`; `metrics` are those of it."""
    if not isinstance(scores, Mapping):
        return Broken(part, "return a mapping from metric names to tensors", f"returns {shown(scores)}")
    for metric in metrics:
        for name in metric.needs:
            if name not in scores:
                names = ", ".join(f"`{name}`" for name in scores) or "none"
                rule = f"return every metric of `metrics`, so `{name}` too"
                if metric.of is not None:
                    rule = f"return every statistic that `metrics` need, so `{name}` for `{metric.name}` too"
                return Broken(part, rule, f"returns {names}")
            if broken := _broken_rows(part, name, scores[name], metric, count):
                return broken
            if scores[name].device not in (device, torch.device("cpu")):
                rule = f"return values on the batch's device, {device}, for `{name}`"
                return Broken(part, rule, f"returns some on {scores[name].device}")
    return None


def _broken_rows(part: str, name: str, rows: Any, metric: Metric, count: int) -> Broken | None:
    """A mean has one float32 per example; other metrics may be made of several numbers per example, whole ones too."""
    if metric.of is None or name == metric.rises_with:
        numbers = metric.of is not None or (isinstance(rows, Tensor) and rows.dtype in _value_types(rows))
        if isinstance(rows, Tensor) and rows.shape == (count,) and numbers and not rows.is_complex():
            return None
        kind = "float32 " if metric.of is None else ""
        return Broken(
            part, f"return one value per example for `{name}`, {kind}[{count}] here", f"returns {shown(rows)}"
        )
    if isinstance(rows, Tensor) and rows.ndim in (1, 2) and len(rows) == count and not rows.is_complex():
        return None
    rule = f"return one row of numbers per example for `{name}`, [{count}] or [{count}, S] here"
    return Broken(part, rule, f"returns {shown(rows)}")


def _returns(value: Any) -> str:
    return f"returns {shown(value)}"


def _value_types(rows: Tensor) -> tuple[torch.dtype, ...]:
    """Under autocast a task of one's own may come to halves without knowing."""
    autocast = rows.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(rows.device.type)
    halves = (torch.bfloat16, torch.float16) if autocast else ()
    return (torch.float32, *halves)


def out_of_range(scores: Mapping[str, Tensor], metrics: Sequence[Metric], part: str = "evaluate") -> Broken | None:
    """The first statistic with values that are not finite, or beyond the range that its metric declares."""
    for metric in metrics:
        for name in metric.needs:
            values = scores[name].detach().to(device="cpu", dtype=torch.float64)
            if not bool(torch.isfinite(values).all()):
                return Broken(part, f"return finite values for `{name}`", f"returns {_extremes(values)}")
            if name == metric.per_example and bool(((values < metric.low) | (values > metric.high)).any()):
                rule = f"return values from {metric.low:g} to {metric.high:g} for `{name}`, as `metrics` says"
                return Broken(part, rule, f"returns {_extremes(values)}")
    return None


def broken_finite(loss: float, count: int, weights: str, part: str = "loss") -> Broken | None:
    """`weights` says whose they are."""
    if math.isfinite(loss):
        return None
    return Broken(part, "be finite", f"is {loss} on the first {count} examples with the weights of {weights}")


def shown(value: Any) -> str:
    """A value in a few words: a tensor by type and shape, others by type and the beginning of their text."""
    if isinstance(value, Tensor):
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{where}"
    if value is None:
        return "None"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # A plug-in's own `__repr__` may fail as well.
        text = "without a text"
    return f"{type(value).__name__} {text[:SHOWN_CHARS]}"


def _extremes(values: Tensor) -> str:
    return f"values from {float(values.min()):g} to {float(values.max()):g}"
