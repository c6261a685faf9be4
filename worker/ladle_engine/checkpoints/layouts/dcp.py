"""torch.distributed.checkpoint (DCP): `.metadata` beside `.distcp` files, or one folder deeper.

torchtitan's `step-N/` and Megatron's `iter_N/` hold them themselves; OLMo-core's are in `model_and_optim/`, and those
of accelerate and of transformers' Trainer in `pytorch_model_fsdp_0/`, beside the optimiser's.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.name_parts import names_a_time

OF_RANKS = re.compile(r"__[0-9]+\.metadata")
"""Written where ranks did not speak with each other (`use_collectives=False`)."""
NOT_THE_MODEL = re.compile(r"optim|sched|ema|train|data|rng", re.IGNORECASE)
"""Folders beside the model's."""
OF_BOTH = "model_and_optim"


SHARDS = "shard-*-model-*-of-*.safetensors"
"""Of `HuggingFaceStorageWriter`: the parts of each rank."""


def look(folder: Folder) -> Sequence[Found] | None:
    if shards := sorted(fnmatch.filter(folder.names, SHARDS)):
        return [folder.checkpoint([folder.path / name for name in shards], "dcp-safetensors")]
    if (files := _files(folder.path, folder.names)) is not None:
        return _found(folder, files)
    inner = {child: files for child in folder.children if (files := _files(folder.path / child, folder.inner(child)))}
    if not inner:
        return None
    models = [child for child in inner if child == OF_BOTH or not NOT_THE_MODEL.search(child)]
    if any(map(names_a_time, models)):
        # A run, such as torchtitan's `checkpoint/` with its `step-10/`.
        return None
    if len(models) > 1:
        several = " and ".join(f"`{child}/`" for child in models[:3])
        return folder.passed_over(f"in torch.distributed.checkpoint format, but {several} may each be the model")
    return _found(folder.child(models[0]), inner[models[0]], folder) if models else None


def _files(path: Path, names: frozenset[str]) -> list[Path] | None:
    """The files that describe a checkpoint, then those with its chunks; None where it is none."""
    data = [path / name for name in sorted(names) if fnmatch.fnmatchcase(name, "*.distcp")]
    described = [path / name for name in sorted(names) if OF_RANKS.fullmatch(name)]
    if ".metadata" in names:
        described = [path / ".metadata"]
    return described + data if described or data else None


def _found(at: Folder, files: Sequence[Path], folder: Folder | None = None) -> Sequence[Found]:
    checkpoint = folder or at
    if files[0].suffix == ".distcp":
        return checkpoint.passed_over(
            "in torch.distributed.checkpoint format, but its `.metadata` is not there: still being written, or damaged"
        )
    outside = next((file for file in files if at.leads_out(file.name)), None)
    if outside is not None:
        return checkpoint.passed_over(f"its `{outside.name}` is a link that leads out")
    return [checkpoint.checkpoint(files, "dcp")]
