"""Coefficients of the checkpoints' outputs: what `best` and `greedy-soup` evaluate anyway says where to go."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ladle_engine.errors import MethodError
from ladle_engine.evaluation.cache import FIRST_ROUND
from ladle_engine.evaluation.evaluate import Outputs
from ladle_engine.evaluation.kept_outputs import MOST_BYTES
from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.options import option
from ladle_engine.tasks.base import GivesLogits
from ladle_engine.training.of_outputs import best_of_outputs

NAME = "cached-outputs"


@dataclass(frozen=True, kw_only=True)
class CachedOutputsOptions:
    prior: float | None = option(
        0.3, "how far from 1/K each coefficient is expected (a standard deviation); null for no prior",
        at_least=1e-6, at_most=1e6,
    )  # fmt: skip


class CachedOutputs(FixedMethod):
    """What it finds is the best average of the outputs. That of the weights is as good where they share a basin."""

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = (
        "Minimises the loss of the averaged outputs of the checkpoints on the fit split: convex, without a gradient "
        "of the model. For classification."
    )
    formula: ClassVar[tuple[str, ...]] = ("alpha = argmin_alpha L(sum_i alpha_i z_i)", "sum_i alpha_i = 1")
    reference: ClassVar[str] = "Menes and Risser-Maroix 2024, RADIN: Souping on a Budget"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2401.17790"
    options_type: ClassVar[type] = CachedOutputsOptions

    def choose(self, context: MethodContext, options: CachedOutputsOptions) -> Choice:
        K = len(context.checkpoints.names)
        singles = [context.one_checkpoint(i) for i in range(K)]
        ends = [context.evaluations.keep_outputs(single, context.loss) for single in singles]
        if not ends[0]:
            raise MethodError(
                "invalid-method-options",
                f"Method `{self.name}` must keep what {K} checkpoints put out for {FIRST_ROUND} examples in "
                f"{MOST_BYTES >> 20} MiB, but this model puts out too many numbers for each. Leave the method out.",
            )
        solved = _solve(context, options, ends[0])
        coefficients = context.coefficients(solved["alpha"])
        real = context.evaluations.first(coefficients, "fit", ends[0], context.loss).first(ends[0])
        details = {
            "examples": ends[0],
            "loss_of_outputs": solved["loss"],
            "loss_of_weights": real.loss if real.is_finite else None,
        }
        return Choice(coefficients=coefficients, label=self.name, details=details)


def _solve(context: MethodContext, options: CachedOutputsOptions, end: int) -> Mapping[str, Any]:
    """Collective: rank 0 has the outputs, and the others take what it finds."""
    found = b""
    if context.collectives.rank == 0:
        K = len(context.checkpoints.names)
        outputs = context.evaluations.kept
        assert outputs is not None
        kept = [outputs.of(context.one_checkpoint(i), end) for i in range(K)]
        logits_KNC = torch.stack([each.logits_NC for each in kept]).to(torch.float64)
        weights_N = outputs.weights(end)
        task = cast(GivesLogits, context.task)

        def losses(logits_NC: Tensor) -> Tensor:
            return task.of_logits(logits_NC, kept[0].targets)["loss"]

        alpha_K = best_of_outputs(logits_KNC, losses, weights_N, options.prior or math.inf)
        average_NC = torch.einsum("k,knc->nc", alpha_K, logits_KNC)
        loss = outputs.score(Outputs(logits_NC=average_NC, targets=kept[0].targets)).loss
        found = json.dumps({"alpha": alpha_K.tolist(), "loss": loss}).encode()
    solved: Mapping[str, Any] = json.loads(context.collectives.broadcast(found))
    return solved
