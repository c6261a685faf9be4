"""What one curve of a run leaves to the next: what every model at its points is worth, example by example.

`evaluations.safetensors` holds it under names that are lists in JSON: the model's key, what it is (`on` a split, or
`statistics`) and the name of the values. `curve.json` has its digest, and what the values depend on besides the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ladle_engine.distributed.agreement import together
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import DataError
from ladle_engine.evaluation.cache import PassedOn
from ladle_engine.output.folder import CURVE_FILE, EVALUATIONS_FILE
from ladle_engine.storage.atomic_folder import STORAGE_FAULTS
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.input_paths import read_bytes, read_json

MAX_BYTES = 1 << 34
"""Of the file: 32 points with two models on a select split of a million examples have about 1 GB."""
ON, STATISTICS = "on", "statistics"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """Of an earlier curve of the run."""

    folder: Path
    depends_on: Mapping[str, Any]
    """What its values depend on besides the model; see `depends_on.py`."""
    models: Mapping[str, PassedOn]
    """By their keys; see `keys.py`."""


def read_earlier(folder: Path, collectives: Collectives) -> Earlier:
    """Collective: rank 0 reads. Raises `DataError` (invalid-data) for a folder that is no curve's, or not whole."""
    told = content = b""
    with together(collectives):
        if collectives.rank == 0:
            depends_on, content = _read(folder)
            told = json.dumps(depends_on).encode()
    told, content = collectives.broadcast(told), collectives.broadcast(content)
    return Earlier(folder=folder, depends_on=json.loads(told), models=_models(folder, content))


def write_evaluations(folder: Path, models: Mapping[str, PassedOn], depends_on: Mapping[str, Any]) -> dict[str, Any]:
    """Into the folder of a curve; what `curve.json` says of it."""
    kept: dict[str, Tensor] = {}
    for key, passed in models.items():
        for split, values in passed.on.items():
            kept |= {json.dumps([key, ON, split, name]): _narrow(rows) for name, rows in values.items()}
        for name, tensor in (passed.statistics or {}).items():
            # Two points may have the same tensor, and a file takes none twice.
            kept[json.dumps([key, STATISTICS, name])] = tensor.clone(memory_format=torch.contiguous_format)
    content = save(kept)
    (folder / EVALUATIONS_FILE).write_bytes(content)
    COUNTS.wrote(len(content))
    return {"sha256": hashlib.sha256(content).hexdigest(), "depends_on": dict(depends_on)}


def _narrow(rows: Tensor) -> Tensor:
    """As float32 where that is the same: what a model puts out mostly is."""
    narrow = rows.float()
    return narrow if torch.equal(narrow.double(), rows) else rows.contiguous()


def _read(folder: Path) -> tuple[Mapping[str, Any], bytes]:
    try:
        curve = read_json(folder / CURVE_FILE)
        content = read_bytes(folder / EVALUATIONS_FILE, MAX_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in STORAGE_FAULTS:
            raise
        _refuse(folder, f"cannot be read as one: {error}")
    told = curve.get("evaluations") if isinstance(curve, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("depends_on"), dict):
        _refuse(folder, f"has the `{CURVE_FILE}` of something else")
    if told.get("sha256") != hashlib.sha256(content).hexdigest():
        _refuse(folder, f"has an `{EVALUATIONS_FILE}` that is not the one of its `{CURVE_FILE}`")
    return told["depends_on"], content


def _models(folder: Path, content: bytes) -> dict[str, PassedOn]:
    on: dict[str, dict[str, dict[str, Tensor]]] = {}
    statistics: dict[str, dict[str, Tensor]] = {}
    try:
        for label, tensor in load(content).items():
            key, kind, *names = json.loads(label)
            if kind == ON:
                split, name = names
                on.setdefault(key, {}).setdefault(split, {})[name] = tensor.double()
            else:
                (name,) = names
                statistics.setdefault(key, {})[name] = tensor
    except (SafetensorError, TypeError, ValueError) as error:
        _refuse(folder, f"has an `{EVALUATIONS_FILE}` that is none: {error}")
    return {key: PassedOn(on=values, statistics=statistics.get(key)) for key, values in on.items()}


def _refuse(folder: Path, why: str) -> NoReturn:
    raise DataError("invalid-data", f"`curve_earlier=` must be the result folder of a curve, but `{folder}` {why}.")
