"""One checkpoint after the other, from its headers: what is wrong with one is said in its row, and stops no other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from ladle_engine.checkpoints.adapters.modules import without_ranks
from ladle_engine.checkpoints.adapters.reader import FORMAT
from ladle_engine.checkpoints.files import Candidate, refuse_unreadable
from ladle_engine.checkpoints.names import is_counter
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.inspection.types import Problem
from ladle_engine.storage.boundary import status
from ladle_engine.storage.far import presence

SAMPLED_TENSORS = 10
LAST_TENSORS = 2
"""Of the end, where heads are: what differs in a run that trains nothing else."""
SAMPLED_NUMBERS = 16
Tensors = Mapping[str, TensorInfo]


@dataclass(kw_only=True)
class Look:
    """What the headers of a checkpoint say."""

    checkpoint: Checkpoint
    problem: Problem | None = None
    size_bytes: int = 0
    files: Hashable = None
    """The same for two names of the same files."""
    tensors: Tensors | None = None
    """Shared by all checkpoints that have the same."""
    sample: bytes | None = None
    """Equal for copies, and hardly for anything else."""
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> str | None:
        return None if self.tensors is None else dtypes_of(self.tensors)

    @property
    def num_parameters(self) -> int | None:
        return None if self.tensors is None else sum(each.numel for each in self.tensors.values() if each.is_floating)


@dataclass
class Looks:
    """All that were looked at."""

    ranks_count: bool = True
    """Whether adapters of different ranks are of different architectures."""
    known: list[Tensors] = field(default_factory=list)
    """The different headers."""
    compared: list[Tensors] = field(default_factory=list)
    """What is compared of each of them."""

    def at(self, candidate: Candidate) -> Look:
        """Reads the headers of one checkpoint and a few of its numbers."""
        look = Look(checkpoint=candidate.checkpoint)
        if candidate.refusal is not None:
            look.problem = problem_of(candidate.refusal)
            return look
        try:
            found = [status(path) for path in candidate.checkpoint.files]
            look.size_bytes = sum(each.st_size for each in found)
            look.files = tuple((each.st_dev, each.st_ino) for each in found) or None
            with open_checkpoint(candidate.checkpoint) as reader:
                look.tensors = self._shared(reader.tensors(), look.checkpoint.format)
                look.notes = tuple(reader.notes)
                look.problem = _unsuitable(look.checkpoint.name, look.tensors)
                # Of far files each sample would be a request.
                look.sample = None if presence.is_far() else _sample(reader)
        except Exception as error:  # whatever a stranger's file brings about
            look.problem = _refusal(candidate.checkpoint, error)
        return look

    def number_of(self, tensors: Tensors) -> int:
        """From 1 on; the same for the same headers."""
        own = next(each for header, each in zip(self.known, self.compared, strict=True) if header is tensors)
        different: list[Tensors] = []
        for each in self.compared:
            if each is own:
                break
            if each not in different:
                different.append(each)
        return 1 + (different.index(own) if own in different else len(different))

    def _shared(self, tensors: Tensors, form: str) -> Tensors:
        """Hundreds of checkpoints have the same header: one is kept."""
        for each in self.known:
            if each == tensors:
                return each
        self.known.append(dict(tensors))
        is_any_rank = form == FORMAT and not self.ranks_count
        self.compared.append(without_ranks(tensors) if is_any_rank else self.known[-1])
        return self.known[-1]


def problem_of(error: Exception) -> Problem:
    if isinstance(error, EngineError):
        return Problem(code=error.code, message=error.message)
    if isinstance(error, OSError):
        message = EngineError(
            "unreadable-input", f"It must be readable, but is not: {error.strerror or error}."
        ).message
        return Problem(code="unreadable-input", message=message)
    message = EngineError("internal-error", f"Ladle failed: {type(error).__name__}: {error}. Please report it.").message
    return Problem(code="internal-error", message=message)


def dtypes_of(tensors: Tensors) -> str:
    """`float32`, or several with the largest share first; of integers only where there is nothing else."""
    numbers = Counter[str]()
    averaged = [info for info in tensors.values() if info.is_averaged]
    for info in averaged or tensors.values():
        numbers[str(info.dtype).removeprefix("torch.")] += info.numel
    return ", ".join(name for name, _ in numbers.most_common())


def _refusal(checkpoint: Checkpoint, error: Exception) -> Problem:
    """A file of another kind is told by its beginning, in better words than by what its reader met."""
    with suppress(OSError):
        for path in checkpoint.files:
            try:
                refuse_unreadable(path)
            except EngineError as better:
                return problem_of(better)
    return problem_of(error)


def _unsuitable(name: str, tensors: Tensors) -> Problem | None:
    if not tensors:
        error = CheckpointError("unsupported-tensors", f"A checkpoint must hold weights, but `{name}` holds no tensor.")
    elif not any(info.is_averaged for info in tensors.values()):
        error = CheckpointError(
            "unsupported-tensors",
            f"A checkpoint must hold floating-point weights, but all {len(tensors)} tensors of `{name}` are integers.",
        )
    else:
        return None
    return problem_of(error)


def _sample(reader: TensorReader) -> bytes:
    """Shapes, types, and numbers from the middle of some tensors. Not names: a copy may have prefixes before them."""
    tensors = reader.tensors()
    names = sorted(name for name, info in tensors.items() if info.numel and not is_counter(info))
    digest = hashlib.sha256(repr([(tensors[name].shape, str(tensors[name].dtype)) for name in names]).encode())
    for name in _spread(names):
        if reader.extent(name) is None:
            # It would be read whole.
            continue
        length = tensors[name].numel
        part = torch.empty(min(length, SAMPLED_NUMBERS), dtype=tensors[name].dtype)
        reader.read_into(name, (length - len(part)) // 2, part)
        digest.update(part.view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _spread(names: Sequence[str]) -> list[str]:
    stride = max(1, len(names) // SAMPLED_TENSORS)
    return list(dict.fromkeys([*names[::stride], *names[-LAST_TENSORS:]]))
