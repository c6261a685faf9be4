"""A folder of checkpoints: found, put in order, checked, and read tensor by tensor."""

from ladle_engine.checkpoints.check import check
from ladle_engine.checkpoints.discover import announce, discover
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader

__all__ = [
    "Checkpoint",
    "CheckpointSet",
    "TensorInfo",
    "TensorReader",
    "announce",
    "check",
    "discover",
    "open_checkpoint",
]
