"""The base model of adapters: where it is, what the task sees of it, and how its weights are read, once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladle_engine.checkpoints import CheckpointSet, discover
from ladle_engine.checkpoints.adapters.config import PREFIX
from ladle_engine.checkpoints.folder_scan import scan
from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.layouts.usual_names import WEIGHTS_IN_FOLDER
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.sources import sources_of
from ladle_engine.errors import EngineError, TaskError
from ladle_engine.model.adapters import bind_adapters, load_base
from ladle_engine.model.binding import Binding
from ladle_engine.storage.input_paths import is_folder
from ladle_engine.storage.inputs import Inputs
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.text.heads import architectures_of

HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|head)(\.(out_proj|dense))?\.weight$")
"""Whole tensors of adapters whose rows are classes."""
SUFFIXES = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_CLS": ("ForSequenceClassification",),
    "TOKEN_CLS": ("ForTokenClassification",),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel"),
}
"""PEFT's `task_type` -> how the names of such classes of transformers end, a general one first."""
TOKENIZER = re.compile(r"tokenizer\.json|tokenizer_config\.json|vocab\.(json|txt)|.*\.(model|spm)")


@dataclass(frozen=True, kw_only=True)
class Base:
    """Of adapters alone."""

    stored: CheckpointSet | None
    """None where the caller gave the model with its weights."""
    described: CheckpointSet
    """What a task sees: the base's config and tensors, and the adapters' own tokenizer if they have one."""


def open_base(checkpoints: CheckpointSet, given: Path | None, *, has_model: bool, names_task: bool) -> Base | None:
    """None for whole models. Opens headers only.

    Raises `TaskError` (model-mismatch) where there is no such folder, and `CheckpointError` for what it holds.
    """
    if checkpoints.adapters is None:
        return None
    if has_model:
        return Base(stored=None, described=checkpoints)
    folder = given or _named_by_adapters(checkpoints)
    if not is_folder(folder):
        raise TaskError(
            "model-mismatch", f"`base_model=` must be the folder of the base model, but `{folder}` is none."
        )
    stored = discover(folder, names=[weights_in(folder, "base_model")])
    return Base(stored=stored, described=_described(checkpoints, stored, names_task))


def _named_by_adapters(checkpoints: CheckpointSet) -> Path:
    assert checkpoints.adapters is not None
    base = checkpoints.adapters.base
    if base is not None:
        with suppress(OSError, EngineError):
            if is_folder(Path(base)):
                return Path(base)
    told = f"adapters of `{base}`, which is no folder that this job may read" if base else "adapters that name no base"
    raise TaskError(
        "model-mismatch",
        f"`base_model=` must be the folder of the base model, because the checkpoints are {told}. Nothing is "
        f"downloaded: save the base model there with `save_pretrained`.",
    )


def weights_in(folder: Path, argument: str) -> str:
    """The name of the only model in a folder. Raises `TaskError` (model-mismatch) where there is none, or several."""
    candidates, _ = scan(sources_of(folder))
    names = [each.checkpoint.name for each in candidates]
    usual = [name for name in WEIGHTS_IN_FOLDER if name in names] or (names if len(names) == 1 else [])
    if not usual:
        there = ", ".join(f"`{name}`" for name in names[:5]) or "none"
        raise TaskError(
            "model-mismatch",
            f"`{argument}=` must be a folder with the weights of one model, such as `model.safetensors`, but "
            f"`{folder}` holds {there}.",
        )
    return usual[0]


def _described(checkpoints: CheckpointSet, stored: CheckpointSet, names_task: bool) -> CheckpointSet:
    own = [path for path in checkpoints.side_files if TOKENIZER.fullmatch(path.name)]
    described = replace(stored, config=_config(checkpoints, stored.config, names_task))
    if not own:
        return described
    # The adapters' tokenizer may have tokens of its own. What is not of a tokenizer is the base's.
    beside = {path.name for path in checkpoints.side_files}
    places = (*checkpoints.places, *stored.places)
    others = [path for path in stored.side_files if path.name not in beside and not TOKENIZER.fullmatch(path.name)]
    return replace(described, side_files=(*checkpoints.side_files, *others), places=places)


def _config(checkpoints: CheckpointSet, config: Mapping[str, Any] | None, names_task: bool) -> dict[str, Any] | None:
    """The base's, with the head that the adapters were trained with: PEFT saves no `config.json`."""
    if config is None:
        return None
    assert checkpoints.adapters is not None
    changed = dict(config)
    suffixes = SUFFIXES.get(str(checkpoints.adapters.config.get("task_type")), ())
    fits = any(name.endswith(suffixes) for name in architectures_of(config)) if suffixes else not names_task
    if not fits:
        changed["architectures"] = [f"{config.get('model_type')}{suffixes[0]}"] if suffixes else None
    heads = [info.shape[0] for name, info in checkpoints.tensors.items() if HEAD.search(name) and len(info.shape) == 2]
    if heads and heads[-1] != len(changed.get("id2label") or {}):
        changed["num_labels"] = heads[-1]
        changed["id2label"] = {str(label): f"LABEL_{label}" for label in range(heads[-1])}
        changed["label2id"] = {f"LABEL_{label}": label for label in range(heads[-1])}
    return changed


def bind_with_base(task: Task, checkpoints: CheckpointSet, base: Base, device: torch.device, inputs: Inputs) -> Binding:
    """The task's model with the base's weights, and the adapters in it. Reads the base once, and knows its digest."""
    model = task.build_model(base.described)
    if base.stored is not None:
        _fill(task, model, checkpoints, base.stored, base.described, inputs)
    model = model.to(device).float()
    return bind_adapters(model, checkpoints)


def _fill(
    task: Task,
    model: nn.Module,
    checkpoints: CheckpointSet,
    stored: CheckpointSet,
    described: CheckpointSet,
    inputs: Inputs,
) -> None:
    held = {name.removeprefix(PREFIX) for name in checkpoints.tensors if ".lora_" not in name}
    binding = load_base(model, stored, task.stored_names(model, described), held)
    with open_all(stored) as readers:
        hashed = HashedReaders(readers)
        # From the front to the back, so that every byte is read once and hashed on the way.
        in_order = dict(sorted(binding.parameters.items(), key=lambda each: readers[0].position(each[0])))
        replace(binding, parameters=in_order).load_parameters(hashed.readers[0])
        binding.load_buffers(hashed.readers[0])
        inputs.know(hashed.digests())
