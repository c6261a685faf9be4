"""Which tensor of a checkpoint is which parameter or buffer of the task's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import UninitializedTensorMixin

from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.errors import CheckpointError, TaskError
from ladle_engine.model.local_shard import local_part


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The model and the checkpoints' names for its tensors. Tied tensors stand here once."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    """Checkpoint name -> parameter, in the model's order."""
    statistics: Mapping[str, Tensor]
    """Floating buffers, such as BatchNorm's running mean."""
    counters: Mapping[str, Tensor]
    """Integer and boolean buffers: never averaged, they come from the reference checkpoint."""
    aliases: Mapping[str, str]
    """Further names of tied tensors in the checkpoints -> the name that stands for them."""

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def floating(self) -> tuple[str, ...]:
        """All names that get coefficients."""
        return (*self.parameters, *self.statistics)

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Fills the model with one checkpoint, exactly (converted to the model's dtype)."""
        with open_checkpoint(checkpoint) as reader:
            for name, parameter in self.parameters.items():
                local, start = local_part(parameter)
                local.copy_(reader.read(name).reshape(-1)[start : start + local.numel()])
            for name, target in {**self.statistics, **self.counters}.items():
                target.copy_(reader.read(name))

    def counters_of(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """One checkpoint's integer and boolean buffers."""
        if not self.counters:
            return {}
        with open_checkpoint(checkpoint) as reader:
            return {name: reader.read(name).clone() for name in self.counters}


def bind(model: nn.Module, checkpoints: CheckpointSet, stored_names: Mapping[str, str] | None = None) -> Binding:
    """`stored_names` are those that differ: name in the model -> name in the checkpoints.

    Raises `TaskError` (model-mismatch) naming the first tensor that only one side has, or whose shape differs.
    """
    present = checkpoints.tensors
    parameters: dict[str, nn.Parameter] = {}
    statistics: dict[str, Tensor] = {}
    counters: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for names in _tied_names(model, stored_names or {}):
        tensor = names[0][1]
        stored = [name for name, _ in names if name in present]
        if not stored:
            raise _mismatch(
                f"has the tensor `{names[0][0]}` of shape {tuple(tensor.shape)}, but the checkpoints have none of that "
                f"name"
            )
        name = stored[0]
        if present[name].shape != tuple(tensor.shape):
            raise _mismatch(
                f"wants `{name}` to have shape {tuple(tensor.shape)}, but in the checkpoints it has "
                f"{present[name].shape}"
            )
        aliases |= dict.fromkeys(stored[1:], name)
        if isinstance(tensor, nn.Parameter):
            parameters[name] = tensor
        elif tensor.is_floating_point():
            statistics[name] = tensor
        else:
            counters[name] = tensor
    for tensor in (*parameters.values(), *statistics.values()):
        if not isinstance(tensor, DTensor):
            # Flat vectors are cut in the order of rows, which a model in `channels_last` does not have.
            tensor.data = tensor.data.contiguous()
    known = {*parameters, *statistics, *counters, *aliases}
    if extra := [name for name in present if name not in known]:
        raise _mismatch(f"has no tensor `{extra[0]}`, but the checkpoints do ({len(extra)} such tensors)")
    _check_ties(checkpoints, aliases)
    return Binding(model=model, parameters=parameters, statistics=statistics, counters=counters, aliases=aliases)


def _tied_names(model: nn.Module, stored_names: Mapping[str, str]) -> list[list[tuple[str, Tensor]]]:
    """The model's tensors, each with all the names it has in the checkpoints."""
    names_of: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, UninitializedTensorMixin):
            raise _mismatch(
                f"has the tensor `{name}`, whose shape no input has given yet. Run the model on an example in "
                f"`build_model`"
            )
        names_of.setdefault(id(tensor), []).append((stored_names.get(name, name), tensor))
    return list(names_of.values())


def _check_ties(checkpoints: CheckpointSet, aliases: Mapping[str, str]) -> None:
    """What the model ties must be equal in every file, or averaging would silently drop one of the two."""
    if not aliases:
        return
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            for alias, name in aliases.items():
                if not torch.equal(reader.read(alias), reader.read(name)):
                    raise CheckpointError(
                        "mismatched-checkpoints",
                        f"`{alias}` must equal `{name}`, for the model ties them, but in `{checkpoint.name}` they "
                        f"differ.",
                    )


def _mismatch(what: str) -> TaskError:
    return TaskError("model-mismatch", f"The task's model {what}. Is `config.json` the one of these checkpoints?")
