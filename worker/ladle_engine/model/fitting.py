"""Which name of the checkpoints is which tensor of the model, tied names together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ladle_engine.checkpoints.names import fit
from ladle_engine.checkpoints.types import TensorInfo


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    wanted: list[tuple[str, Tensor, list[str]]]
    """The tensors that checkpoints are to fill: a name in the model, and all names in the checkpoints, if any."""
    made_by_model: list[tuple[str, Tensor]]
    """Those that checkpoints may lack."""
    known: frozenset[str]
    """Names of the checkpoints that are no sign of another model."""


def fit_model(
    model: nn.Module, present: Mapping[str, TensorInfo], stored_names: Mapping[str, str | None]
) -> FittedModel:
    """`stored_names` are those that a task gives; see `Task.stored_names`."""
    state = {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, Tensor)}
    named = _names_in_checkpoints(dict(model.named_buffers(remove_duplicate=False)) | state, present, stored_names)
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    wanted = []
    made_by_model = []
    for names in tied.values():
        tensor = state[names[0]]
        stored = list(dict.fromkeys(named[name] for name in names if name in named))
        if not stored and all(stored_names.get(name, name) is None for name in names):
            made_by_model.append((names[0], tensor))
        else:
            wanted.append((names[0], tensor, stored))
    return FittedModel(wanted=wanted, made_by_model=made_by_model, known=frozenset(named.values()))


def _names_in_checkpoints(
    tensors: Mapping[str, Tensor], present: Mapping[str, TensorInfo], stored_names: Mapping[str, str | None]
) -> dict[str, str]:
    """Name in the model, its non-persistent buffers included -> name in the checkpoints, for all that they hold."""
    wanted = {
        name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype)
        for name, tensor in tensors.items()
        if name not in stored_names
    }
    given = {name: stored for name, stored in stored_names.items() if stored is not None and stored in present}
    return fit(wanted, present) | given
