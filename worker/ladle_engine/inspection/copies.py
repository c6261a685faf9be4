"""Copies among checkpoints, found without reading much: the same files, or the same headers and samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ladle_engine.checkpoints.duplicates import Once, equal_groups, without_copies
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.inspection.look import Look

MAYBE = "Only headers and samples of the weights were compared; a job reads them whole."
READ_BYTES = 64 << 20
"""Alike checkpoints of so many bytes in all are read whole, which takes less than a tenth of a second."""


@dataclass
class Copies:
    """Takes the place of `duplicates.each_once`, and remembers what it left out."""

    looks: Mapping[str, Look]
    copy_of: dict[str, str] = field(default_factory=dict)
    is_certain: bool = True
    """Whether all that are alike were read whole, or are the same files."""

    def once(self, checkpoints: Sequence[Checkpoint], order: str, unopened: Collection[str]) -> Once:
        """As `each_once`."""
        by_name = {each.name: each for each in checkpoints}
        groups = self._groups([self.looks[name] for name in by_name if name in self.looks and name not in unopened])
        found = without_copies(
            checkpoints, [[by_name[each.checkpoint.name] for each in group] for group in groups], order
        )
        self.copy_of = dict(found.copy_of)
        if self.is_certain or not (found.warnings or found.identical):
            return found
        if found.identical:
            return replace(
                found, identical=False, warnings=(f"All {len(by_name)} checkpoints may hold the same weights. {MAYBE}",)
            )
        return replace(found, warnings=(*found.warnings, MAYBE))

    def _groups(self, looks: Sequence[Look]) -> list[list[Look]]:
        alike = _grouped((each, each.sample) for each in looks)
        unread = [group for group in alike if len({each.files for each in group}) > 1]
        if sum(each.size_bytes for group in unread for each in group) > READ_BYTES:
            self.is_certain = False
            return alike
        by_name = {each.checkpoint.name: each for each in looks}
        equal = [equal_groups([each.checkpoint for each in group]) for group in unread]
        read = [[by_name[each.name] for each in group] for groups in equal for group in groups]
        return [group for group in alike if group not in unread] + read


def _grouped(looks: Iterable[tuple[Look, Hashable]]) -> list[list[Look]]:
    groups: dict[Hashable, list[Look]] = defaultdict(list)
    for look, key in looks:
        if key is not None:
            groups[key].append(look)
    return [group for group in groups.values() if len(group) > 1]
