"""The files of a result."""

from __future__ import annotations

import shutil
from pathlib import Path

from ladle_engine.errors import OutputError

SAFETENSORS = "safetensors"

DCP = "dcp"

OUTPUT_FORMATS = (SAFETENSORS, DCP)

COEFFICIENTS_FILE = "coefficients.json"

REPORT_FILE = "report.json"

STATISTICS_FILE = "statistics.safetensors"

CURVE_FILE = "curve.json"

EVALUATIONS_FILE = "evaluations.safetensors"

FORMAT_VERSION = 1


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raises `OutputError` (disk-full)."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            "disk-full", f"`output=` must have {needed:,} bytes of free disk, but `{folder.parent}` has {free:,}."
        )


def refuse_output_format(value: str) -> None:
    """Raises `ValueError`."""
    if value not in OUTPUT_FORMATS:
        raise ValueError(f"`output_format` must be one of {', '.join(OUTPUT_FORMATS)}, but is {value!r}.")
