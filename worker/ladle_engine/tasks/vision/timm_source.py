"""An image classifier of timm: by name, with the data config of the training or of the model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.images.preprocessing import DEVIATIONS, MAX_SIDE, MEANS, all_within, is_number
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.model_config import no_larger_than
from ladle_engine.tasks.vision.bounds import translated_model
from ladle_engine.tasks.vision.crop_preprocessing import (
    CROP_MODES,
    INTERPOLATIONS,
    CropPreprocessing,
    scale_of,
    with_overrides,
)
from ladle_engine.tasks.vision.named_model import agreed_classes, classes_in_head, known_name
from ladle_engine.tasks.vision.timm_settings import TimmSettings


@dataclass(frozen=True, kw_only=True)
class TimmSource:
    checkpoints: CheckpointSet
    settings: TimmSettings
    image_size: int | None = None
    """The task's option: some models, vision transformers say, are built for one size."""

    def build(self) -> nn.Module:
        with self._translated():
            self._bounded(self._num_classes)
            return self._create(self._num_classes)

    def stored_names(self, model: nn.Module) -> Mapping[str, str | None]:
        return {}

    def shape(self) -> ImageShape:
        return ImageShape(
            channels=self._data_config["input_size"][0], num_classes=self._num_classes, class_ids=self._class_ids()
        )

    def preprocessing(self, shape: ImageShape, overrides: Overrides) -> CropPreprocessing:
        """As timm's `create_transform(**resolve_data_config(...), is_training=False)`."""
        config = self._data_config
        size = (config["input_size"][1], config["input_size"][2])
        preset = CropPreprocessing(
            size=size,
            scale=scale_of(size, config["crop_pct"]),
            interpolation=config["interpolation"],
            crop_mode=config["crop_mode"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
        return with_overrides(preset, overrides)

    @cached_property
    def _name(self) -> str:
        """The architecture, perhaps with the tag of its weights."""
        timm = require("timm", "vision")
        architecture, _, tag = self.settings.model.partition(".")
        where = self.settings.where
        subject = where if where.startswith("Task option") else f"The model in {where}"
        known_name(architecture, timm.list_models(), "timm", subject)
        tags = timm.list_pretrained(f"{architecture}.*")
        return f"{architecture}.{tag}" if f"{architecture}.{tag}" in tags else architecture

    @cached_property
    def _num_classes(self) -> int:
        if self.settings.num_classes is not None and self.settings.num_classes > _longest(self.checkpoints):
            raise self._refused("num_classes", "at most the length of some tensor", self.settings.num_classes)
        with self._translated():
            in_head = classes_in_head(self._bounded, self.checkpoints)
        return agreed_classes(self.settings.num_classes, in_head, self.settings.where)

    def _bounded(self, num_classes: int) -> nn.Module:
        with no_larger_than(self.checkpoints, self.settings.where):
            return self._create(num_classes)

    def _create(self, num_classes: int) -> nn.Module:
        timm = require("timm", "vision")
        model: nn.Module = timm.create_model(
            self._name, pretrained=False, **{**self._arguments, "num_classes": num_classes}
        )
        return model

    @cached_property
    def _arguments(self) -> Mapping[str, Any]:
        """Those of the file, and what only the tensors and the task's option say where it says nothing."""
        arguments = dict(self.settings.arguments)
        own = self._pretrained
        channels = _channels_of(own.get("first_conv"), self.checkpoints)
        if channels is not None and channels != own["input_size"][0]:
            arguments.setdefault("in_chans", channels)
        if self.image_size is not None and own.get("fixed_input_size"):
            arguments.setdefault("img_size", self.image_size)
        return arguments

    @cached_property
    def _pretrained(self) -> Mapping[str, Any]:
        """What timm knows of the model's weights."""
        own = require("timm.models", "vision").get_pretrained_cfg(self._name)
        return {"input_size": (3, 224, 224)} if own is None else dict(own.to_dict())

    @cached_property
    def _data_config(self) -> Mapping[str, Any]:
        """timm's own resolution, checked: a stranger's file must not make us fill the memory."""
        data = require("timm.data", "vision")
        with self._translated():
            in_chans = self._arguments.get("in_chans")
            given = dict(self.settings.data)
            if in_chans is not None:
                given = {"in_chans": in_chans, **given}
            config: dict[str, Any] = data.resolve_data_config(given, pretrained_cfg=self._pretrained)
        channels = in_chans or given.get("input_size", config["input_size"])[0]
        config["input_size"] = (channels, *config["input_size"][1:])
        for name in ("mean", "std"):
            # One for each colour, where the model takes another number of channels and nothing says more.
            if len(config[name]) != channels and name not in given:
                config[name] = (sum(config[name]) / len(config[name]),) * channels
        self._check(config)
        return config

    def _check(self, config: Mapping[str, Any]) -> None:
        size = config["input_size"]
        if len(size) != 3 or not all(type(each) is int and 1 <= each <= MAX_SIDE for each in size):
            raise self._refused("input_size", f"three whole numbers from 1 to {MAX_SIDE}", size)
        for name, bounds in (("mean", MEANS), ("std", DEVIATIONS)):
            if len(config[name]) != size[0] or not all_within(config[name], bounds):
                raise self._refused(name, f"{size[0]} numbers from {bounds[0]:g} to {bounds[1]:g}", config[name])
        if not is_number(config["crop_pct"]) or not max(size[1:]) / MAX_SIDE <= config["crop_pct"] <= 2:
            raise self._refused("crop_pct", f"a number from {max(size[1:]) / MAX_SIDE:g} to 2", config["crop_pct"])
        for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            if config[name] not in known:
                raise self._refused(name, f"one of {', '.join(known)}", config[name])

    def _class_ids(self) -> Mapping[str, int] | None:
        names = self.settings.label_names
        if not names:
            return None
        if len(names) != self._num_classes:
            raise self._refused("label_names", f"{self._num_classes} names", f"{len(names)} names")
        counts = Counter(names)
        return {name: label for label, name in enumerate(names) if counts[name] == 1}

    def _translated(self) -> Any:
        return translated_model("timm", self.settings.model, self.settings.where)

    def _refused(self, name: str, rule: str, value: Any) -> TaskError:
        return TaskError(
            "model-mismatch", f"`{name}` in {self.settings.where} must be {rule}, but is {repr(value)[:100]}."
        )


def _channels_of(first_layer: Any, checkpoints: CheckpointSet) -> int | None:
    """Of the images, from the tensors of the layer that takes them; None where it cannot be told."""
    names = [first_layer] if isinstance(first_layer, str) else list(first_layer or ())
    wanted = tuple(f"{name}.weight" for name in names)
    shapes = [info.shape for name, info in checkpoints.tensors.items() if wanted and name.endswith(wanted)]
    return shapes[0][1] if len(shapes) == 1 and len(shapes[0]) == 4 else None


def _longest(checkpoints: CheckpointSet) -> int:
    return max((max(info.shape, default=1) for info in checkpoints.tensors.values()), default=1)
