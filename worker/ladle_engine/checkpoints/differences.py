"""How the tensors of two checkpoints differ, by headers alone, and what that usually means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ladle_engine.checkpoints.left_out import MOST_COMPARED, some
from ladle_engine.checkpoints.names import is_counter
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.options import nearest

Tensors = Mapping[str, TensorInfo]

ADAPTER = re.compile(r"(^|[._])(lora_|ia3_|loha_|lokr_|hada_|prompt_encoder|adapter)", re.IGNORECASE)
AVERAGE = re.compile(r"(^|[._])(ema|swa)([._]|$)|_ema\b|ema_", re.IGNORECASE)
TOKENS = re.compile(
    r"embed_tokens|tok_embeddings|word_embeddings|wte\b|shared\b|lm_head|embed_out|final_logits_bias|token_embedding|"
    r"predictions\.(bias|decoder)|output_projection",
    re.IGNORECASE,
)
POSITIONS = re.compile(r"pos(ition)?(al|s)?_?(emb|ids)|position_embeddings|wpe\b|relative_position", re.IGNORECASE)
HEAD = re.compile(
    r"(^|\.)([a-z_]*classif[a-z_]*|heads?|fc|score|qa_outputs|out_proj|linear|logits|last_linear)(\.|$)", re.IGNORECASE
)
OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output|decoder)\.weight$", re.IGNORECASE)
LAYER = re.compile(r"(?<=\.)[0-9]+(?=\.)")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Between a checkpoint (`other`) and one that it is compared with (`base`)."""

    missing: tuple[str, ...] = ()
    """What only the base has."""
    extra: tuple[str, ...] = ()
    """What only the other has."""
    reshaped: tuple[str, ...] = ()
    other_kind: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.reshaped or self.other_kind)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.missing, *self.extra, *self.reshaped, *self.other_kind)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """In words, and the tensors without which the two would be alike; none where they have too little in common."""

    text: str
    tensors: tuple[str, ...] = ()


def differences(base: Tensors, other: Tensors, ignored: Callable[[str], bool] = lambda name: False) -> Differences:
    """Single whole numbers may be there or not: wrappers add them."""
    both = [name for name in base if name in other and not ignored(name)]
    reshaped = {name for name in both if base[name].shape != other[name].shape}
    return Differences(
        missing=_only_in(base, other, ignored),
        extra=_only_in(other, base, ignored),
        reshaped=tuple(name for name in both if name in reshaped),
        other_kind=tuple(name for name in both if name not in reshaped and base[name].kind != other[name].kind),
    )


def _only_in(one: Tensors, other: Tensors, ignored: Callable[[str], bool]) -> tuple[str, ...]:
    return tuple(name for name in one if name not in other and not is_counter(one[name]) and not ignored(name))


def explain(found: Differences, base: Tensors, other: Tensors, base_name: str, other_name: str) -> Explanation:
    """The first of the usual reasons that explains all of it, or the first difference as it is."""
    names = _Names(base=f"`{base_name}`", other=f"`{other_name}`")
    for reason in (_adapter, _average, _depth, _head, _renamed, _width, _rows, _kinds):
        if (explanation := reason(found, base, other, names)) is not None:
            return explanation
    return Explanation(
        text=_as_it_is(found, base, other, names), tensors=found.names if _is_little(found, base) else ()
    )


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Of the two checkpoints."""

    base: str
    other: str


def _adapter(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    for side, tensors, name, whole in (
        (found.extra, other, names.other, names.base),
        (found.missing, base, names.base, names.other),
    ):
        adapters = [each for each in side if ADAPTER.search(each)]
        if not adapters:
            continue
        if len(adapters) == len(side) and len(tensors) > len(adapters) and not found.reshaped:
            return Explanation(
                text=f"{name} has an adapter ({some(adapters, 1)}) beside the weights that {whole} has: merge it into "
                f"them (in PEFT `merge_and_unload`), or save the adapter alone"
            )
        return Explanation(text=f"{name} holds an adapter ({some(adapters, 1)}), and {whole} whole weights")
    return None


def _average(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    """A second copy of the weights that was averaged while training."""
    for side, name, lacking in ((found.extra, names.other, names.base), (found.missing, names.base, names.other)):
        averages = [each for each in side if AVERAGE.search(each)]
        if averages and len(averages) == len(found.names):
            return Explanation(
                text=f"{name} has a second copy of the weights, an average made while training ({some(averages, 1)}), "
                f"which {lacking} lacks",
                tensors=found.names,
            )
    return None


def _depth(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    only = (*found.missing, *found.extra)
    if not only or (found.missing and found.extra):
        return None
    stacks = Counter(_stack(name) for name in only)
    stack = stacks.most_common(1)[0][0]
    if None in stacks or stack is None:
        return None
    in_base, in_other = _layers(base, stack), _layers(other, stack)
    if min(in_base, in_other) == 0 or in_base == in_other:
        return None
    text = f"{names.other} has {in_other} layers (`{stack}*`), and {names.base} has {in_base}"
    return Explanation(text=f"{text}; shapes differ too" if found.reshaped else text)


def _stack(name: str) -> str | None:
    """`model.layers.` of `model.layers.3.mlp.weight`."""
    number = LAYER.search(f".{name}")
    return name[: number.start() - 1] if number else None


def _layers(tensors: Tensors, stack: str) -> int:
    return len({name[len(stack) :].partition(".")[0] for name in tensors if name.startswith(stack)})


def _renamed(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    """Tensors that would be the same if one part of their names were."""
    if len(found.missing) != len(found.extra) or len(found.missing) < 2 or found.reshaped:
        return None
    extra = found.extra[0]
    likely = [name for name in found.missing[:MOST_COMPARED] if base[name].shape == other[extra].shape]
    if not likely:
        return None
    ours, theirs = min((_unlike_parts(name, extra) for name in likely), key=lambda parts: len(".".join(parts)))
    if {_with_part(name, ours, theirs) for name in found.missing} != set(found.extra) and {
        _with_part(name, theirs, ours) for name in found.extra
    } != set(found.missing):
        return None
    calls = f"calls it `{theirs}`" if theirs else "leaves it out"
    has = f"has `{ours}`" if ours else "has nothing"
    return Explanation(
        text=f"where {names.base} {has} in the names of tensors, {names.other} {calls} ({some(found.extra, 1)}): "
        f"modules were renamed"
    )


def _unlike_parts(ours: str, theirs: str) -> tuple[str, str]:
    """What is left of two names without the modules that both begin and end with."""
    one, other = ours.split("."), theirs.split(".")
    for end in (0, -1):
        while one and other and one[end] == other[end]:
            del one[end], other[end]
    return ".".join(one), ".".join(other)


def _with_part(name: str, old: str, new: str) -> str:
    if not old:
        return name
    changed = f".{name}.".replace(f".{old}.", f".{new}." if new else ".", 1)
    return changed.strip(".")


def _width(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    """Most of the matrices have other shapes."""
    matrices = [name for name in base if name in other and len(base[name].shape) > 1]
    wide = [name for name in found.reshaped if len(base[name].shape) > 1]
    if not wide or 2 * len(wide) <= len(matrices) or len(matrices) < 3:
        return None
    return Explanation(
        text=f"{names.other} is of another width: {_shapes(wide[0], base, other, names)}, and so on for "
        f"{len(found.reshaped)} tensors"
    )


def _rows(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    """The same two sizes differ in all tensors that do, such as those of two vocabularies."""
    if not found.reshaped or found.missing or found.extra or found.other_kind:
        return None
    sizes = {_one_size(base[name].shape, other[name].shape) for name in found.reshaped}
    pair = sizes.pop()
    if sizes or pair is None:
        return None
    ours, theirs = pair
    if all(POSITIONS.search(name) for name in found.reshaped):
        what, why = "positions", "they were trained for another length or image size"
    elif any(TOKENS.search(name) for name in found.reshaped):
        what, why = "rows", "tokens were added to the vocabulary, or it was padded"
    elif all(HEAD.search(name) for name in found.reshaped):
        what, why = "outputs", "they were trained for another number of labels"
    else:
        return None
    return Explanation(
        text=f"{names.other} has {theirs:,} {what} in {some(found.reshaped)}, and {names.base} has {ours:,}: {why}",
        tensors=found.reshaped,
    )


def _one_size(ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, int] | None:
    """The only size in which two shapes differ."""
    if len(ours) != len(theirs):
        return None
    differing = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    return differing[0] if len(differing) == 1 else None


def _head(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    """A head that only one of them has, or heads of two kinds."""
    only = (*found.missing, *found.extra)
    if (
        not only
        or not all(HEAD.search(name) or OUTPUT.search(name) for name in found.names)
        or not _is_little(found, base)
    ):
        return None
    if found.missing and found.extra:
        text = (
            f"{names.other} has {some(found.extra)}, where {names.base} has {some(found.missing)}: heads of two "
            f"tasks, or of two names"
        )
    elif found.missing:
        text = f"{names.other} lacks {some(found.missing)}, which {names.base} has: it was saved without this head"
    else:
        text = f"{names.other} has {some(found.extra)}, which {names.base} lacks: it has a head more"
    return Explanation(text=text, tensors=found.names)


def _kinds(found: Differences, base: Tensors, other: Tensors, names: _Names) -> Explanation | None:
    if not found.other_kind or found.missing or found.extra or found.reshaped:
        return None
    name = found.other_kind[0]
    more = f", and so for {len(found.other_kind) - 1:,} more" if len(found.other_kind) > 1 else ""
    return Explanation(
        text=f"`{name}` is {_type(other[name])} in {names.other}, but {_type(base[name])} in {names.base}: "
        f"{_a(other[name].kind)} tensor and {_a(base[name].kind)} one{more}",
        tensors=found.names if _is_little(found, base) else (),
    )


def _as_it_is(found: Differences, base: Tensors, other: Tensors, names: _Names) -> str:
    parts = []
    if found.missing:
        few = [name for name in found.extra[:MOST_COMPARED] if len(name) <= MOST_COMPARED]
        few = [name for name in few if other[name].shape == base[found.missing[0]].shape]
        close = nearest(found.missing[0][:MOST_COMPARED], few, cutoff=0.5)
        hint = f" (it has `{close[0]}` instead; was it renamed?)" if close else ""
        more = _more(found.missing)
        parts.append(f"{names.other} lacks the tensor `{found.missing[0]}`{more}, which {names.base} has{hint}")
    elif found.extra:
        more = _more(found.extra)
        parts.append(f"{names.other} has the tensor `{found.extra[0]}`{more}, which {names.base} lacks")
    if found.reshaped and not found.missing:
        parts.append(_shapes(found.reshaped[0], base, other, names) + _more(found.reshaped, ", and so on for {} more"))
    return "; ".join(parts)


def _more(names: Sequence[str], words: str = " and {} more") -> str:
    return words.format(f"{len(names) - 1:,}") if len(names) > 1 else ""


def _shapes(name: str, base: Tensors, other: Tensors, names: _Names) -> str:
    return f"`{name}` has shape {other[name].shape} in {names.other}, but {base[name].shape} in {names.base}"


def _is_little(found: Differences, base: Tensors) -> bool:
    """Whether most of the model is the same."""
    return 2 * len(found.names) <= len(base)


def _type(info: TensorInfo) -> str:
    return str(info.dtype)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
