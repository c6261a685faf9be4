"""Tensors that are left out of the average: `skip_tensors` and `take_from`. Each is taken from one checkpoint as it is.

The other checkpoints may have them in other shapes, or not at all.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError
from ladle_engine.options import did_you_mean

MOST_COMPARED = 200
"""Names, and characters of each, that are looked at for a hint."""

Globs = str | Sequence[str]


@dataclass(frozen=True)
class Claim:
    """One glob on tensors' names, and the checkpoint that the tensors are taken from."""

    glob: str
    checkpoint: str | None = None
    """Of `take_from`; None stands for the reference."""

    @property
    def told(self) -> str:
        return "`skip_tensors=`" if self.checkpoint is None else f"`take_from=` for `{self.checkpoint}`"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        module = self.glob.rstrip(".")
        return re.compile(f"{fnmatch.translate(self.glob)}|{fnmatch.translate(module + '.*')}")

    def takes(self, name: str) -> bool:
        """Whether it takes a tensor of this name. A module's name takes all of its tensors."""
        return name == self.glob or self._pattern.match(name) is not None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Raises `ValueError` where one breaks its rule."""

    skip_tensors: Globs | None = None
    """Taken from the reference, which is the last checkpoint."""
    take_from: Mapping[str, Globs] | None = None
    """Checkpoint -> what is taken from it."""

    def __post_init__(self) -> None:
        if self.skip_tensors is not None and not _are_globs(self.skip_tensors):
            raise ValueError(
                f"`skip_tensors` must be a text or several, none of them empty, but is {self.skip_tensors!r}."
            )
        given = self.take_from
        rule = "`take_from` must be a mapping from a checkpoint's name to the names of tensors, a text or several"
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{rule}, but is {given!r}.")
        for name, globs in (given or {}).items():
            if not isinstance(name, (str, os.PathLike)) or not _are_globs(globs):
                raise ValueError(f"{rule}, but has {globs!r} for {name!r}.")

    def claims(self, checkpoints: CheckpointSet) -> list[Claim]:
        """Raises `CheckpointError` (invalid-checkpoint-options) for a checkpoint that is not there."""
        skipped = [Claim(glob) for glob in _several(self.skip_tensors or ())]
        taken = [
            Claim(glob, named(os.fspath(name), "take_from", checkpoints.names, checkpoints.folder))
            for name, globs in (self.take_from or {}).items()
            for glob in _several(globs)
        ]
        return skipped + taken

    @cached_property
    def all_claims(self) -> list[Claim]:
        """Whatever checkpoints there are: for comparing names alone."""
        globs = [
            *_several(self.skip_tensors or ()),
            *(g for each in (self.take_from or {}).values() for g in _several(each)),
        ]
        return [Claim(glob) for glob in globs]

    def takes(self, *names: str) -> bool:
        """Whether any glob takes a tensor that has these names, from whichever checkpoint."""
        return any(claim.takes(name) for claim in self.all_claims for name in names)


def named(given: str, option: str, names: Sequence[str], folder: Path) -> str:
    """The checkpoint that is meant: its name, or its path as a shell completes it.

    Raises `CheckpointError` (invalid-checkpoint-options).
    """
    plain = os.path.normpath(given)
    for name in names:
        # A job runs elsewhere than its user: a relative path means the same there only by its end.
        if plain == name or f"{folder.absolute() / name}".endswith(f"/{plain.lstrip('/')}"):
            return name
    hint = did_you_mean(plain.rpartition("/")[2], names) or f" There are {some(names)}."
    raise CheckpointError(
        "invalid-checkpoint-options",
        f"`{option}=` must name a checkpoint that takes part, but `{given}` does not.{hint}",
    )


def leave_out(checkpoints: CheckpointSet, choice: LeftOut) -> CheckpointSet:
    """The set without these tensors in the average, and with what they are where they are taken from.

    Reads headers. Raises `CheckpointError` (invalid-checkpoint-options): a checkpoint that is not there; a glob that
    takes nothing, what another one takes, or what its checkpoint lacks; or nothing is left to average.
    """
    claims = choice.claims(checkpoints)
    if not claims:
        return checkpoints
    with open_all(checkpoints) as opened:
        readers = dict(zip(checkpoints.names, opened, strict=True))
        names = _names_of(opened)
        claimed: dict[str, Claim] = {}
        for claim in claims:
            _claim(claim, names, readers, checkpoints, claimed)
        source = {name: claim.checkpoint or checkpoints.reference.name for name, claim in claimed.items()}
        found = {name: readers[source[name]].tensors().get(name) for name in claimed}
    tensors = dict(checkpoints.tensors) | {name: info for name, info in found.items() if info is not None}
    left_out = replace(
        checkpoints,
        tensors=tensors,
        taken={name: source[name] for name in tensors if name in claimed},
        dropped=frozenset(name for name, info in found.items() if info is None),
    )
    if not left_out.averaged:
        raise CheckpointError(
            "invalid-checkpoint-options",
            f"`skip_tensors=` and `take_from=` must leave tensors to average, but they take all {len(tensors):,}.",
        )
    return _homed(left_out, checkpoints.tensors)


def _names_of(readers: Sequence[TensorReader]) -> dict[str, str]:
    """What a tensor may be called -> its name: by that, and as the files call it, with prefixes."""
    names = {name: name for reader in readers for name in reader.tensors()}
    for reader in readers:
        for name, stored in reader.stored_names().items():
            names.setdefault(stored, name)
    return names


def _matched(claim: Claim, names: Mapping[str, str]) -> list[str]:
    """A tensor's whole name takes that tensor alone."""
    if claim.glob in names:
        return [names[claim.glob]]
    return list(dict.fromkeys(name for called, name in names.items() if claim.takes(called)))


def _claim(
    claim: Claim,
    names: Mapping[str, str],
    readers: Mapping[str, TensorReader],
    checkpoints: CheckpointSet,
    claimed: dict[str, Claim],
) -> None:
    """Adds what one glob takes to what is `claimed`."""
    matched = _matched(claim, names)
    if claim.checkpoint is not None and not any(name in readers[claim.checkpoint].tensors() for name in matched):
        _refuse_absent(claim, readers[claim.checkpoint].tensors(), f"of `{claim.checkpoint}` ")
    if not matched:
        _refuse_absent(claim, names.values(), "")
    for name in matched:
        if (other := claimed.get(name)) is not None and other.checkpoint != claim.checkpoint:
            both = f"by {other.told} (`{other.glob}`) and by {claim.told} (`{claim.glob}`)"
            raise CheckpointError(
                "invalid-checkpoint-options",
                f"A tensor must be taken from one checkpoint, but `{name}` is taken twice: {both}. What `take_from=` "
                f"takes is left out of the average anyway.",
            )
        if claim.checkpoint and name in checkpoints.tensors and name not in readers[claim.checkpoint].tensors():
            raise CheckpointError(
                "invalid-checkpoint-options",
                f"{claim.told} must match tensors that `{claim.checkpoint}` has, but it lacks `{name}`, which "
                f"`{claim.glob}` matches.",
            )
        claimed[name] = claim


def _refuse_absent(claim: Claim, names: Iterable[str], whose: str) -> None:
    known = list(dict.fromkeys(names))
    wanted = claim.glob.strip("*.?")
    hint = did_you_mean(wanted[:MOST_COMPARED], _one_of_each_kind(known))
    raise CheckpointError(
        "invalid-checkpoint-options",
        f"{claim.told} must match tensors, but no tensor {whose}matches `{claim.glob}`."
        f"{hint or f' They are called {some(known)}.'}",
    )


def _one_of_each_kind(names: Sequence[str]) -> list[str]:
    """Of all layers' tensors the first layer's, with the modules they are in: comparing names takes long."""
    kinds: dict[str, str] = {}
    for name in names:
        for each in (name, name.rpartition(".")[0], name.split(".")[0]):
            if each and len(each) <= MOST_COMPARED:
                kinds.setdefault(re.sub(r"[0-9]+", "0", each), each)
        if len(kinds) >= MOST_COMPARED:
            break
    return list(kinds.values())


def some(names: Sequence[str], most: int = 3) -> str:
    """`a`, `b`, `c` and 4 more."""
    shown = [f"`{name}`" for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _homed(checkpoints: CheckpointSet, of_reference: Mapping[str, TensorInfo]) -> CheckpointSet:
    """With the home of the checkpoint that gives the model its shapes: config and tokenizer belong to those."""
    shaping = {
        checkpoint
        for name, checkpoint in checkpoints.taken.items()
        if name not in of_reference or of_reference[name].shape != checkpoints.tensors[name].shape
    }
    homes = {checkpoints.checkpoints[checkpoints.names.index(name)].home_in(checkpoints.folder) for name in shaping}
    if len(homes) > 1:
        told = (
            f"Tensors of other shapes are taken from {some(sorted(shaping))}, and config and tokenizer from "
            f"`{checkpoints.reference.name}`. Check that they fit."
        )
        return replace(checkpoints, warnings=(*checkpoints.warnings, told))
    return replace(checkpoints, home=homes.pop()) if homes else checkpoints


def told(checkpoints: CheckpointSet) -> tuple[str, ...]:
    """What is left out of the average, and from where it is taken; nothing where nothing is."""
    by_source: dict[str, list[str]] = defaultdict(list)
    for name, source in checkpoints.taken.items():
        by_source[source].append(name)
    parts = [f"{some(names)}, taken from `{source}`" for source, names in by_source.items()]
    if checkpoints.dropped:
        parts.append(f"{some(sorted(checkpoints.dropped))}, which the result lacks")
    return (f"Left out of the average: {'; '.join(parts)}.",) if parts else ()


def _are_globs(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, Sequence) and all(isinstance(each, str) and each for each in value)


def _several(globs: Globs) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)
