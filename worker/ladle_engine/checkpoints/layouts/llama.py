"""Llama's own files: `consolidated.00.pth`, one per model-parallel rank, and `params.json`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.layouts.usual_names import named_as_folder

WEIGHTS = re.compile(r"consolidated(\.[0-9]{2})?\.(pth|pt|safetensors)")


def look(folder: Folder) -> Sequence[Found] | None:
    parts = [each for each in folder.candidates if WEIGHTS.fullmatch(each.checkpoint.name)]
    if len(parts) > 1:
        return folder.passed_over(
            f"one model in {len(parts)} model-parallel parts. Put them together with transformers 4 "
            "(`python -m transformers.models.llama.convert_llama_weights_to_hf --input_dir . --output_dir whole`)"
        )
    return named_as_folder(folder, parts[0]) if parts else None
