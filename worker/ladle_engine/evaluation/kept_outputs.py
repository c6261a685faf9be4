"""What single checkpoints put out for the first examples of the fit split: kept while they are evaluated anyway.

Bounded, as halves, and rank 0's alone: in the folder of the resume state or, without one, in memory.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.evaluation.evaluate import Evaluation, Outputs, evaluate_and_keep, evaluate_outputs
from ladle_engine.resume_state import SUFFIX, ResumeState
from ladle_engine.tasks.examples import Examples

MOST_BYTES = 64 << 20
"""Of all checkpoints together. Whoever combines them has four times as much in memory, as float64."""


@dataclass(kw_only=True)
class KeptOutputs:
    """Of each checkpoint the same first examples, up to the end of a round: a random sample of the split."""

    model: nn.Module
    examples: Examples
    """The fit split, in the order in which it is evaluated."""
    round_ends: Sequence[int]
    num_checkpoints: int
    collectives: Collectives
    state: ResumeState
    served_in: torch.dtype | None
    _width: int | None = field(default=None, init=False)
    """How many numbers the model puts out for an example, once that is known."""
    _in_memory: dict[str, Outputs] = field(default_factory=dict, init=False)
    """Where the state has no folder."""

    @property
    def knows_most(self) -> bool:
        """Whether `most_examples` needs no model any more."""
        return self._width is not None

    def most_examples(self) -> int:
        """Collective when it is first asked, with any weights in the model: of how many examples outputs are kept. 0
        where the model puts out too many numbers for a first round."""
        if self._width is None:
            _, one = evaluate_and_keep(self.model, self.examples.at(slice(1)), self.collectives)
            self._width = one.logits_NC.shape[1]
        fits = MOST_BYTES // (torch.float16.itemsize * self.num_checkpoints * self._width)
        return max((end for end in self.round_ends if end <= fits), default=0)

    def evaluate(self, coefficients: Coefficients, start: int, end: int) -> Evaluation:
        """Collective: evaluates the checkpoint that the model holds, and keeps what it puts out."""
        examples = self.examples.at(slice(start, end))
        found, outputs = evaluate_and_keep(self.model, examples, self.collectives, served_in=self.served_in)
        if self.collectives.rank == 0:
            self._keep(coefficients.digest, start, outputs)
        return found

    def are_kept(self, coefficients: Coefficients, end: int) -> bool:
        """Collective: whether those of the first `end` examples are there."""
        known = self._load(coefficients.digest) if self.collectives.rank == 0 else None
        return int(self.collectives.broadcast(str(0 if known is None else len(known)).encode())) >= end

    def of(self, coefficients: Coefficients, end: int) -> Outputs:
        """Rank 0's: those of the first `end` examples, which must be there."""
        found = self._load(coefficients.digest)
        assert found is not None
        return found.first(end)

    def score(self, outputs: Outputs) -> Evaluation:
        """Of a model that puts these out for the first examples, in whatever type."""
        return evaluate_outputs(self.examples.at(slice(len(outputs))), outputs.logits_NC, outputs.targets)

    def weights(self, end: int) -> Tensor:
        """float64 [end]: how much each of the first examples counts in the mean over all of them."""
        weights = torch.empty(end, dtype=torch.float64)
        for weight, positions in self.examples.at(slice(end)).positions_by_set():
            weights[positions] = weight / len(positions)
        return weights

    def _load(self, name: str) -> Outputs | None:
        if self.state.folder is None:
            return self._in_memory.get(name)
        content = self.state.read(_file(name))
        if content is None:
            return None
        saved = torch.load(io.BytesIO(content), weights_only=True)
        return Outputs(logits_NC=saved["logits"], targets=saved["targets"])

    def _keep(self, name: str, start: int, outputs: Outputs) -> None:
        """What is known already stays, and what would leave a gap is not kept. Raises `OutputError` on a full disk."""
        known = self._load(name)
        length = 0 if known is None else len(known)
        if length < start or length >= start + len(outputs):
            return
        whole = outputs if known is None else known.first(start).and_then(outputs)
        if self.state.folder is None:
            self._in_memory[name] = whole
            return
        # Not `save`, which would put off what is saved every few seconds.
        buffer = io.BytesIO()
        torch.save({"logits": whole.logits_NC, "targets": whole.targets}, buffer)
        self.state.write(_file(name), buffer.getvalue())


def _file(name: str) -> str:
    # Agents know the beginning: they leave these files out of the copy of a state.
    return f"outputs-{name}{SUFFIX}"
