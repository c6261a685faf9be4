"""Which library a folder's image classifier comes from: what the task's option names, or what the folder says."""

from __future__ import annotations

from dataclasses import replace

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.vision.clip_layout import SoupSource, is_soup
from ladle_engine.tasks.vision.named_model import known_name
from ladle_engine.tasks.vision.sources import ModelSource
from ladle_engine.tasks.vision.timm_settings import TimmSettings, find_settings, is_of_timm
from ladle_engine.tasks.vision.timm_source import TimmSource
from ladle_engine.tasks.vision.torchvision_source import TorchvisionSource
from ladle_engine.tasks.vision.transformers_source import TransformersSource

LIBRARIES = ("timm", "torchvision")
OPTION = "Task option `model`"


def source_of(
    checkpoints: CheckpointSet, model: str | None, image_size: int | None, activation: str | None
) -> ModelSource:
    """`model` is the task's option. Raises `TaskError` for one that neither library has, or both."""
    if model is not None:
        return _named(checkpoints, model, image_size)
    if (settings := find_settings(checkpoints)) is not None:
        return TimmSource(checkpoints=checkpoints, settings=settings, image_size=image_size)
    if is_soup(checkpoints):
        return SoupSource(checkpoints=checkpoints, activation=activation or "quick_gelu")
    return TransformersSource(checkpoints=checkpoints)


def _named(checkpoints: CheckpointSet, model: str, image_size: int | None) -> ModelSource:
    library, colon, name = model.partition(":")
    if not colon:
        library, name = _library_of(model), model
    if library not in LIBRARIES:
        raise TaskError(
            "invalid-task-options",
            f"{OPTION} must be `timm:NAME` or `torchvision:NAME`, but is `{model[:200]}`.",
        )
    if library == "torchvision":
        return TorchvisionSource(checkpoints=checkpoints, model=name, image_size=image_size)
    settings = TimmSettings(where=OPTION, model=name, num_classes=None, arguments={}, data={})
    if (found := find_settings(checkpoints)) is not None:
        # What a file of timm's says besides still holds.
        same = found.model.partition(".")[0] == name.partition(".")[0]
        arguments = found.arguments if same else {}
        settings = replace(settings, arguments=arguments, data=found.data, label_names=found.label_names)
    return TimmSource(checkpoints=checkpoints, settings=settings, image_size=image_size)


def _library_of(name: str) -> str:
    """The one library that has a model of this name."""
    names = {library: _names(library) for library in LIBRARIES}
    having = [library for library, known in names.items() if name.partition(".")[0] in known]
    if len(having) == len(LIBRARIES):
        raise TaskError(
            "invalid-task-options",
            f"{OPTION} must say which library's model is meant, but `{name}` is one of both. Give `timm:{name}` or "
            f"`torchvision:{name}`.",
        )
    if not having:
        known_name(name, [each for known in names.values() for each in known], "timm or torchvision", OPTION)
    return having[0]


def _names(library: str) -> list[str]:
    if library == "timm":
        return list(require("timm", "vision").list_models())
    models = require("torchvision.models", "vision")
    return list(models.list_models(module=models))


def names_its_model(checkpoints: CheckpointSet) -> bool:
    """Whether the folder says that it holds an image classifier. No library is imported."""
    architectures = (checkpoints.config or {}).get("architectures")
    if isinstance(architectures, list):
        return any(isinstance(name, str) and name.endswith("ForImageClassification") for name in architectures)
    return is_of_timm(checkpoints) or is_soup(checkpoints)
