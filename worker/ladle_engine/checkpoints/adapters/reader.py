"""An adapter as a checkpoint: its tensors in the form in which adapters are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ladle_engine.checkpoints.adapters.config import AdapterConfig, read_config
from ladle_engine.checkpoints.adapters.modules import Module, modules_of
from ladle_engine.checkpoints.types import Checkpoint, TensorInfo, TensorReader
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource, InputFile

FORMAT = "peft-adapter"

OpenPlain = Callable[[Checkpoint], AbstractContextManager[TensorReader]]


class View(Protocol):
    """What an adapter's tensors look like to those who average them. The names are those of the file."""

    def tensors(self, adapter: Adapter) -> Mapping[str, TensorInfo]: ...

    def is_stored(self, adapter: Adapter, name: str) -> bool:
        """Whether its numbers are those of the file."""
        ...

    def read(self, adapter: Adapter, name: str) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One adapter that is open."""

    name: str
    weights: TensorReader
    """The file as it is."""
    config: AdapterConfig
    modules: Mapping[str, Module]

    def module_of(self, name: str) -> Module | None:
        """The module of which a tensor is a factor or the bias."""
        return self._by_tensor.get(name)

    @property
    def _by_tensor(self) -> Mapping[str, Module]:
        return {name: module for module in self.modules.values() for name in (module.a, module.b, module.bias)}


class Scaled:
    """The factors as they are, with the scale in the second one: `s B` and `A`.

    Scales are relative to `ours`, those of the adapter whose config the result has: equal scales change nothing.
    """

    def __init__(self, ours: Mapping[str, float] | None = None) -> None:
        self._ours = ours or {}

    def tensors(self, adapter: Adapter) -> Mapping[str, TensorInfo]:
        return adapter.weights.tensors()

    def is_stored(self, adapter: Adapter, name: str) -> bool:
        return self._factor(adapter, name) == 1.0

    def read(self, adapter: Adapter, name: str) -> Tensor:
        stored = adapter.weights.read(name)
        factor = self._factor(adapter, name)
        return stored if factor == 1.0 else (stored.double() * factor).to(stored.dtype)

    def _factor(self, adapter: Adapter, name: str) -> float:
        module = adapter.module_of(name)
        if module is None or name == module.a:
            return 1.0
        own, ours = module.scale, self._ours.get(module.b, 1.0)
        return 1.0 if own == ours else own / ours


AS_IT_IS = Scaled()
"""Two adapters look the same only if they do the same, whatever their alphas."""


class AdapterReader:
    """A `TensorReader`. Several threads may read."""

    notes: tuple[str, ...] = ()

    def __init__(self, adapter: Adapter, config_file: BytesSource, view: View) -> None:
        self.adapter = adapter
        self.view = view
        self.files: Sequence[BytesSource] = [*adapter.weights.files, config_file]
        self._tensors = view.tensors(adapter)
        self._last: tuple[str, Tensor] | None = None

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def stored_names(self) -> Mapping[str, str]:
        return {name: name for name in self._tensors}

    def read(self, name: str) -> Tensor:
        return self.view.read(self.adapter, name)

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        if self.view.is_stored(self.adapter, name):
            self.adapter.weights.read_into(name, start, out)
            return
        last = self._last
        if last is None or last[0] != name:
            self._last = last = (name, self.read(name).reshape(-1))
        out.copy_(last[1][start : start + len(out)])

    def position(self, name: str) -> tuple[int, int]:
        return self.adapter.weights.position(name)

    def extent(self, name: str) -> tuple[int, Range] | None:
        return self.adapter.weights.extent(name) if self.view.is_stored(self.adapter, name) else None

    def through(self, files: Sequence[BytesSource]) -> AdapterReader:
        *weights, config_file = files
        adapter = replace(self.adapter, weights=self.adapter.weights.through(weights))
        return AdapterReader(adapter, config_file, self.view)


@contextmanager
def open_adapter(checkpoint: Checkpoint, open_plain: OpenPlain) -> Iterator[AdapterReader]:
    """`open_plain` opens its weights as any others. Raises `CheckpointError`."""
    *weights, config_path = checkpoint.files
    kind = "safetensors" if weights[0].suffix.lower() == ".safetensors" else "pickle"
    plain = replace(checkpoint, files=tuple(weights), format=kind, like={}, view=None)
    with open_plain(plain) as reader, InputFile(config_path) as config_file:
        config = read_config(config_file)
        modules = modules_of(weights[0], config, reader.tensors())
        adapter = Adapter(name=checkpoint.name, weights=reader, config=config, modules=modules)
        yield AdapterReader(adapter, config_file, checkpoint.view or AS_IT_IS)
