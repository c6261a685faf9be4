"""An image classifier of transformers, which `config.json` names, and the processor that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ladle_engine.checkpoints.training_args import training_args
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.images.preprocessing import PlainPreprocessing, Preprocessing
from ladle_engine.tasks.images.processor import Overrides, open_processor
from ladle_engine.tasks.images.processor_file import find_processor
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.transformers_names import stored_names


@dataclass(frozen=True, kw_only=True)
class TransformersSource:
    checkpoints: CheckpointSet

    def build(self) -> nn.Module:
        _refuse_unknown(self.checkpoints)
        config = model_config.parse_config(self.checkpoints)
        return model_config.build(self.checkpoints, config, "AutoModelForImageClassification")

    def stored_names(self, model: nn.Module) -> Mapping[str, str | None]:
        # A plug-in's own model has no names but its own.
        return stored_names(model, self.checkpoints) if is_of_transformers(model) else {}

    def shape(self) -> ImageShape:
        """From the config's `num_channels` and `id2label`."""
        _refuse_unknown(self.checkpoints)
        config = model_config.checked(self.checkpoints)
        num_classes, names = model_config.class_ids(config)
        return ImageShape(channels=model_config.num_channels(config), num_classes=num_classes, class_ids=names)

    def preprocessing(self, shape: ImageShape, overrides: Overrides) -> Preprocessing:
        """The folder's processor with the task's options in its place; without one, a resize to the model's size."""
        overrides.refuse_cropping()
        file = find_processor(self.checkpoints)
        if file is not None and shape.channels in (1, 3):
            return open_processor(file, self.checkpoints, shape.channels, overrides)
        if (overrides.mean is None) != (overrides.std is None):
            absent = "mean" if overrides.mean is None else "std"
            raise TaskError(
                "invalid-task-options",
                f"`mean` and `std` must be given together where no processor lies beside the checkpoints, but "
                f"`{absent}` is absent.",
            )
        side = overrides.image_size
        size = model_config.image_size(self.checkpoints.config or {}) if side is None else (side, side)
        return PlainPreprocessing(size=size, mean=overrides.mean, std=overrides.std)


def _refuse_unknown(checkpoints: CheckpointSet) -> None:
    """Raises `TaskError` (model-mismatch) where nothing says which model it is."""
    if checkpoints.config is None:
        has_args = training_args(checkpoints) is not None
        args = " Its `args.yaml` is not timm's, or does not parse." if has_args else ""
        raise TaskError(
            "model-mismatch",
            f"Task `image-classification` must know the model: by a `config.json` of transformers or timm, by timm's "
            f"`args.yaml`, or by the task option `model`, such as `timm:resnet18`. But `{checkpoints.folder}` has "
            f"neither file, and the option is absent.{args} For a model of your own write a task: see docs/tasks.md.",
        )


def is_of_transformers(model: nn.Module) -> bool:
    return hasattr(model, "from_pretrained")
