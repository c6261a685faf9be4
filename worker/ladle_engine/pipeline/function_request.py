"""A request whose task is made of functions: what `average` makes of `model`, `loss`, `data` and `metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_engine.pipeline.request import Request
from ladle_engine.pipeline.splits import default_device, usable_device
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.contract import shown
from ladle_engine.tasks.function import TRAIN_SET, FunctionTask, placeholder
from ladle_engine.tasks.given.data import refuse_other_kinds
from ladle_engine.tasks.given.functions import Functions

NEEDED = ("model", "loss", "data")


def make_request(arguments: Mapping[str, Any]) -> Request:
    """The arguments of `average` as a request. Raises `ValueError` for those that do not go together."""
    others = dict(arguments)
    given = {name: others.pop(name, None) for name in (*NEEDED, "metrics")}
    if all(value is None for value in given.values()):
        return _with_paths(others)
    if missing := next((name for name in NEEDED if given[name] is None), None):
        names = ", ".join(f"`{name}`" for name in NEEDED)
        raise ValueError(f"{names} must be given together, but `{missing}` is absent.")
    for name, why in (("val_set", "`data` stands in its place"), ("task", "`model` and `loss` stand in its place")):
        if others.get(name) is not None:
            raise ValueError(
                f"`{name}` must be absent where `data` is given, because {why}, but is {shown(others[name])}."
            )
    functions = Functions(model=given["model"], loss=given["loss"], metrics=given["metrics"])
    return _of_functions(functions, given["data"], others)


def _with_paths(others: dict[str, Any]) -> Request:
    if others.get("val_set") is None:
        raise ValueError(
            "`val_set` must be a path, or `data` with `model` and `loss` must be given, but both are absent."
        )
    if isinstance(others.get("metric"), Metric):
        raise ValueError("`metric` must be a name where no `model`, `loss` and `data` are given, but is a `Metric`.")
    return Request(**others)


def _of_functions(functions: Functions, data: Any, others: dict[str, Any]) -> Request:
    """`data` may be several sets by name, as `val_set` may."""
    if isinstance(data, Mapping):
        if not data:
            raise ValueError("`data` must hold at least one set, but is an empty mapping.")
        labels = {name: f'data["{name}"]' for name in data}
        sets = {labels[name]: each for name, each in data.items()}
        places: dict[str, Any] = {"val_set": {name: placeholder(label) for name, label in labels.items()}}
    else:
        sets, places = {"data": data}, {"val_set": placeholder("data")}
    if others.get(TRAIN_SET) is not None:
        sets[TRAIN_SET] = others[TRAIN_SET]
        places[TRAIN_SET] = placeholder(TRAIN_SET)
    for label, each in sets.items():
        refuse_other_kinds(label, each)
    metric, device = others.get("metric"), others.get("device")
    declared = metric if isinstance(metric, Metric) else None
    task = FunctionTask(
        functions,
        sets,
        device=usable_device(device) if device is not None else default_device(),
        options=others.get("task_options") or {},
        declared=declared,
    )
    return Request(
        **{**others, **places, "task": task, "task_options": None, "metric": declared.name if declared else metric}
    )
