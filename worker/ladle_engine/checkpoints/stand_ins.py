"""Tied tensors that some files hold once and others twice: an output layer that is the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ladle_engine.checkpoints.chunks import same_tensors
from ladle_engine.checkpoints.differences import OUTPUT, TOKENS, differences
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader


def with_stand_ins(checkpoints: CheckpointSet) -> CheckpointSet:
    """The set in which a tied tensor that a checkpoint holds once answers to both of its names.

    A second copy that the reference lacks is dropped. Reads headers and, of checkpoints that differ in such a name, the
    two tensors in one file that has both: they must be the same, bit for bit.
    """
    found: list[Checkpoint] = []
    dropped: set[str] = set()
    is_left_out = {*checkpoints.taken, *checkpoints.dropped}.__contains__
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            names = differences(checkpoints.tensors, reader.tensors(), is_left_out)
            stand_ins: dict[str, str] = {}
            if missing := [name for name in names.missing if OUTPUT.search(name)]:
                with open_checkpoint(checkpoints.reference) as reference:
                    stand_ins = _twins(missing, reference, reader.tensors())
            dropped |= _twins([name for name in names.extra if OUTPUT.search(name)], reader, checkpoints.tensors).keys()
        found.append(replace(checkpoint, stand_ins=stand_ins) if stand_ins else checkpoint)
    if not dropped and not any(checkpoint.stand_ins for checkpoint in found):
        return checkpoints
    return replace(checkpoints, checkpoints=tuple(found), dropped=checkpoints.dropped | dropped)


def _twins(names: Sequence[str], reader: TensorReader, others: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Those of the names that hold the same as an embedding in this file, which the `others` have too -> its name."""
    tensors = reader.tensors()
    found: dict[str, str] = {}
    for name in names:
        for twin, info in tensors.items():
            is_like = twin != name and info == tensors[name] and TOKENS.search(twin) and twin in others
            if is_like and same_tensors((reader, name), (reader, twin)):
                found[name] = twin
                break
    return found
