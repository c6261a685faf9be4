"""Checkpoints of several architectures in one folder: which are alike, how the others differ, and how to choose."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ladle_engine.checkpoints.differences import Explanation, differences, explain
from ladle_engine.checkpoints.left_out import LeftOut, some
from ladle_engine.checkpoints.names import MOST_PREFIXES, is_counter
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
            # What explains the difference names the group's last one.
            members = f"{some(group.names)}: " if len(group.names) > 1 else ""
            groups.append(f"({number}) {members}{each.text}")
    more = [f"and {len(others) + 1 - MOST_GROUPS} more"] if len(others) >= MOST_GROUPS else []
    return CheckpointError(
        "mismatched-checkpoints",
        f"All checkpoints must have the same tensors, but those in `{checkpoints.folder}` are of {len(others) + 1} "
        f"architectures: {'; '.join(groups + more)}. {_advice([base, *others], told)}",
    )


def unlike_reference(checkpoints: CheckpointSet, name: str) -> CheckpointError | None:
    """How one checkpoint differs from the reference, for whoever shows checkpoints one by one."""
    checkpoint = next(each for each in checkpoints.checkpoints if each.name == name)
    base = checkpoints.tensors
    with open_checkpoint(checkpoint) as reader:
        found = differences(base, reader.tensors(), {*checkpoints.taken, *checkpoints.dropped}.__contains__)
        if not found:
            return None
        told = explain(found, base, reader.tensors(), checkpoints.reference.name, name)
    return CheckpointError("mismatched-checkpoints", f"{told.text}.")


def _advice(groups: Sequence[Architecture], told: Sequence[Explanation]) -> str:
    several = [group for group in groups if len(group.names) > 1]
    single = [group.names[0] for group in groups if len(group.names) == 1]
    ways = []
    if len(several) > 1:
        takes = " or ".join(f"`{group.shown}` ({len(group.names)})" for group in several[:MOST_GROUPS])
        ways.append(f"Choose one with `like=`, the name of any of its checkpoints: {takes}")
    elif several:
        (group,) = several
        ways.append(
            f"Take the {len(group.names)} that are alike with `like=`, the name of any of them: `{group.shown}`. Or "
            f"leave {some(single)} out with `exclude=`"
        )
    tensors = list(dict.fromkeys(name for each in told for name in each.tensors))
    if tensors and all(each.tensors for each in told):
        start = "Or leave" if ways else "Leave"
        ways.append(
            f"{start} these tensors out of the average with `skip_tensors=`, which takes the last checkpoint's, or "
            f"`take_from=`, which takes another's: {some(_modules(tensors, groups), 6)}"
        )
    return ". ".join(ways or ["Give at least two of one architecture"]) + "."


def _modules(tensors: Sequence[str], groups: Sequence[Architecture]) -> list[str]:
    """The same as few names: a module's where it holds nothing else."""
    names = {name for group in groups for name, info in group.tensors.items() if not is_counter(info)}
    of_all = Counter(begin for name in names for begin in _beginnings(name))
    of_these = Counter(begin for name in tensors for begin in _beginnings(name))
    shortest = [
        next((begin for begin in _beginnings(name) if of_these[begin] == of_all[begin]), name) for name in tensors
    ]
    return list(dict.fromkeys(shortest))


def _beginnings(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`, and the first few of a deeper one."""
    parts = name.split(".", MOST_PREFIXES)[:MOST_PREFIXES]
    return list(itertools.accumulate(parts, lambda start, part: f"{start}.{part}"))
