"""What of a folder of checkpoints, and of the data, a result depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ladle_engine.checkpoints.training_args import training_args
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.storage.inputs import Inputs


def inputs_of(checkpoints: CheckpointSet, readers: Sequence[TensorReader]) -> Inputs:
    """The weight files as they were opened, with config and other side files.

    Weight files are hashed by whoever reads them. Raises `EngineError` (inputs-changed) where the config is another one
    than the one that was read.
    """
    inputs = Inputs()
    for reader in readers:
        for file in reader.files:
            inputs.add(file.path, file.identity)
    for path in checkpoints.side_files:
        inputs.add_hashed(path, checkpoints.read.get(path))
    if (args := training_args(checkpoints)) is not None:
        inputs.add_hashed(args)
    return inputs


def add_data(inputs: Inputs, data: Iterable[Path]) -> None:
    """Files, which are hashed, or folders of them. What is not there is left to the task."""
    for path in data:
        if is_folder(path):
            inputs.add_folder(path)
        elif is_file(path):
            inputs.add_hashed(path)
