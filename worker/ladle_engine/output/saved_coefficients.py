"""`coefficients.json` of a result, checked before it is used: files are edited, cut and mistaken for each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.adapters.space import DELTA, SPACES
from ladle_engine.checkpoints.safetensors_file import DTYPES
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.output.folder import COEFFICIENTS_FILE
from ladle_engine.output.recipe import OUTPUT_DTYPES
from ladle_engine.storage.json_text import parse_json

MAX_BYTES = 1 << 30
MAX_VALUES = 20_000_000
"""Random directions that are drawn anew at every step have as many weights as steps."""

DTYPE_OF = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


@dataclass(frozen=True, kw_only=True)
class SavedCoefficients:
    """One candidate's."""

    name: str
    coefficients: Coefficients
    statistics: tuple[str, ...]
    """Names of the buffers that were made for it."""
    output_dtypes: Mapping[str, torch.dtype]
    adapters: Mapping[str, Any]
    """Of adapters, how their averages are written; empty for whole models."""
    sha256: Mapping[str, Mapping[str, str]]
    """Checkpoint -> file -> digest."""
    use_ema: bool
    """Whether they are of the averages that were made while training."""
    taken_from: Mapping[str, tuple[str, ...]]
    """Checkpoint -> the tensors that are left out of the average and taken from it."""

    def refuse_other_tensors(self, path: Path, checkpoints: CheckpointSet) -> None:
        """Raises `CheckpointError` (corrupt-checkpoint) for a tensor that the checkpoints lack or have of another
        kind."""
        rule = _Rules(path)
        for name, dtype in self.output_dtypes.items():
            info = checkpoints.tensors.get(name)
            rule.must(info is not None, f"name tensors of the checkpoints, but they have no `{name}`")
            assert info is not None
            same_kind = info.is_floating and dtype.is_floating_point
            rule.must(same_kind or dtype == info.dtype, f"have `{name}` as {info.dtype}, but has it as {dtype}")


def parse_coefficients(path: Path, content: bytes, candidate: str | None) -> SavedCoefficients:
    """Raises `CheckpointError` (corrupt-checkpoint), and `MethodError` (unknown-method) for an unknown candidate."""
    rule = _Rules(path)
    try:
        saved = parse_json(content, most_bytes=MAX_BYTES, most_values=MAX_VALUES)
    except ValueError as error:
        raise rule.broken(f"be a JSON file, but does not parse ({error})") from error
    keys = {"winner", "candidates", "output_dtypes", "sha256"}
    rule.must(isinstance(saved, dict) and keys <= saved.keys(), "be the file of a result, but is something else")
    rule.must(_is_mapping(saved["candidates"], dict), "have candidates by their names, but has something else")
    chosen = candidate or saved["winner"]
    if not isinstance(chosen, str) or chosen not in saved["candidates"]:
        known = ", ".join(saved["candidates"])
        raise MethodError("unknown-method", f"`candidate` must be one of {known}, but is `{chosen}`.")
    entry = saved["candidates"][chosen]
    dtypes = saved["output_dtypes"]
    rule.must(bool(dtypes) and _is_mapping(dtypes, str), "have a type for each tensor, but has something else")
    for name, dtype in dtypes.items():
        rule.must(dtype in DTYPE_OF, f"have a type of torch for `{name}`, but has `{dtype}`")
    statistics = entry.get("statistics")
    rule.must(_are(str, statistics), "have the names of statistics, but has something else")
    coefficients = _coefficients(rule, entry)
    for name in coefficients.checkpoints:
        digests = saved["sha256"].get(name) if isinstance(saved["sha256"], dict) else None
        rule.must(_is_mapping(digests, str), f"have the digests of `{name}`, but has none")
    taken_from = saved.get("taken_from", {})
    rule.must(
        _is_mapping(taken_from, list) and all(_are(str, names) for names in taken_from.values()),
        "have names of tensors that are taken from a checkpoint, but has something else",
    )
    for name in taken_from:
        rule.must(name in coefficients.checkpoints, f"take tensors from its checkpoints, but takes some from `{name}`")
    return SavedCoefficients(
        name=chosen,
        coefficients=coefficients,
        statistics=tuple(statistics),
        output_dtypes={name: DTYPE_OF[dtype] for name, dtype in dtypes.items()},
        adapters=_adapters(rule, saved.get("adapters", {})),
        sha256=saved["sha256"],
        use_ema=saved.get("use_ema") is True,
        taken_from={name: tuple(tensors) for name, tensors in taken_from.items()},
    )


def _adapters(rule: _Rules, adapters: Any) -> Mapping[str, Any]:
    rule.must(isinstance(adapters, dict), "say how adapters are written, but has something else")
    rank, error = adapters.get("rank"), adapters.get("error", 0.0)
    rule.must(adapters.get("space", DELTA) in SPACES, f"have one of {', '.join(SPACES)} as space of adapters")
    rule.must(rank is None or (type(rank) is int and rank >= 1), "have a whole number from 1 as rank of adapters")
    rule.must(type(error) in (int, float) and 0 <= error < 1, "have an error of adapters from 0, and below 1")
    rule.must(adapters.get("dtype", "keep") in OUTPUT_DTYPES, "have a type of adapters that Ladle writes")
    return dict(adapters)


def _coefficients(rule: _Rules, entry: Mapping[str, Any]) -> Coefficients:
    names: Any = entry.get("checkpoints")
    groups: Any = entry.get("groups")
    group_of: Any = entry.get("group_of")
    rule.must(_are(str, names) and 0 < len(set(names)) == len(names), "name each checkpoint once, but does not")
    rule.must(_are(str, groups) and len(groups) > 0, "name the groups, but does not")
    rule.must(
        _is_mapping(group_of, int) and all(0 <= number < len(groups) for number in group_of.values()),
        f"have one of {len(groups)} groups for each tensor, but has something else",
    )
    alpha = entry.get("alpha")
    rule.must(
        _is_table(alpha, (len(names), len(groups))),
        f"have {len(names)} x {len(groups)} numbers as `alpha`, but does not",
    )
    random = entry.get("random")
    if random is not None:
        rule.must(_is_mapping(random) and {"seed", "weights"} <= random.keys(), "have a seed and weights, but does not")
        rule.must(type(random["seed"]) is int and 0 <= random["seed"] < 1 << 63, "have a whole number as seed")
        draws = random["weights"]
        rows = len(draws[0]) if isinstance(draws, list) and draws and isinstance(draws[0], list) else 0
        rule.must(_is_table(draws, (None, rows, len(groups))), "have weights for each draw, row and group")
    rule.must(entry.get("base", False) in (True, False), "say whether the first checkpoint is the base")
    rule.must(entry.get("base") is not True or len(names) > 1, "have checkpoints besides the base, but does not")
    return Coefficients.from_json(entry)


class _Rules:
    def __init__(self, path: Path) -> None:
        self.path = path

    def must(self, holds: bool, rule: str) -> None:
        if not holds:
            raise self.broken(rule)

    def broken(self, rule: str) -> CheckpointError:
        return CheckpointError(
            "corrupt-checkpoint",
            f"`coefficients` must be the file {COEFFICIENTS_FILE} of a result. `{self.path}` must {rule}.",
        )


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_mapping(value: Any, kind: type | None = None) -> bool:
    return isinstance(value, dict) and (kind is None or all(type(each) is kind for each in value.values()))


def _is_table(value: Any, shape: tuple[int | None, ...]) -> bool:
    """Whether lists in lists are of this shape, and hold finite numbers; None is any length."""
    if not shape:
        # A whole number may be too large for a float.
        return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    if not isinstance(value, list) or shape[0] not in (None, len(value)):
        return False
    return all(_is_table(each, shape[1:]) for each in value)
