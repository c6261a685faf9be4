"""`args.yaml`, in which a training script keeps its arguments beside its checkpoints; timm's names the model."""

from __future__ import annotations

from pathlib import Path

from ladle_engine.checkpoints.files import leads_out, seems_file
from ladle_engine.checkpoints.types import CheckpointSet

FILE = "args.yaml"
MAX_ARGS_BYTES = 64 << 10
"""timm's own has some 5 KB."""


def training_args(checkpoints: CheckpointSet) -> Path | None:
    """The first one where side files are looked for; None where there is none inside the folder."""
    paths = [place / FILE for place in checkpoints.places]
    return next((path for path in paths if not leads_out(path, checkpoints.root) and seems_file(path)), None)
