"""One forward and backward pass: tried before memory is planned, and again beside the directions. Or, of a job that
trains nothing, one batch that is judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.distributed.out_of_memory import RELIEF, fits_everywhere
from ladle_engine.errors import EngineError
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.model.batch_norm import each_on_its_own
from ladle_engine.model.binding import Binding
from ladle_engine.placements.memory_probe import available_bytes
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.guard import backward


@dataclass(frozen=True, kw_only=True)
class TrialStep:
    """A rank's share of one training step, without any coefficients."""

    binding: Binding
    examples: Examples
    collectives: Collectives
    is_sharded: bool
    """Whether the model is cut over the ranks: then the pass itself is collective."""

    @property
    def indices(self) -> Tensor:
        """A rank's share of one batch, and two examples at least, as BatchNorm wants."""
        most = min(self.examples.task.batch_size, len(self.examples))
        return self.examples.head(max(-(-most // self.collectives.size), 2)).indices

    @property
    def what(self) -> str:
        """In words."""
        return "forward and backward pass"

    def run_first(self) -> None:
        """Collective. Raises `EngineError` (out-of-memory) on every rank where the step does not fit on one."""
        if self.is_sharded:
            # The other ranks are within the same pass, and could not be told.
            with self.collectives.translate_collective_errors():
                self.run()
            return
        device = self.examples.device
        free = available_bytes(device)
        _, fits = fits_everywhere(self.run, self.collectives)
        if not fits:
            raise EngineError(
                "out-of-memory",
                f"`batch_size` must leave room for one {self.what} on every rank, but is "
                f"{self.examples.task.batch_size}: a pass with {len(self.indices)} examples per rank ran out of "
                f"memory, where {free:,} bytes were free on {device}. {RELIEF}",
            )

    def run_again(self) -> None:
        """On this rank alone, once directions lie beside the model; nothing for a sharded model.

        A rank that ran out of memory in FSDP2's collective passes would leave the others waiting.
        """
        if not self.is_sharded:
            self.run()

    def run(self) -> None:
        """One forward and backward pass, whose gradients are freed as they arrive: what a training step takes."""
        model, task = self.binding.model, self.examples.task
        with training_pass(self.binding):
            backward(task, task.loss(model, self.examples.batch(self.indices)))


@dataclass(frozen=True, kw_only=True)
class TrialOfJudging(TrialStep):
    """A batch that is judged: a rank is dealt a whole one."""

    generated: bool
    """Whether the model generates text for it."""

    @property
    def indices(self) -> Tensor:
        return self.examples.head(self.examples.task.batch_size).indices

    @property
    def what(self) -> str:
        return "batch that is judged"

    def run(self) -> None:
        # Each rank its own, also where all of them must call the model together.
        evaluate(self.binding.model, self.examples.head(len(self.indices)), SingleProcess(), generated=self.generated)


@contextmanager
def training_pass(binding: Binding) -> Iterator[list[nn.Parameter]]:
    """Inside, the model is in the mode in which coefficients are trained, and gradients are freed as they arrive.

    The list fills with the parameters that got one.
    """
    arrived: list[nn.Parameter] = []

    def free(parameter: nn.Parameter) -> None:
        parameter.grad = None
        arrived.append(parameter)

    handles = [
        parameter.register_post_accumulate_grad_hook(free)
        for parameter in binding.parameters.values()
        if parameter.requires_grad
    ]
    # Batch statistics keep more for backward than running ones.
    binding.model.eval()
    modules = binding.running_norms
    for module in modules:
        module.train()
    try:
        with each_on_its_own(modules):
            yield arrived
    finally:
        for handle in handles:
            handle.remove()
