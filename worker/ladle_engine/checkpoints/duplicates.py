"""Checkpoints that hold the same weights: a link, a copy, or the same tensors in another container."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch

from ladle_engine.checkpoints.chunks import same_tensors
from ladle_engine.checkpoints.name_parts import LAST_WORDS, words_of
from ladle_engine.checkpoints.order import arrange
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, TensorReader
from ladle_engine.distributed.machine_faults import comes_of_a_machine
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.boundary import status

MOST_GROUPS = 5
SAMPLED_TENSORS = 16
SAMPLED_ELEMENTS = 16


@dataclass(frozen=True, kw_only=True)
class Once:
    """Checkpoints without copies of each other, unless all are."""

    checkpoints: tuple[Checkpoint, ...]
    copy_of: Mapping[str, str] = field(default_factory=dict)
    """Name of one that was left out -> name of the one that counts in its place."""
    warnings: tuple[str, ...] = ()
    identical: bool = False
    """All hold the same weights: then none is left out."""


def each_once(checkpoints: Sequence[Checkpoint], order: str = "auto", unopened: Collection[str] = ()) -> Once:
    """Reads whole what may be equal. The `unopened` all stay."""
    return without_copies(checkpoints, equal_groups([each for each in checkpoints if each.name not in unopened]), order)


def without_copies(checkpoints: Sequence[Checkpoint], groups: Sequence[Sequence[Checkpoint]], order: str) -> Once:
    """Of each group of equal ones that with a step stays, then `last` and its like, then the first."""
    if any(len(group) == len(checkpoints) for group in groups):
        return Once(checkpoints=tuple(checkpoints), identical=True)
    arranged = arrange(checkpoints, order).checkpoints
    place = {
        each.name: (each.step is None, not words_of(each.name_in_run) & LAST_WORDS, i)
        for i, each in enumerate(arranged)
    }
    kept_first = [sorted((each.name for each in group), key=place.__getitem__) for group in groups]
    copy_of = {name: first for first, *rest in kept_first for name in rest}
    return Once(
        checkpoints=tuple(each for each in checkpoints if each.name not in copy_of),
        copy_of=copy_of,
        warnings=tuple(_told(names) for names in kept_first[:MOST_GROUPS]) + _untold(len(kept_first) - MOST_GROUPS),
    )


def _told(names: Sequence[str]) -> str:
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} and {last} hold the same weights: they count once, as `{names[0]}`."


def _untold(groups: int) -> tuple[str, ...]:
    return (f"The same is true of {groups} more groups of checkpoints.",) if groups > 0 else ()


def equal_groups(checkpoints: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """The groups of two or more that hold the same weights, bit for bit, whatever prefixes their names have.

    Names, shapes, types and a few elements tell most checkpoints apart; only those that agree in them are read whole.
    What cannot be read equals nothing here: the job says so if it uses it.
    """
    by_files = _grouped(checkpoints, _identity)
    same_files = {group[0].name: group for group in by_files}
    by_sample = _grouped(_with_common_names([group[0] for group in by_files]), _sample)
    equal = (group for alike in by_sample for group in _compared(alike))
    joined = ([each for first in group for each in same_files[first.name]] for group in equal)
    return [group for group in joined if len(group) > 1]


def _with_common_names(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Each asked for its tensors by the names of the first one that can be read."""
    for checkpoint in checkpoints:
        with suppress(CheckpointError, OSError), open_checkpoint(checkpoint) as reader:
            return [replace(each, like=dict(reader.tensors())) for each in checkpoints]
    return list(checkpoints)


def _grouped(checkpoints: Iterable[Checkpoint], key: Callable[[Checkpoint], Hashable | None]) -> list[list[Checkpoint]]:
    """By key, in order; one without a key is alone."""
    groups: dict[Hashable, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        found = key(checkpoint)
        groups[checkpoint.name if found is None else (found,)].append(checkpoint)
    return list(groups.values())


def _identity(checkpoint: Checkpoint) -> Hashable | None:
    """The same for two names of the same files."""
    try:
        found = [status(path) for path in checkpoint.files]
    except OSError as error:
        _refuse_fault(error)
        return None
    return tuple((each.st_dev, each.st_ino) for each in found) or None


def _sample(checkpoint: Checkpoint) -> Hashable | None:
    """Names, shapes, types, and elements from all over the weights."""
    try:
        with open_checkpoint(checkpoint) as reader:
            return _sampled(reader)
    except (CheckpointError, OSError) as error:
        _refuse_fault(error)
        return None


def _sampled(reader: TensorReader) -> bytes:
    tensors = reader.tensors()
    names = sorted(tensors)
    digest = hashlib.sha256(repr([(name, tensors[name]) for name in names]).encode(errors="surrogatepass"))
    stride = max(1, len(names) // SAMPLED_TENSORS)
    for name in [*names[::stride], *names[-1:]]:
        places = range(0, tensors[name].numel, max(1, tensors[name].numel // SAMPLED_ELEMENTS))
        sampled = torch.empty(len(places), dtype=tensors[name].dtype)
        for number, place in enumerate(places):
            reader.read_into(name, place, sampled[number : number + 1])
        digest.update(bytes(sampled.view(torch.uint8).tolist()))
    return digest.digest()


def _compared(alike: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """Groups that are equal as a whole."""
    groups: list[list[Checkpoint]] = []
    for checkpoint in alike:
        group = next((group for group in groups if _equal(group[0], checkpoint)), None)
        if group is None:
            groups.append([checkpoint])
        else:
            group.append(checkpoint)
    return groups


def _equal(one: Checkpoint, other: Checkpoint) -> bool:
    try:
        with open_checkpoint(one) as first, open_checkpoint(other) as second:
            return all(same_tensors((first, name), (second, name)) for name in first.tensors())
    except (CheckpointError, OSError) as error:
        _refuse_fault(error)
        return False


def _refuse_fault(error: Exception) -> None:
    """A disk that fails for a moment must not make a copy count twice."""
    if comes_of_a_machine(error):
        raise error
