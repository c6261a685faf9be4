"""The job that a report is of, as a command, as Python and as a job spec: all from its `settings`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One argument of `average`, and what the command and the job spec call it."""

    name: str
    path: str
    flag: str
    default: Any = None


SETTINGS = (
    Setting("kind", "kind", "--kind", "average"),
    Setting("curve_every", "curve.every", "--curve-every"),
    Setting("curve_shapes", "curve.shapes", "--curve-shape", ()),
    Setting("curve_windows", "curve.windows", "--curve-windows", 1),
    Setting("method", "method.name", "--method", "auto"),
    Setting("method_options", "method.options", "--method-option"),
    Setting("task", "task.name", "--task"),
    Setting("task_options", "task.options", "--task-option"),
    Setting("pattern", "checkpoints.pattern", "--pattern"),
    Setting("last", "checkpoints.last", "--last"),
    Setting("steps", "checkpoints.steps", "--steps"),
    Setting("exclude", "checkpoints.exclude", "--exclude"),
    Setting("order", "checkpoints.order", "--order", "auto"),
    Setting("component", "checkpoints.component", "--component"),
    Setting("use_ema", "checkpoints.use_ema", "--use-ema", False),
    Setting("like", "checkpoints.like", "--like"),
    Setting("skip_tensors", "checkpoints.skip_tensors", "--skip-tensor"),
    Setting("take_from", "checkpoints.take_from", "--take-from"),
    Setting("adapter_space", "adapters.space", "--adapter-space", "delta"),
    Setting("adapter_rank", "adapters.rank", "--adapter-rank"),
    Setting("adapter_error", "adapters.error", "--adapter-error"),
    Setting("base_model", "adapters.base_model", "--base-model"),
    Setting("base", "base", "--base"),
    Setting("train_set", "train_set.path", "--train-set"),
    Setting("train_set_use", "train_set.use", "--train-set-use", "coefficients"),
    Setting("select_fraction", "select_fraction", "--select-fraction", 0.5),
    Setting("metric", "metric", "--metric"),
    Setting("judge_by", "judge_by", "--judge-by", "first"),
    Setting("no_set_worse", "no_set_worse", "--no-set-worse", False),
    Setting("diagnose", "diagnose", "--diagnose", False),
    Setting("dtype", "output.dtype", "--dtype", "keep"),
    Setting("seed", "seed", "--seed", 0),
    Setting("precision", "resources.precision", "--precision", "auto"),
)
"""Those that decide a result, with their defaults. One without a default is absent where it is empty."""


def chosen(settings: Mapping[str, Any]) -> dict[Setting, Any]:
    """What differs from the defaults."""
    found = {each: settings.get(each.name) for each in SETTINGS}
    return {each: value for each, value in found.items() if value not in (None, each.default, {}, [])}


def has_paths(settings: Mapping[str, Any]) -> bool:
    """Whether the data came from files: a program's own data have no command."""
    return bool(settings.get("ckpt_dir")) and isinstance(settings.get("val_set"), (str, Mapping))


def command(settings: Mapping[str, Any]) -> str:
    """`ladle run ...`, one flag per line."""
    folders = settings["ckpt_dir"]
    first, *also = folders if isinstance(folders, list) else [folders]
    val_set = settings["val_set"]
    sets = [f"{name}={path}" for name, path in val_set.items()] if isinstance(val_set, Mapping) else [val_set]
    lines = [["ladle", "run", first, *sets], *([["--also", each] for each in also])]
    for setting, value in chosen(settings).items():
        lines += [[setting.flag, *words] for words in _words(setting, value)]
    return " \\\n  ".join(shlex.join(map(str, line)) for line in lines)


def _words(setting: Setting, value: Any) -> list[list[str]]:
    """What follows the flag, each time that it is given."""
    match value:
        case True:
            return [[]]
        case Mapping() if setting.name == "take_from":
            return [[name, each] for name, globs in value.items() for each in _several(globs)]
        case Mapping():
            return [[f"{name}={_value(each)}"] for name, each in value.items()]
        case list() if setting.name == "steps":
            return [[",".join(map(str, value))]]
        case list():
            return [[str(each)] for each in value]
        case _:
            return [[str(value)]]


def _several(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def python(settings: Mapping[str, Any]) -> str:
    """The call of `average`."""
    arguments = [repr(settings["ckpt_dir"]), repr(settings["val_set"]), 'output="again"']
    arguments += [f"{setting.name}={value!r}" for setting, value in chosen(settings).items()]
    inside = "".join(f"    {each},\n" for each in arguments)
    return f"from ladle_engine import average\n\naverage(\n{inside})"


def spec(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `POST /v1/jobs` takes."""
    found: dict[str, Any] = {"ckpt_dir": settings["ckpt_dir"], "val_set": settings["val_set"]}
    for setting, value in chosen(settings).items():
        *parents, name = setting.path.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return found
