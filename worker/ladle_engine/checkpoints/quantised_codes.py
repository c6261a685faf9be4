"""Numbers that stand for weights without being them: codes of quantised weights, whose scales lie beside them.

Codes of one checkpoint with scales averaged over all would be a model that nobody trained. Integers are never averaged:
those that differ between checkpoints must be counters, of which the reference's value is right.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from ladle_engine.checkpoints.chunks import same_tensors
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError

COUNTERS = re.compile(
    r"num_batches_tracked|position_ids|token_type_ids|rng_state|_extra_state|"
    r"(^|_)(n|num|counts?|counter|steps?|epochs?|iters?|iterations?|ptr|pointer|seed|masks?|enabled|initted|"
    r"initialized)($|_)",
    re.IGNORECASE,
)
"""Last parts of names that say: I count, mark or switch."""

CODES = re.compile(r"zero|quant|packed|codes|^q", re.IGNORECASE)
"""Last parts of names that say: I belong to a quantised weight."""

SCALES = re.compile(r"scale|scb|absmax|zero|quant|codebook", re.IGNORECASE)
"""Last parts of names of what turns codes into weights."""


def refuse_codes(checkpoints: CheckpointSet, used: Sequence[Checkpoint] | None = None) -> None:
    """Reads integers that may be codes, and float8 tensors with scales, of the `used` checkpoints: all when absent.

    Raises `CheckpointError` (unsupported-tensors) for codes that differ between checkpoints.
    """
    codes = {name: scales for name, scales in codes_of(checkpoints.tensors).items() if name not in checkpoints.taken}
    if not codes:
        return
    with open_checkpoint(checkpoints.reference) as reference:
        for checkpoint in checkpoints.checkpoints if used is None else used:
            with open_checkpoint(checkpoint) as reader:
                for name, scales in codes.items():
                    if _differs(name, reader, reference) and (
                        not scales or any(_differs(scale, reader, reference) for scale in scales)
                    ):
                        raise _refusal(checkpoints, checkpoint, name)


def codes_of(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[str, ...]]:
    """Every tensor that may hold codes -> the scales without whose difference they may be averaged all the same.

    Integers have none, and float8 numbers are codes only where they have scales.
    """
    scales_in: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        module, _, last = name.rpartition(".")
        if SCALES.search(last):
            scales_in[module].append(name)
    found: dict[str, tuple[str, ...]] = {}
    for name, info in tensors.items():
        # bitsandbytes puts what belongs to `fc.weight` below it: `fc.weight.absmax`.
        scales = tuple(each for each in scales_in[name.rpartition(".")[0]] + scales_in[name] if each != name)
        if info.is_floating and info.dtype.itemsize == 1 and scales:
            found[name] = scales
        elif _is_pruning_mask(name, tensors) or (
            not info.is_averaged and not _counts(name, info, has_scales=bool(scales))
        ):
            found[name] = ()
    return found


def _is_pruning_mask(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Of `torch.nn.utils.prune`, which keeps `weight_orig` and `weight_mask` in the place of `weight`."""
    return name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in tensors


def _counts(name: str, info: TensorInfo, has_scales: bool) -> bool:
    """Whether an integer tensor may differ: a mask, a single number, a vector of int64, or by its name a counter."""
    last = name.rpartition(".")[2]
    if info.dtype is torch.bool or COUNTERS.search(last):
        return True
    if CODES.search(last):
        return False
    if info.dtype is torch.int64:
        return info.numel == 1 or (len(info.shape) == 1 and not has_scales)
    return info.shape == () and not has_scales


def _differs(name: str, reader: TensorReader, reference: TensorReader) -> bool:
    if name not in reader.tensors():
        return False
    if reader.tensors()[name].dtype == reference.tensors()[name].dtype:
        return not same_tensors((reader, name), (reference, name))
    one, other = reader.read(name), reference.read(name)
    wide = torch.float64 if one.is_floating_point() else torch.int64
    return not torch.equal(one.to(wide), other.to(wide))


def _refusal(checkpoints: CheckpointSet, checkpoint: Checkpoint, name: str) -> CheckpointError:
    info = checkpoints.tensors[name]
    what = f"`{name}` ({str(info.dtype).removeprefix('torch.')}, shape {info.shape})"
    where = f"`{checkpoint.name}` and `{checkpoints.reference.name}`"
    if _is_pruning_mask(name, checkpoints.tensors):
        message = (
            f"Masks of pruned weights must be the same in all checkpoints, but {what} differs between {where}. Save "
            f"the weights after `torch.nn.utils.prune.remove`, which applies the mask."
        )
    elif info.is_floating:
        message = (
            f"Weights must be numbers and not codes, but {what} and its scale differ between {where}, and neither can "
            f"be averaged without the other. Save the weights in floating point, without scales."
        )
    else:
        message = (
            f"Integers that differ between checkpoints must be counters, but {what} differs between {where} and looks "
            f"like the codes of quantised weights, which have no average. Save the weights in floating point."
        )
    return CheckpointError("unsupported-tensors", message)
