"""Which tensor of a checkpoint is which parameter or buffer of the task's model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ladle_engine.checkpoints.names import fit, is_counter
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo
from ladle_engine.errors import CheckpointError, EngineError, TaskError
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
    unused: tuple[str, ...] = ()
    """Tensors of the checkpoints that the model does not take; the result has the reference's."""

    @property
    def note(self) -> str | None:
        """What to tell about the tensors that are not used."""
        if not self.unused:
            return None
        return f"The task's model has no use for {_some(self.unused)}. The result has the last checkpoint's."

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


def bind(model: nn.Module, checkpoints: CheckpointSet, stored_names: Mapping[str, str | None] | None = None) -> Binding:
    """`stored_names` are those that differ by more than a prefix: name in the model -> name in the checkpoints, or None
    for a tensor that the model makes itself. A name that the model lacks stands for a tensor that it has no use for.

    Raises `TaskError` (model-mismatch) naming the first tensor that only one side has, or whose shape or kind differs.
    """
    present = checkpoints.tensors
    named = _names_in_checkpoints(model, present, stored_names or {})
    parameters: dict[str, nn.Parameter] = {}
    statistics: dict[str, Tensor] = {}
    counters: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for in_model, tensor, stored in _tied(model, named, stored_names or {}):
        if not stored:
            raise _mismatch(
                f"has the tensor `{in_model}` of shape {tuple(tensor.shape)}, but the checkpoints have none of that "
                f"name; they have {_some(present)}"
            )
        name = stored[0]
        if name in parameters or name in statistics or name in counters:
            raise _mismatch(f"has two tensors that are `{name}` in the checkpoints, and does not tie them")
        _refuse_other_kind(name, present[name], tensor)
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
    unused = _unused(present, {*parameters, *statistics, *counters, *aliases}, set(named.values()))
    _check_ties(checkpoints, aliases)
    _refuse_differing_complex(checkpoints)
    return Binding(
        model=model, parameters=parameters, statistics=statistics, counters=counters, aliases=aliases, unused=unused
    )


def _names_in_checkpoints(
    model: nn.Module, present: Mapping[str, TensorInfo], stored_names: Mapping[str, str | None]
) -> dict[str, str]:
    """Name in the model, its non-persistent buffers included -> name in the checkpoints, for all that they hold."""
    own = dict(model.named_buffers(remove_duplicate=False)) | _state(model)
    wanted = {
        name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype)
        for name, tensor in own.items()
        if name not in stored_names
    }
    given = {name: stored for name, stored in stored_names.items() if stored is not None and stored in present}
    return fit(wanted, present) | given


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict, without what modules add to it that is no tensor."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _tied(
    model: nn.Module, named: Mapping[str, str], stored_names: Mapping[str, str | None]
) -> Iterator[tuple[str, Tensor, list[str]]]:
    """The tensors that checkpoints are to fill, each with one name in the model and all it has in the checkpoints."""
    names_of: dict[int, list[str]] = {}
    state = _state(model)
    for name, tensor in state.items():
        names_of.setdefault(id(tensor), []).append(name)
    for names in names_of.values():
        tensor = state[names[0]]
        stored = list(dict.fromkeys(named[name] for name in names if name in named))
        if not stored and all(stored_names.get(name, name) is None for name in names):
            _refuse_unmade(names[0], tensor)
            continue
        yield names[0], tensor, stored


def _refuse_unmade(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, DTensor):
        raise EngineError(
            "invalid-placement",
            f"`placement` must not be `sharded-model` for this model: it makes `{name}` itself, and no rank would hold "
            f"all of it.",
        )


def _refuse_other_kind(name: str, info: TensorInfo, tensor: Tensor) -> None:
    if info.shape != tuple(tensor.shape):
        raise _mismatch(
            f"wants `{name}` to have shape {tuple(tensor.shape)}, but in the checkpoints it has {info.shape}"
        )
    if tensor.is_complex() and isinstance(tensor, nn.Parameter):
        raise CheckpointError(
            "unsupported-tensors",
            f"Weights must be real numbers to be trained and judged, but `{name}` is complex. "
            f"`combine_checkpoints` averages it.",
        )
    if (info.is_floating, info.dtype.is_complex) != (tensor.is_floating_point(), tensor.is_complex()):
        raise _mismatch(f"wants `{name}` to be {_word(tensor.dtype)}, but in the checkpoints it is {_word(info.dtype)}")


def _some(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in list(names)[:3]) + (" ..." if len(names) > 3 else "")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unused(present: Mapping[str, TensorInfo], bound: Set[str], known: Set[str]) -> tuple[str, ...]:
    """The checkpoints' tensors that the model has no use for, and that are no sign of another model: buffers that it
    makes itself, and single whole numbers of a wrapper's."""
    unused = [name for name in present if name not in bound]
    extra = [name for name in unused if name not in known and not is_counter(present[name])]
    if extra:
        raise _mismatch(f"has no tensor `{extra[0]}`, but the checkpoints do ({len(extra)} such tensors)")
    return tuple(unused)


def _refuse_differing_complex(checkpoints: CheckpointSet) -> None:
    """Complex buffers, such as rotary frequencies, are taken from the reference like counters."""
    names = [name for name, info in checkpoints.tensors.items() if info.dtype.is_complex]
    if not names:
        return
    with open_checkpoint(checkpoints.reference) as reference:
        for checkpoint in checkpoints.checkpoints:
            with open_checkpoint(checkpoint) as reader:
                for name in names:
                    if not same_bits(reader.read(name), reference.read(name)):
                        raise CheckpointError(
                            "unsupported-tensors",
                            f"Complex tensors must be the same in all checkpoints, but `{name}` differs between "
                            f"`{checkpoint.name}` and `{checkpoints.reference.name}`. `combine_checkpoints` averages "
                            f"it.",
                        )


def _check_ties(checkpoints: CheckpointSet, aliases: Mapping[str, str]) -> None:
    """What the model ties must be equal in every file, or averaging would silently drop one of the two."""
    if not aliases:
        return
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            for alias, name in aliases.items():
                if not same_bits(reader.read(alias), reader.read(name)):
                    raise CheckpointError(
                        "mismatched-checkpoints",
                        f"`{alias}` must equal `{name}` because the model ties them, but in `{checkpoint.name}` "
                        f"they differ.",
                    )


def _mismatch(what: str) -> TaskError:
    return TaskError("model-mismatch", f"The task's model {what}. Is `config.json` the one of these checkpoints?")
