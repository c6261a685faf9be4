"""What a language model of transformers predicts for each token, whatever it can do: found by experiment.

The tables of transformers that say what a model can do change, and a plug-in's model is in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.tasks.text.models import call
from ladle_engine.tasks.text.token_losses import IGNORED, token_losses

ABILITIES = "_ladle_abilities"
"""The attribute of a model that keeps what the experiments found."""
RELATIVE = {torch.float32: 2e-5, torch.float64: 2e-5}
"""Numbers of an experiment that differ by less are the same; by less than 3e-2 in narrower types."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    head_is_last: bool
    """The logits are what a linear output layer gives, untouched: then the layer need not be applied to all tokens."""
    packs: bool
    """Documents that stand one after the other, each with positions from 0, do not see each other."""


def predict(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """For targets int64 [B, T]: negative log-likelihoods, float32 [B, T], and which predictions are right, bool [B, T].

    Both are zero where the target is `IGNORED`.
    """
    if abilities_of(model).head_is_last:
        return _through_head(model, inputs, targets)
    logits = logits_of(call(model, inputs))
    chosen = targets != IGNORED
    scores = _scores(logits[chosen], targets[chosen], lambda some: some, logits.shape[-1], chosen)
    return scores[..., 0], scores[..., 1] > 0


def predict_packed(model: nn.Module, input_ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same for blocks int64 [B, T] of documents, each of which begins where `positions` [B, T] is 0."""
    if not bool((positions[:, 1:] == 0).any()):
        return predict(model, {"input_ids": input_ids}, targets)
    if abilities_of(model).packs:
        return predict(model, {"input_ids": input_ids, "position_ids": positions}, targets)
    document = (positions == 0).flatten().cumsum(0) - 1
    column = positions.flatten()
    shape = (int(document[-1]) + 1, int(column.max()) + 1)
    ids, wanted = input_ids.new_zeros(shape), targets.new_full(shape, IGNORED)
    ids[document, column] = input_ids.flatten()
    wanted[document, column] = targets.flatten()
    # Nothing hides the padding: it stands behind the documents, and no token sees what follows it.
    nll, correct = predict(model, {"input_ids": ids}, wanted)
    return nll[document, column].view(targets.shape), correct[document, column].view(targets.shape)


def abilities_of(model: nn.Module) -> Abilities:
    """Found at the first call."""
    known = getattr(model, ABILITIES, None)
    if not isinstance(known, Abilities):
        with _in_experiment(model):
            known = Abilities(head_is_last=_has_last_head(model), packs=_packs(model))
        setattr(model, ABILITIES, known)
    return known


def sees_what_follows(model: nn.Module) -> bool:
    """Whether a prediction depends on the tokens behind it, as in a model that is no causal one."""
    with _in_experiment(model):
        one, other = (_attempt(model, {"input_ids": _ids([[1, 2, 3, last]], model)}) for last in (4, 5))
    return one is not None and other is not None and not _same(one[:, :3], other[:, :3])


def logits_of(answered: Any) -> Tensor:
    """A model of transformers answers with an object, or with a tuple where its config says so."""
    logits: Tensor = answered[0] if isinstance(answered, tuple) else answered.logits
    return logits


def _through_head(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """The output layer gives losses in place of logits, inside the model's own pass: a sharded model has its weights
    only there."""
    head = _head_of(model)
    assert head is not None
    chosen = targets != IGNORED

    def losses(hidden: Tensor) -> Tensor:
        return _scores(
            hidden[chosen],
            targets[chosen],
            lambda some: F.linear(some, head.weight, head.bias),
            head.out_features,
            chosen,
        )

    with _replaced(head, losses):
        scores = logits_of(call(model, inputs))
    return scores[..., 0], scores[..., 1] > 0


def _scores(
    rows: Tensor, targets: Tensor, logits_of_rows: Callable[[Tensor], Tensor], vocabulary: int, chosen: Tensor
) -> Tensor:
    """float32 [B, T, 2]: the losses and, as 1 or 0, what is right."""
    nll, correct = token_losses(rows, targets, logits_of_rows, vocabulary)
    empty = torch.zeros((*chosen.shape, 2), dtype=torch.float32, device=chosen.device)
    return empty.index_put((chosen,), torch.stack([nll, correct.to(torch.float32)], dim=-1))


def _head_of(model: nn.Module) -> nn.Linear | None:
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Linear) else None


@contextmanager
def _replaced(head: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward


@contextmanager
def _in_experiment(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout, and layers of zeros, which would hide what they do. Without a cache from now on: no
    token is predicted twice, and models keep documents apart only if there is none.
    """
    for config in {id(each): each for module in model.modules() if (each := getattr(module, "config", None))}.values():
        if getattr(config, "use_cache", False):
            config.use_cache = False
    was_training = model.training
    model.eval()
    zeros = [each for each in model.parameters() if each.ndim > 1 and not bool(each.any())]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in zeros:
            parameter.copy_(torch.empty(parameter.shape).normal_(std=0.05, generator=generator))
        try:
            yield
        finally:
            for parameter in zeros:
                parameter.zero_()
            model.train(was_training)


def _has_last_head(model: nn.Module) -> bool:
    """Whether numbers that the output layer gives arrive as they are: none is scaled, capped or added to."""
    head = _head_of(model)
    if head is None:
        return False
    device = head.weight.device
    ids = _ids([[0, 1, 2, 3]], model)
    marks = torch.linspace(-100, 100, 4 * head.out_features, device=device).view(1, 4, -1).to(head.weight.dtype)
    with _replaced(head, lambda hidden: marks if hidden.ndim == 3 else hidden):
        arrived = _attempt(model, {"input_ids": ids})
    return arrived is not None and torch.equal(arrived.to(torch.float32), marks.to(torch.float32))


def _packs(model: nn.Module) -> bool:
    alone = _attempt(model, {"input_ids": _ids([[4, 5, 6]], model)})
    positions = _ids([[0, 1, 2, 0, 1, 2]], model, wrap=False)
    behind = [
        _attempt(model, {"input_ids": _ids([[*others, 4, 5, 6]], model), "position_ids": positions})
        for others in ([1, 2, 3], [9, 8, 7])
    ]
    return alone is not None and all(each is not None and _same(each[:, 3:], alone) for each in behind)


def _attempt(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The logits; None where the model does not take such inputs."""
    try:
        return logits_of(model(**inputs))
    except MemoryError:
        raise
    except Exception as error:
        if is_machine_fault(error):
            raise
        return None


def _ids(rows: list[list[int]], model: nn.Module, *, wrap: bool = True) -> Tensor:
    """Numbers that the model has tokens for."""
    device = next(model.parameters()).device
    numbers = torch.tensor(rows, device=device)
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    return numbers % vocabulary if wrap and isinstance(vocabulary, int) else numbers


def _same(one: Tensor, other: Tensor) -> bool:
    relative = RELATIVE.get(one.dtype, 3e-2)
    return float((one - other).abs().max()) <= relative * float(other.abs().max())
