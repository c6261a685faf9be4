"""A look at a task's first answers, before memory is planned and anything is trained."""

from __future__ import annotations

import math
from typing import cast

import torch

from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import TaskError
from ladle_engine.model.binding import Binding
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.trial_step import training_pass
from ladle_engine.tasks.base import Generates
from ladle_engine.tasks.contract import Broken, broken_finite
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.guard import backward, refuse, trained_part

FEW = 8
"""Examples, or all where there are fewer."""


def check_first_batch(job: Job, binding: Binding) -> None:
    """Collective for a sharded model.

    Raises `TaskError`: task-failed where `loss` or `evaluate` fails or breaks a rule, non-finite-loss where the loss is
    not finite from the start.
    """
    with job.collectives.translate_collective_errors():
        _check_loss(job.splits.coefficients.head(FEW), binding, job.checkpoints.reference)
        binding.model.eval()
        with torch.no_grad():
            for examples in (*job.splits.select.sets, *job.splits.others.values()):
                _check_values(examples.head(FEW), binding, generates=job.metric.generated)


def _check_values(examples: Examples, binding: Binding, generates: bool) -> None:
    batch = examples.batch(examples.indices)
    examples.task.evaluate(binding.model, batch)
    if generates:
        cast(Generates, examples.task).generate(binding.model, batch)


def _check_loss(examples: Examples, binding: Binding, reference: Checkpoint) -> None:
    if math.isfinite(_loss(examples, binding)):
        return
    # A model is built with any weights, or with memory that nobody has filled: only a checkpoint's tell.
    binding.load(reference)
    if broken := broken_finite(
        _loss(examples, binding), len(examples), f"`{reference.name}`", trained_part(examples.task)
    ):
        raise TaskError("non-finite-loss", broken.message(examples.task.name))


def _loss(examples: Examples, binding: Binding) -> float:
    """With a backward pass."""
    task = examples.task
    with training_pass(binding) as arrived:
        loss = task.loss(binding.model, examples.batch(examples.indices))
        backward(task, loss)
    if not arrived:
        refuse(task, Broken(trained_part(task), "depend on the model's parameters", "none of them gets a gradient"))
    return float(loss.detach())
