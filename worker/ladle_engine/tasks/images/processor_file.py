"""The file of an image processor that lies beside the checkpoints: found, bounded, and made into the processor."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.storage.input_paths import read_json
from ladle_engine.tasks.images.preprocessing import MAX_SIDE, is_number
from ladle_engine.tasks.model_config import parse_config

GENERIC_PROCESSOR = "ViTImageProcessor"
"""Resizes, crops, rescales and normalises as its file says: where neither that nor the model's type names another."""

SIZES = ("size", "crop_size", "pad_size")


@dataclass(frozen=True, kw_only=True)
class ProcessorFile:
    """The values of a saved processor. Nothing that they name is ever imported, but classes of transformers itself."""

    path: Path
    values: Mapping[str, Any]


def find_processor(checkpoints: CheckpointSet) -> ProcessorFile | None:
    """The saved processor: part of `processor_config.json`, where transformers 5 writes one, or a file of its own.

    Raises `TaskError` (model-mismatch) for a file that is no JSON object.
    """
    for name, part in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = next((path for path in checkpoints.side_files if path.name == name), None)
        if path is None:
            continue
        values = _read_object(path)
        if part is not None:
            values = values.get(part)
        if isinstance(values, dict):
            return ProcessorFile(path=path, values=values)
    return None


def _read_object(path: Path) -> Any:
    try:
        parsed = read_json(path)
    except (OSError, ValueError) as error:
        raise TaskError("model-mismatch", f"`{path}` must be a JSON file, but does not parse ({error}).") from error
    if not isinstance(parsed, dict):
        raise TaskError("model-mismatch", f"`{path}` must be a JSON object, but is a {type(parsed).__name__}.")
    return parsed


def build_processor(file: ProcessorFile, checkpoints: CheckpointSet) -> Any:
    """The processor of transformers that the file names or, where it names none, that belongs to the model's type.

    Raises `TaskError` (model-mismatch) that names the file.
    """
    _refuse_absurd(file)
    # transformers takes seconds to import, which a folder without a processor does not need.
    from transformers import CONFIG_MAPPING
    from transformers.image_processing_utils import BaseImageProcessor

    # From where it is defined: older versions of transformers themselves hand it out only beside torchvision.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    values = {name: value for name, value in file.values.items() if name != "auto_map"}
    config = None
    if not values.keys() & {"image_processor_type", "feature_extractor_type"}:
        model_type = (checkpoints.config or {}).get("model_type")
        if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
            config = parse_config(checkpoints)
        else:
            values = _as_generic(file.path, values)
    # A folder of its own: no other file of the checkpoints' decides what is loaded.
    with translated(file.path), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values))
        processor = AutoImageProcessor.from_pretrained(
            folder, config=config, backend="pil", trust_remote_code=False, local_files_only=True
        )
        if not isinstance(processor, BaseImageProcessor):
            raise TypeError(f"{type(processor).__name__} is not an image processor")
    if list(processor.model_input_names) != ["pixel_values"]:
        raise TaskError(
            "model-mismatch",
            f"`{file.path}` must name a processor that gives `pixel_values` alone, but {type(processor).__name__} "
            f"gives {', '.join(processor.model_input_names)}.",
        )
    return processor


def _as_generic(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """For a model that is not one of transformers. Raises `TaskError` for a value that would go unused."""
    from transformers import ViTImageProcessorPil

    known = {*ViTImageProcessorPil.valid_kwargs.__annotations__, "processor_class"}
    if unknown := sorted(values.keys() - known):
        raise TaskError(
            "model-mismatch",
            f"`{path}` must name its `image_processor_type`, because {GENERIC_PROCESSOR}, which is taken otherwise, "
            f"has no `{unknown[0]}`.",
        )
    normalises = "image_mean" in values or "image_std" in values
    return {"do_normalize": normalises, **values, "image_processor_type": GENERIC_PROCESSOR}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:
        # Wrong values fail wherever the processor first uses them: ZeroDivisionError, TypeError, KeyError ...
        said = f"{type(error).__name__}: {str(error)[:300]}"
        if "Unrecognized image processor" in said:
            # transformers tells of the temporary folder, and lists all that it has.
            said = "its `image_processor_type` is none that this version of transformers has"
        raise TaskError(
            "model-mismatch",
            f"`{path}` must be a processor that transformers can apply to an image, but that fails ({said}).",
        ) from error


def _refuse_absurd(file: ProcessorFile) -> None:
    """Raises `TaskError` for numbers that would ask for any amount of memory, before anything is made of them."""

    def refuse(name: str, rule: str) -> TaskError:
        value = str(file.values[name])[:100]
        return TaskError("model-mismatch", f"`{name}` in `{file.path}` must be {rule}, but is {value}.")

    crop_pct = file.values.get("crop_pct")
    if crop_pct is not None and not (is_number(crop_pct) and crop_pct > 0):
        raise refuse("crop_pct", "a number above 0")
    for name, value in file.values.items():
        for number in _numbers_in(value):
            if name in SIZES and (not isinstance(number, int) or number < 1):
                raise refuse(name, "whole numbers of at least 1")
            if isinstance(number, int) and abs(number) > MAX_SIDE:
                raise refuse(name, f"at most {MAX_SIDE}")
            if name == "size" and crop_pct is not None and number / crop_pct > MAX_SIDE:
                raise refuse("crop_pct", f"large enough that `size` divided by it is at most {MAX_SIDE}")


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(item)
    elif is_number(value):
        yield value
