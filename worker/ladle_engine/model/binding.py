"""Which tensor of a checkpoint is which parameter or buffer of the task's model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ladle_engine.checkpoints.names import is_counter
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorReader
from ladle_engine.distributed.sharded import is_dtensor
from ladle_engine.errors import CheckpointError, EngineError, TaskError
from ladle_engine.model.batch_norm import RunningNorm, batch_norms
from ladle_engine.model.fitting import fit_model
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
    constants: Mapping[str, Tensor]
    """Parameters and buffers that are left out of the average: every mixture has those of one checkpoint."""
    aliases: Mapping[str, str]
    """Further names of tied tensors in the checkpoints -> the name that stands for them."""
    unused: tuple[str, ...]
    """Tensors of the checkpoints that the model does not take; the result has the reference's."""
    checkpoints: CheckpointSet
    """Its reference has the counters that another checkpoint may lack."""

    @property
    def note(self) -> str | None:
        """What to tell about the tensors that are not used."""
        if not self.unused:
            return None
        whose = (
            "those that are taken"
            if any(name in self.checkpoints.taken for name in self.unused)
            else "the last checkpoint's"
        )
        return f"The task's model has no use for {_some(self.unused)}. The result has {whose}."

    @property
    def running_norms(self) -> list[RunningNorm]:
        """The modules whose running statistics a pass over examples may make anew: all but those that are left out."""
        left_out = {id(tensor) for tensor in self.constants.values() if tensor.is_floating_point()}
        norms = batch_norms(self.model)
        return [norm for norm in norms if not any(id(buffer) in left_out for buffer in norm.buffers(recurse=False))]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def floating(self) -> tuple[str, ...]:
        """All names that get coefficients."""
        return (*self.parameters, *self.statistics)

    def load(self, checkpoint: Checkpoint) -> None:
        """Fills the model with one checkpoint, exactly (converted to the model's dtype)."""
        with open_checkpoint(checkpoint) as reader:
            self.load_parameters(reader)
            self.load_buffers(reader)
            self.load_constants(reader)

    @torch.no_grad()
    def load_parameters(self, reader: TensorReader) -> None:
        """Fills this rank's part of the parameters with one checkpoint's, converted to the model's dtype."""
        for name, parameter in self.parameters.items():
            _fill(parameter, name, reader)

    @torch.no_grad()
    def load_constants(self, own: TensorReader | None = None) -> None:
        """Fills what is left out of the average: with a checkpoint's own, where it has what fits, else with what is
        taken."""
        taken: dict[int, list[str]] = {}
        for name, tensor in self.constants.items():
            if own is not None and self.checkpoints.has_own(own, name):
                _fill(tensor, name, own)
            else:
                taken.setdefault(self.checkpoints.source_of(name), []).append(name)
        for source, names in taken.items():
            with open_checkpoint(self.checkpoints.checkpoints[source]) as reader:
                for name in names:
                    _fill(self.constants[name], name, reader)

    @torch.no_grad()
    def load_buffers(self, reader: TensorReader) -> None:
        """Fills statistics and counters with one checkpoint's."""
        for name, target in self.statistics.items():
            target.copy_(reader.read(name))
        for name, value in self._counters_in(reader).items():
            self.counters[name].copy_(value)

    def counters_of(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """One checkpoint's integer and boolean buffers; the reference's for those that it lacks."""
        if not self.counters:
            return {}
        with open_checkpoint(checkpoint) as reader:
            return self._counters_in(reader)

    def _counters_in(self, reader: TensorReader) -> dict[str, Tensor]:
        present = reader.tensors()
        found = {name: reader.read(name) for name in self.counters if name in present}
        if lacking := [name for name in self.counters if name not in found]:
            with open_checkpoint(self.checkpoints.reference) as reference:
                found |= {name: reference.read(name) for name in lacking}
        return found


def bind(model: nn.Module, checkpoints: CheckpointSet, stored_names: Mapping[str, str | None] | None = None) -> Binding:
    """`stored_names` are those that differ by more than a prefix: name in the model -> name in the checkpoints, or None
    for a tensor that the model makes itself. A name that the model lacks stands for a tensor that it has no use for.

    Raises `TaskError` (model-mismatch) naming the first tensor that only one side has, or whose shape or kind differs.
    """
    _refuse_lazy(model)
    present = checkpoints.tensors
    fitted = fit_model(model, present, stored_names or {})
    parameters: dict[str, nn.Parameter] = {}
    statistics: dict[str, Tensor] = {}
    counters: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for in_model, tensor, stored in fitted.wanted:
        if not stored:
            raise _mismatch(
                f"has the tensor `{in_model}` of shape {tuple(tensor.shape)}, but the checkpoints have none of that "
                f"name; they have {_some(present)}"
            )
        name = stored[0]
        _refuse_twice(name, parameters, statistics, counters, constants)
        _refuse_other_kind(name, checkpoints, tensor)
        _refuse_halves(stored, checkpoints)
        aliases |= dict.fromkeys(stored[1:], name)
        if name in checkpoints.taken:
            # A gradient would cost time and memory, and is wanted by nobody.
            constants[name] = tensor.requires_grad_(False)
        elif isinstance(tensor, nn.Parameter):
            parameters[name] = tensor
        elif tensor.is_floating_point():
            statistics[name] = tensor
        else:
            counters[name] = tensor
    for tensor in (*parameters.values(), *statistics.values(), *constants.values()):
        if not is_dtensor(tensor):
            # Flat vectors are cut in the order of rows, which a model in `channels_last` does not have.
            tensor.data = tensor.data.contiguous()
    for in_model, tensor in fitted.made_by_model:
        _refuse_unmade(in_model, tensor)
    unused = [name for name in present if name not in {*parameters, *statistics, *counters, *constants, *aliases}]
    # A buffer that the model makes itself, a single whole number of a wrapper's, and what the user leaves out.
    free = {*fitted.known, *checkpoints.taken, *(name for name in unused if is_counter(present[name]))}
    if extra := [name for name in unused if name not in free]:
        raise _mismatch(f"has no tensor `{extra[0]}`, but the checkpoints do ({len(extra)} such tensors)")
    _refuse_differing_complex(checkpoints)
    return Binding(
        model=model,
        parameters=parameters,
        statistics=statistics,
        counters=counters,
        constants=constants,
        aliases=aliases,
        unused=tuple(unused),
        checkpoints=checkpoints,
    )


def _refuse_lazy(model: nn.Module) -> None:
    for name, tensor in model.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            raise _mismatch(
                f"has the tensor `{name}`, whose shape no input has given yet. Run the model on an example in "
                f"`build_model`"
            )


def _refuse_unmade(name: str, tensor: Tensor) -> None:
    if is_dtensor(tensor):
        raise EngineError(
            "invalid-placement",
            f"`placement=` must not be `sharded-model` for this model: it makes `{name}` itself, and no rank would "
            f"hold all of it.",
        )


def _refuse_twice(name: str, *parts: Mapping[str, Tensor]) -> None:
    if any(name in part for part in parts):
        raise _mismatch(f"has two tensors that are `{name}` in the checkpoints, and does not tie them")


def _refuse_halves(stored: Sequence[str], checkpoints: CheckpointSet) -> None:
    """What the model ties is one tensor: all of its names are left out of the average, or none is."""
    first, *others = stored
    other = next((name for name in others if checkpoints.taken.get(name) != checkpoints.taken.get(first)), None)
    if other is None:
        return
    raise CheckpointError(
        "invalid-checkpoint-options",
        f"`{first}` and `{other}` are one tensor in the task's model, which ties them: `skip_tensors=` and "
        f"`take_from=` must leave out both, from the same checkpoint, or neither.",
    )


def _refuse_other_kind(name: str, checkpoints: CheckpointSet, tensor: Tensor) -> None:
    info = checkpoints.tensors[name]
    if info.shape != tuple(tensor.shape):
        raise _mismatch(
            f"wants `{name}` to have shape {tuple(tensor.shape)}, but in the checkpoints it has {info.shape}"
        )
    if tensor.is_complex() and isinstance(tensor, nn.Parameter) and name not in checkpoints.taken:
        raise CheckpointError(
            "unsupported-tensors",
            f"Weights must be real numbers to be trained and judged, but `{name}` is complex. "
            f"`combine_checkpoints` averages it.",
        )
    if (info.is_floating, info.dtype.is_complex) != (tensor.is_floating_point(), tensor.is_complex()):
        raise _mismatch(f"wants `{name}` to be {_word(tensor.dtype)}, but in the checkpoints it is {_word(info.dtype)}")


def _fill(tensor: Tensor, name: str, reader: TensorReader) -> None:
    """This rank's part of a tensor, converted to the type that it has in the model."""
    local, start = local_part(tensor)
    stored = torch.empty(local.numel(), dtype=reader.tensors()[name].dtype)
    reader.read_into(name, start, stored)
    local.copy_(stored)


def _some(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in list(names)[:3]) + (" ..." if len(names) > 3 else "")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_differing_complex(checkpoints: CheckpointSet) -> None:
    """Complex buffers, such as rotary frequencies, are taken from the reference like counters."""
    names = [name for name in checkpoints.averaged if checkpoints.tensors[name].dtype.is_complex]
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


def _mismatch(what: str) -> TaskError:
    return TaskError(
        "model-mismatch",
        f"The task's model {what}. Is `config.json` the one of these checkpoints? A task of your own says in "
        f"`stored_names` what its tensors are called there.",
    )
