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
from ladle_engine.distributed.sharded import is_dtensor
from ladle_engine.errors import TaskError
from ladle_engine.tasks.text.models import call
from ladle_engine.tasks.text.token_losses import IGNORED, token_losses

ABILITIES = "_ladle_abilities"
"""The attribute of a model that keeps what the experiments found."""
RELATIVE = {torch.float32: 2e-5, torch.float64: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Numbers of an experiment that differ by less are the same, where they come of other shapes."""
EXACT = 1e-6
"""The same, where they come of the same shapes: then nothing but what differs in the experiment can change them."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    head_is_last: bool
    """The logits are what a linear output layer gives, untouched: then the layer need not be applied to all tokens."""
    packs: bool
    """Documents that stand one after the other, each with positions from 0, do not see each other."""
    sees_what_follows: bool
    """A prediction depends on the tokens behind it: the model is no causal one."""


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
    """The same for blocks int64 [B, T] of documents, each of which begins where `positions` [B, T] is 0.

    Raises `TaskError` (model-mismatch) for a model that is no causal one.
    """
    if abilities_of(model).sees_what_follows:
        raise TaskError(
            "model-mismatch",
            "The model must see only the tokens before the one that it predicts, but it sees those behind it too. Set "
            "`is_decoder` to true in `config.json` if it was trained as one that does not.",
        )
    if not bool((positions[:, 1:] == 0).any()):
        return predict(model, {"input_ids": input_ids}, targets)
    if abilities_of(model).packs:
        return predict(model, {"input_ids": input_ids, "position_ids": positions}, targets)
    return _predict_apart(model, input_ids, positions, targets)


def _predict_apart(model: nn.Module, input_ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each document in a row of its own, with documents that are at most twice as long as it.

    Nothing hides the padding: it stands behind the documents, and no token sees what follows it.
    """
    document = (positions == 0).flatten().cumsum(0) - 1
    # What stands behind the last target of a row is not needed.
    needed = (targets != IGNORED).flip(1).cumsum(1).flip(1).flatten() > 0
    lengths = torch.bincount(document[needed], minlength=int(document[-1]) + 1)
    sizes = lengths.clamp(min=1).log2().ceil()
    if any(is_dtensor(parameter) for parameter in model.parameters()):
        # A sharded model must be called as often on each rank.
        sizes = torch.zeros_like(sizes)
    nll = torch.zeros(targets.numel(), device=targets.device)
    correct = torch.zeros(targets.numel(), dtype=torch.bool, device=targets.device)
    for size in sizes[lengths > 0].unique().tolist():
        chosen = (sizes == size) & (lengths > 0)
        places = (chosen[document] & needed).nonzero().flatten()
        row, column = (chosen.cumsum(0) - 1)[document[places]], positions.flatten()[places]
        shape = (int(chosen.sum()), int(column.max()) + 1)
        ids, wanted = input_ids.new_zeros(shape), targets.new_full(shape, IGNORED)
        ids[row, column] = input_ids.flatten()[places]
        wanted[row, column] = targets.flatten()[places]
        found, right = predict(model, {"input_ids": ids}, wanted)
        nll = nll.index_put((places,), found[row, column])
        correct[places] = right[row, column]
    return nll.view(targets.shape), correct.view(targets.shape)


def abilities_of(model: nn.Module) -> Abilities:
    """Found at the first call that has weights to find it with. All ranks of a sharded model must call it."""
    known = getattr(model, ABILITIES, None)
    if isinstance(known, Abilities):
        return known
    with _in_experiment(model):
        head_is_last = _has_last_head(model)
        first, other_begin, other_end = (_logits(model, ids) for ids in ([4, 5, 6], [7, 5, 6], [4, 5, 7]))
        # Without weights nothing matters, or all is NaN.
        if first is None or not first.isfinite().all() or _same(first[:, 2:], other_begin, EXACT):
            return Abilities(head_is_last=head_is_last, packs=False, sees_what_follows=False)
        sees_what_follows = other_end is None or not _same(first[:, :2], other_end[:, :2], EXACT)
        packs = not sees_what_follows and _packs(model, first)
    found = Abilities(head_is_last=head_is_last, packs=packs, sees_what_follows=sees_what_follows)
    setattr(model, ABILITIES, found)
    return found


def logits_of(answered: Any) -> Tensor:
    """A model of transformers answers with an object, or with a tuple where its config says so."""
    logits: Tensor = answered[0] if isinstance(answered, tuple) else answered.logits
    return logits


def _through_head(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """The output layer gives losses in place of logits, inside the model's own pass: a sharded model has its weights
    only there.
    """
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
    """Without gradients and dropout. Without a cache from now on: no token is predicted twice, and models keep
    documents apart only if there is none.
    """
    for config in [each for module in model.modules() if (each := getattr(module, "config", None)) is not None]:
        if getattr(config, "use_cache", False):
            config.use_cache = False
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _has_last_head(model: nn.Module) -> bool:
    """Whether numbers that the output layer gives arrive as they are: none is scaled, capped or added to."""
    head = _head_of(model)
    if head is None:
        return False
    marks = torch.linspace(-100, 100, 3 * head.out_features, device=head.weight.device).view(1, 3, -1)
    marks = marks.to(head.weight.dtype)
    with _replaced(head, lambda hidden: marks if hidden.shape[:-1] == marks.shape[:-1] else hidden):
        arrived = _logits(model, [1, 2, 3])
    return arrived is not None and torch.equal(arrived.to(torch.float32), marks.to(torch.float32))


def _packs(model: nn.Module, alone: Tensor) -> bool:
    """`alone` are the logits of a document of three tokens."""
    behind = [_logits(model, [*others, 4, 5, 6], [0, 1, 2, 0, 1, 2]) for others in ([1, 2, 3], [9, 8, 7])]
    if behind[0] is None or behind[1] is None:
        return False
    return _same(behind[0][:, 3:], alone, RELATIVE.get(alone.dtype, 0)) and _same(
        behind[0][:, 3:], behind[1][:, 3:], EXACT
    )


def _logits(model: nn.Module, ids: list[int], positions: list[int] | None = None) -> Tensor | None:
    """[1, T, vocabulary]; None where the model does not take such inputs."""
    device = next(model.parameters()).device
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    row = torch.tensor([ids], device=device)
    inputs = {"input_ids": row % vocabulary if isinstance(vocabulary, int) else row}
    if positions is not None:
        inputs["position_ids"] = torch.tensor([positions], device=device)
    try:
        return logits_of(model(**inputs))
    except Exception as error:
        if isinstance(error, MemoryError) or is_machine_fault(error):
            raise
        return None


def _same(one: Tensor, other: Tensor | None, relative: float) -> bool:
    """Compared as far back as both go; False without the other."""
    if other is None:
        return False
    return float((one - other[:, -one.shape[1] :]).abs().max()) <= relative * float(one.abs().max())
