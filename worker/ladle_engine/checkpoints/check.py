"""Checks that all checkpoints agree, and says exactly which file and tensor does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ladle_engine.checkpoints.architectures import unlike
from ladle_engine.checkpoints.chunks import blocks_of, chunks_of, differs
from ladle_engine.checkpoints.differences import differences
from ladle_engine.checkpoints.quantised_codes import refuse_codes
from ladle_engine.checkpoints.readers import open_all, open_checkpoint
from ladle_engine.checkpoints.types import BASE_PREFIX, CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError
from ladle_engine.progress import Pace, ProgressCallback, Warned


def check(checkpoints: CheckpointSet, on_event: ProgressCallback) -> None:
    """One pass over all files. Raises `CheckpointError`: mismatched, unsupported, non-finite or identical."""
    with open_all(checkpoints) as readers:
        check_headers(checkpoints, on_event)
        pace = Pace(on_event, "check", len(checkpoints.tensors), unit="bytes")
        differ, read_bytes = False, 0
        for done, name in enumerate(sorted(checkpoints.tensors, key=readers[-1].position)):
            differ = check_tensor(checkpoints, readers, name) or differ
            info = checkpoints.tensors[name]
            read_bytes += len(readers) * info.numel * info.dtype.itemsize
            pace.step(done + 1, amount=read_bytes)
    if not differ:
        raise identical(checkpoints)


def check_headers(checkpoints: CheckpointSet, on_event: ProgressCallback) -> None:
    """All that can be refused before weights are read, for checkpoints that are trained and judged.

    Raises `CheckpointError`: mismatched or unsupported.
    """
    check_names(checkpoints, on_event)
    if not any(checkpoints.tensors[name].is_floating for name in checkpoints.averaged):
        raise CheckpointError(
            "unsupported-tensors",
            f"Weights must be real numbers to be trained and judged, but those of `{checkpoints.reference.name}` are "
            f"complex. `combine_checkpoints` averages them.",
        )
    refuse_codes(checkpoints)


def check_tensor(checkpoints: CheckpointSet, readers: Sequence[TensorReader], name: str) -> bool:
    """Whether a tensor is not the same in all checkpoints that have it. One that is left out of the average makes no
    difference.

    Raises `CheckpointError` (non-finite-weights).
    """
    if name in checkpoints.taken:
        if checkpoints.tensors[name].is_averaged:
            refuse_non_finite(checkpoints, readers, name)
        return False
    if not checkpoints.tensors[name].is_averaged:
        return differs(name, readers)
    if checkpoints.tensors[name].dtype.is_complex:
        refuse_non_finite(checkpoints, readers, name)
        return differs(name, readers)
    differ = False
    for _, weights_KC in chunks_of(readers, name, torch.float64):
        if not math.isfinite(float(weights_KC.sum())):
            refuse_non_finite(checkpoints, readers, name)
        differ = differ or rows_differ(weights_KC)
    return differ


def rows_differ(weights_KC: Tensor) -> bool:
    return bool((weights_KC[1:] != weights_KC[:1]).any())


def check_names(checkpoints: CheckpointSet, on_event: ProgressCallback) -> None:
    """Names, shapes and kinds of all tensors; reads headers only. Says what the readers chose between, and which single
    numbers are passed over.

    Raises `CheckpointError` (mismatched, identical), or (unsupported) where nothing is there to average.
    """
    if not checkpoints.tensors:
        raise CheckpointError(
            "unsupported-tensors", f"Checkpoints must hold weights, but `{checkpoints.reference.name}` holds no tensor."
        )
    if not checkpoints.averaged:
        raise CheckpointError(
            "unsupported-tensors",
            f"Checkpoints must hold floating-point weights, but the {len(checkpoints.tensors)} tensors of "
            f"`{checkpoints.reference.name}` are all integers. Save the weights in floating point.",
        )
    if checkpoints.identical:
        raise identical(checkpoints)
    is_left_out = {*checkpoints.taken, *checkpoints.dropped}.__contains__
    notes: dict[str, list[str]] = {}
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            if differences(checkpoints.tensors, reader.tensors(), is_left_out):
                raise unlike(checkpoints)
            for note in (*reader.notes, *_passed_over(checkpoints, reader.tensors())):
                notes.setdefault(note, []).append(checkpoint.name)
    for note, names in notes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        on_event(Warned(message=f"`{names[0]}`{more}: {note}."))


def _passed_over(checkpoints: CheckpointSet, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """At most one note: the counters that the reference lacks, and that are passed over."""
    extra = [name for name in tensors if name not in checkpoints.tensors and name not in checkpoints.dropped]
    if not extra:
        return []
    names = ", ".join(f"`{name}`" for name in extra[:3]) + (" ..." if len(extra) > 3 else "")
    return [f"{names} is a single whole number that `{checkpoints.reference.name}` lacks, and is passed over"]


def identical(checkpoints: CheckpointSet) -> CheckpointError:
    but = " but for the tensors that are left out" if checkpoints.taken else ""
    # Copies may have been left out before: then only one is here.
    count = f"{len(checkpoints.checkpoints)} " if len(checkpoints.checkpoints) > 1 else ""
    return CheckpointError(
        "identical-checkpoints",
        f"The {count}checkpoints in `{checkpoints.folder}` must differ, but all hold the same "
        f"weights{but}: there is nothing to average.",
    )


def refuse_non_finite(checkpoints: CheckpointSet, readers: Sequence[TensorReader], name: str) -> None:
    """Raises `CheckpointError` (non-finite-weights) naming the first checkpoint whose tensor is not finite."""
    for checkpoint, reader in zip(checkpoints.checkpoints, readers, strict=True):
        if name in checkpoints.taken and not checkpoints.has_own(reader, name):
            continue
        if count := sum(int((~torch.isfinite(_comparable(block))).sum()) for block in blocks_of(reader, name)):
            is_base = checkpoint.name.startswith(BASE_PREFIX)
            hint = "Give another base." if is_base else "Leave that checkpoint out with `exclude=`."
            raise CheckpointError(
                "non-finite-weights",
                f"Weights must be finite, but `{name}` in `{checkpoint.name}` holds {count:,} NaN or infinite values. "
                f"{hint}",
            )


def has_finite_sum(tensor: Tensor) -> bool:
    """A NaN or an infinity never leaves a sum again; but a sum may overflow by itself, so no proves nothing.

    Twenty times as fast as `isfinite`, which makes several passes (0.1 ns an element instead of 2).
    """
    tensor = _comparable(tensor)
    return math.isfinite(float(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))))


def _comparable(tensor: Tensor) -> Tensor:
    """In a type that torch compares and sums."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor
