"""What timm writes beside its checkpoints: `args.yaml` of its training script, or `config.json` of its Hub layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladle_engine.checkpoints.plain_yaml import read_yaml
from ladle_engine.checkpoints.training_args import MAX_ARGS_BYTES, training_args
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.storage.input_paths import read_bytes

OF_TIMM = frozenset({"model", "num_classes", "crop_pct", "interpolation"})
"""Keys of every `args.yaml` of timm's: other tools write a file of this name too."""
REFUSED_ARGUMENTS = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        *("features_only", "pretrained_strict", "pretrained_custom_load", "kwargs_filter", "feature_cfg"),
    }
)
"""Arguments with which a model would read other files, or be no classifier."""


@dataclass(frozen=True, kw_only=True)
class TimmSettings:
    where: str
    """For messages: "`args.yaml`"."""
    model: str
    num_classes: int | None
    arguments: Mapping[str, Any]
    """For the model, besides the number of classes."""
    data: Mapping[str, Any]
    """What stands in for the data config of the model's own `pretrained_cfg`, by timm's names."""
    label_names: tuple[str, ...] = field(default=())


def find_settings(checkpoints: CheckpointSet) -> TimmSettings | None:
    """None where neither file is timm's. Raises `TaskError` (model-mismatch) for one with wrong values."""
    config = checkpoints.config or {}
    if _is_hub_config(config):
        return _of_hub_config(config)
    # A model of transformers, be it timm's in a wrapper, is built from its own config.
    args = None if "model_type" in config else _read_args(checkpoints)
    return None if args is None else _of_args(args)


def is_of_timm(checkpoints: CheckpointSet) -> bool:
    config = checkpoints.config or {}
    return _is_hub_config(config) or ("model_type" not in config and _read_args(checkpoints) is not None)


def _is_hub_config(config: Mapping[str, Any]) -> bool:
    return (
        isinstance(config.get("architecture"), str)
        and isinstance(config.get("pretrained_cfg"), dict)
        and "model_type" not in config
    )


def _read_args(checkpoints: CheckpointSet) -> Mapping[str, Any] | None:
    """The values of timm's `args.yaml`; None where there is none, or where it is of another tool."""
    path = training_args(checkpoints)
    if path is None:
        return None
    try:
        content = read_bytes(path, MAX_ARGS_BYTES)
        parsed = None if len(content) > MAX_ARGS_BYTES else read_yaml(content)
    except (OSError, ValueError):
        # Whoever names the model needs no such file.
        return None
    return parsed if isinstance(parsed, dict) and parsed.keys() >= OF_TIMM else None


def _of_args(args: Mapping[str, Any]) -> TimmSettings:
    where = "`args.yaml`"
    in_chans = _whole(args, "in_chans", where)
    input_size = args.get("input_size")
    if in_chans is None and isinstance(input_size, list) and input_size and type(input_size[0]) is int:
        in_chans = input_size[0]
    arguments = {
        "in_chans": in_chans,
        "global_pool": args.get("gp"),
        "bn_eps": args.get("bn_eps"),
        **_arguments(args, "model_kwargs", where),
    }
    names = ("in_chans", "input_size", "img_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return TimmSettings(
        where=where,
        model=_name(args, "model", where),
        num_classes=_whole(args, "num_classes", where),
        arguments={name: value for name, value in arguments.items() if value is not None},
        data={name: args[name] for name in names if args.get(name) is not None},
    )


def _of_hub_config(config: Mapping[str, Any]) -> TimmSettings:
    where = "`config.json`"
    pretrained = config["pretrained_cfg"]
    arguments = _arguments(config, "model_args", where)
    if config.get("global_pool") is not None:
        arguments = {"global_pool": config["global_pool"], **arguments}
    names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    labels = config.get("label_names") or pretrained.get("label_names") or ()
    return TimmSettings(
        where=where,
        model=_name(config, "architecture", where),
        num_classes=_whole(config, "num_classes", where),
        arguments=arguments,
        data={name: pretrained[name] for name in names if pretrained.get(name) is not None},
        label_names=_labels(labels, where),
    )


def _name(values: Mapping[str, Any], key: str, where: str) -> str:
    name = values.get(key)
    if not isinstance(name, str):
        raise _refused(key, where, "the name of a model", name)
    # What timm's training script takes for its own weights on the Hub: only the name counts here.
    for prefix in ("hf-hub:timm/", "hf_hub:timm/"):
        name = name.removeprefix(prefix)
    return name


def _whole(values: Mapping[str, Any], key: str, where: str) -> int | None:
    value = values.get(key)
    if value is not None and (type(value) is not int or value < 1):
        raise _refused(key, where, "a whole number of at least 1", value)
    return value


def _arguments(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    given = values.get(key) or {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise _refused(key, where, "an object of arguments", given)
    if refused := sorted(given.keys() & REFUSED_ARGUMENTS):
        raise _refused(key, where, f"without `{refused[0]}`, which is no part of an architecture", given)
    return dict(given)


def _labels(labels: Any, where: str) -> tuple[str, ...]:
    values = list(labels.values()) if isinstance(labels, dict) else labels
    if not isinstance(values, (list, tuple)) or not all(isinstance(each, str) for each in values):
        raise _refused("label_names", where, "a list of names", labels)
    return tuple(values)


def _refused(key: str, where: str, rule: str, value: Any) -> TaskError:
    return TaskError("model-mismatch", f"`{key}` in {where} must be {rule}, but is {repr(value)[:100]}.")
