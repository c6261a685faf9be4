"""Groups: which tensors share one coefficient per checkpoint (paper, section 4.3)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ladle_engine.errors import MethodError
from ladle_engine.model.binding import Binding

MAX_PATTERN_LENGTH = 1000

Grouping = str | int | list[str]
"""`model`, `layers` or `tensors`; a number of equal parts; or regular expressions, a group each."""

HELP = (
    "which tensors share a coefficient: model, layers, tensors, a number of equal parts, or a list of regular "
    "expressions"
)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """G groups over the floating tensors, buffers included: a statistic goes with its layer."""

    names: tuple[str, ...]
    of: dict[str, int]
    """Tensor name -> group index."""

    def __len__(self) -> int:
        return len(self.names)


def group(binding: Binding, grouping: Grouping) -> Groups:
    """Raises `MethodError` for an unknown name, more parts than tensors, or a pattern that is none or matches none."""
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise _invalid(f"be {', '.join(GROUPINGS)}, a number or a list of regular expressions", repr(grouping))
        return GROUPINGS[grouping](binding)
    if isinstance(grouping, int):
        return equal_parts(binding, grouping)
    return by_patterns(binding, grouping)


def whole_model(binding: Binding) -> Groups:
    """One group."""
    return Groups(names=("model",), of=dict.fromkeys(binding.floating, 0))


def layers(binding: Binding) -> Groups:
    """One group a layer: the block a tensor stands in (`encoder.layer.3`), else its module (`conv1`): `layers_of`."""
    return _group(binding, layers_of(binding.floating).__getitem__)


def tensors(binding: Binding) -> Groups:
    """One group a parameter; a statistic goes with a parameter of its module, if that has one."""
    return _group(binding, lambda name: _parameter_of(binding, name))


def equal_parts(binding: Binding, count: int) -> Groups:
    """`count` groups of consecutive tensors with about equally many numbers each (the paper's l = 6)."""
    if not 1 <= count <= len(binding.parameters):
        raise _invalid(f"be from 1 to the number of tensors ({len(binding.parameters)})", str(count))
    parts: dict[str, str] = {}
    total, before = binding.num_parameters, 0
    sizes = [parameter.numel() for parameter in binding.parameters.values()]
    part = 0
    for position, (name, size) in enumerate(zip(binding.parameters, sizes, strict=True)):
        left = len(sizes) - position
        full = before + size / 2 > (part + 1) * total / count
        # Every part gets a tensor: none may be skipped, and the last ones need as many tensors as there are parts left.
        if position and part < count - 1 and (full or left <= count - 1 - part):
            part += 1
        parts[name] = f"part-{part + 1}"
        before += size
    return _group(binding, lambda name: parts.get(_parameter_of(binding, name), "part-1"))


def by_patterns(binding: Binding, patterns: Sequence[str]) -> Groups:
    """One group a pattern, by its first match anywhere in a parameter's name; those that none matches are `rest`.

    A statistic goes with a parameter of its module.
    """
    if not patterns:
        raise _invalid("have at least one pattern", "an empty list")
    compiled = [_compile(pattern) for pattern in patterns]
    rest = "rest" if "rest" not in patterns else "the rest"
    first = {
        name: next((position for position, pattern in enumerate(compiled) if pattern.search(name)), None)
        for name in binding.parameters
    }
    for position, pattern in enumerate(patterns):
        if position not in first.values():
            raise _invalid(
                "have only patterns that match a parameter no earlier one does",
                f"`{pattern}` among parameters like {', '.join(list(binding.parameters)[:8])}",
            )

    def key(name: str) -> str:
        position = first.get(_parameter_of(binding, name))
        return rest if position is None else patterns[position]

    return _group(binding, key)


GROUPINGS: dict[str, Callable[[Binding], Groups]] = {"model": whole_model, "layers": layers, "tensors": tensors}

BLOCK_LISTS = ("blocks", "layers")
"""What hierarchical networks call the list of blocks within a numbered stage."""


def layers_of(names: Collection[str]) -> dict[str, str]:
    """Tensor name -> the block it stands in, found from the names of the model's tensors, else its module.

    A block is the first number in a name: `vit.encoder.layer.3.mlp.fc1.weight` is in `vit.encoder.layer.3`, and
    `conv1.weight` in `conv1`. In a stage of blocks it is the second: `encoder.stages.1.layers.2`, `blocks.3.4`. A
    number that all names begin with (a model inside a `Sequential`) is none.
    """
    modules_of = {name: name.split(".")[:-1] for name in names}
    levels = zip(*modules_of.values(), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, levels))
    parents = {tuple(modules[:end]) for modules in modules_of.values() for end in range(len(modules))}
    return {name: _block_of(modules, shared, parents) or _module_of(name) for name, modules in modules_of.items()}


def _block_of(modules: list[str], shared: int, parents: Collection[tuple[str, ...]]) -> str | None:
    """`parents` are the modules that have others inside, as a block has."""
    position = next((position for position in range(shared, len(modules)) if modules[position].isdigit()), None)
    if position is None:
        return None
    match modules[position + 1 :]:
        case [number, *_] if number.isdigit() and tuple(modules[: position + 2]) in parents:
            position += 1
        case [container, number, *_] if container in BLOCK_LISTS and number.isdigit():
            position += 2
    return ".".join(modules[: position + 1])


def _module_of(name: str) -> str:
    module, _, _ = name.rpartition(".")
    return module or name


def _parameter_of(binding: Binding, name: str) -> str:
    """The parameter itself; for a statistic, a parameter of its module if there is one."""
    if name in binding.parameters:
        return name
    module = _module_of(name)
    siblings = [other for other in binding.parameters if _module_of(other) == module]
    return siblings[0] if siblings else name


def _group(binding: Binding, key: Callable[[str], str]) -> Groups:
    keys = {name: key(name) for name in binding.floating}
    names = tuple(dict.fromkeys(keys.values()))
    index = {group: position for position, group in enumerate(names)}
    return Groups(names=names, of={name: index[keys[name]] for name in binding.floating})


def _compile(pattern: str) -> re.Pattern[str]:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise _invalid(f"have patterns of at most {MAX_PATTERN_LENGTH} characters", f"one of {len(pattern)}")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise _invalid("have regular expressions that parse", f"`{pattern}` ({error})") from error


def _invalid(rule: str, value: str) -> MethodError:
    return MethodError("invalid-method-options", f"`groups` must {rule}, but is {value}.")
