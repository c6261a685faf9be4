"""`args.yaml`, in which a training script keeps its arguments beside its checkpoints; timm's names the model."""

from __future__ import annotations

from pathlib import Path

from ladle_engine.checkpoints.files import leads_out, seems_file

FILE = "args.yaml"
MAX_ARGS_BYTES = 64 << 10
"""timm's own has some 5 KB."""


def training_args(folder: Path, home: Path) -> Path | None:
    """The file in the folder, or in the reference checkpoint's own; None where there is none inside the folder."""
    paths = dict.fromkeys((folder / FILE, home / FILE))
    return next((path for path in paths if not leads_out(path, folder) and seems_file(path)), None)
