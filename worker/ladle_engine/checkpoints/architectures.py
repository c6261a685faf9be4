"""Checkpoints of several architectures in one folder: which are alike, how the others differ, and how to choose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ladle_engine.checkpoints.differences import Explanation, differences, explain
from ladle_engine.checkpoints.left_out import LeftOut, some
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo
from ladle_engine.errors import CheckpointError

MOST_GROUPS = 4
"""That a message tells of."""


@dataclass(kw_only=True)
class Architecture:
    """Checkpoints with the same names, shapes and kinds of tensors, whatever prefixes the names have."""

    tensors: Mapping[str, TensorInfo]
    names: list[str]

    @property
    def shown(self) -> str:
        """The checkpoint that stands for all."""
        return self.names[-1]


def those_like(
    model: Checkpoint, checkpoints: Sequence[Checkpoint], left_out: LeftOut, unopened: Collection[str]
) -> list[Checkpoint]:
    """Those of the architecture of `model`. What cannot be read stays: the job says so if it uses it."""
    with open_checkpoint(model) as reader:
        expected = dict(reader.tensors())

    def is_like(checkpoint: Checkpoint) -> bool:
        if checkpoint.name in unopened:
            return True
        with suppress(CheckpointError, OSError), open_checkpoint(replace(checkpoint, like=expected)) as reader:
            stored = reader.stored_names()
            found = differences(expected, reader.tensors())
            return all(left_out.takes(name, stored.get(name, name)) for name in found.names)
        return True

    return [each for each in checkpoints if is_like(each)]


def architectures(checkpoints: CheckpointSet) -> list[Architecture]:
    """The largest group first; of equals that of the reference. Tensors that are left out do not count."""
    ignored = {*checkpoints.taken, *checkpoints.dropped}.__contains__
    groups: list[Architecture] = []
    for checkpoint in reversed(checkpoints.checkpoints):
        for group in groups:
            with open_checkpoint(replace(checkpoint, like=group.tensors)) as reader:
                if not differences(group.tensors, reader.tensors(), ignored):
                    group.names.insert(0, checkpoint.name)
                    break
        else:
            with open_checkpoint(checkpoint) as reader:
                groups.append(Architecture(tensors=dict(reader.tensors()), names=[checkpoint.name]))
    return sorted(groups, key=lambda group: -len(group.names))


def unlike(checkpoints: CheckpointSet) -> CheckpointError:
    """Which architectures there are, how they differ, and how one is chosen."""
    base, *others = architectures(checkpoints)
    ignored = {*checkpoints.taken, *checkpoints.dropped}.__contains__
    told: list[Explanation] = []
    for group in others:
        found = differences(base.tensors, group.tensors, ignored)
        told.append(explain(found, base.tensors, group.tensors, base.shown, group.shown))
    groups = [f"(1) {some(base.names)}"]
    for number, (group, each) in enumerate(zip(others, told, strict=True), start=2):
        if number <= MOST_GROUPS:
            groups.append(f"({number}) {some(group.names)}: {each.text}")
    more = [f"and {len(others) + 1 - MOST_GROUPS} more groups"] if len(others) >= MOST_GROUPS else []
    return CheckpointError(
        "mismatched-checkpoints",
        f"All checkpoints must have the same tensors, but those in `{checkpoints.folder}` are of {len(others) + 1} "
        f"architectures: {'; '.join(groups + more)}. {_advice([base, *others], told)}",
    )


def _advice(groups: Sequence[Architecture], told: Sequence[Explanation]) -> str:
    several = [group for group in groups if len(group.names) > 1]
    single = [group.names[0] for group in groups if len(group.names) == 1]
    ways = []
    if several:
        takes = " or ".join(f"`{group.shown}` ({len(group.names)})" for group in several[:MOST_GROUPS])
        ways.append(f"Choose one with `like=`, the name of any of its checkpoints: {takes}")
    if several and len(several) == 1:
        ways[-1] += f"; or leave {some(single)} out with `exclude=`"
    tensors = list(dict.fromkeys(name for each in told for name in each.tensors))
    if tensors and all(each.tensors for each in told):
        start = "Or leave" if ways else "Leave"
        ways.append(
            f"{start} these tensors out of the average with `skip_tensors=`, which takes the last checkpoint's, or "
            f"`take_from=`, which takes another's: {some(tensors, 6)}"
        )
    return ". ".join(ways or ["Give at least two of one architecture"]) + "."
