"""transformers saves some models under other names than they have in memory, and renames while it loads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.names import is_counter, shortened
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo
from ladle_engine.errors import TaskError

FIRST_NUMBERS = (1 << 20, 1 << 21)
"""The tensors of an experiment are filled with numbers from here on, which float32 holds and no model starts with."""


def stored_names(model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
    """Name in `model`, a `PreTrainedModel` -> name in the checkpoints, where transformers renames or ties.

    None stands for a tensor that the model makes itself. A name that the model lacks is one of the checkpoints that
    transformers passes over, such as the position ids of older versions.

    Found by experiment and not from its tables, which change: a state dict whose every tensor is filled with its own
    number is loaded by `from_pretrained`, and the number that arrives in a tensor tells where that came from.

    Raises `TaskError` (model-mismatch) for a tensor that transformers puts together from several.
    """
    own = model.state_dict()
    if all(name in checkpoints.tensors for name in own) and not _others(checkpoints.tensors, own):
        return {}
    # The first way to shorten names that transformers finds all it needs under; the one with most, if none is.
    best: _Loading | None = None
    for names in shortened(checkpoints.tensors):
        loading = _load(model, checkpoints.tensors, names, FIRST_NUMBERS[0])
        if best is None or len(loading.missing) < len(best.missing):
            best = loading
        if not best.missing:
            break
    assert best is not None, "names themselves are the first way"
    return _origins(model, checkpoints.tensors, best)


@dataclass(frozen=True, kw_only=True)
class _Loading:
    """An experiment."""

    names: Mapping[str, str]
    """Name that transformers was given -> name in the checkpoints."""
    state: Mapping[str, Tensor]
    missing: Collection[str]
    """Names of the model that it started anew, for want of a tensor or of one with the right shape."""
    unexpected: Collection[str]
    """Names that it was given and neither took nor knows to pass over."""


def _load(model: nn.Module, tensors: Mapping[str, TensorInfo], names: Mapping[str, str], first_number: int) -> _Loading:
    numbered = {
        name: torch.full((), float(number)).expand(tensors[stored].shape)
        for number, (name, stored) in enumerate(names.items(), start=first_number)
    }
    loader: Any = type(model)
    try:
        with _quiet():
            loaded, info = loader.from_pretrained(
                None,
                config=getattr(model, "config", None),
                state_dict=numbered,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except MemoryError:
        raise
    except Exception as error:
        # Wherever its rules for renaming trip over names that are none of its own.
        raise TaskError(
            "model-mismatch",
            f"transformers must be able to load the checkpoints into the model of `config.json`, but fails "
            f"({type(error).__name__}: {str(error)[:300]}).",
        ) from error
    mismatched = {each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]}
    return _Loading(
        names=names,
        state=loaded.state_dict(),
        missing={*info["missing_keys"], *mismatched},
        unexpected=set(info["unexpected_keys"]),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar and its report of a loading that is only an experiment."""
    from transformers.utils import logging

    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()


def _origins(model: nn.Module, tensors: Mapping[str, TensorInfo], loading: _Loading) -> dict[str, str | None]:
    stored_of: dict[str, str | None] = {}
    unclear: list[str] = []
    arrived: set[str] = set()
    originals = list(loading.names.values())
    for name, tensor in loading.state.items():
        if name in loading.names:
            # Under its own name, whatever the model ties it to.
            stored_of[name] = loading.names[name]
        elif name in loading.missing or tensor.numel() == 0:
            continue
        elif (number := _only_number(tensor)) is not None and 0 <= number - FIRST_NUMBERS[0] < len(originals):
            stored_of[name] = originals[number - FIRST_NUMBERS[0]]
        else:
            unclear.append(name)
        arrived.add(stored_of.get(name) or "")
    if not loading.missing:
        # Otherwise what is missing is to be told of, and what is tied to it was started anew too.
        _refuse_made_from_several(model, tensors, loading, unclear)
    stored_of |= dict.fromkeys(unclear)
    passed_over = [stored for name, stored in loading.names.items() if name not in loading.unexpected]
    stored_of |= {stored: stored for stored in passed_over if stored not in arrived and stored not in loading.state}
    return {name: stored for name, stored in stored_of.items() if name != stored or name not in loading.state}


def _refuse_made_from_several(
    model: nn.Module, tensors: Mapping[str, TensorInfo], loading: _Loading, unclear: Collection[str]
) -> None:
    """What changes with the numbers comes from the checkpoints; what does not, the model makes itself."""
    if not unclear:
        return
    again = _load(model, tensors, loading.names, FIRST_NUMBERS[1])
    for name in unclear:
        if not torch.equal(loading.state[name], again.state[name]):
            raise TaskError(
                "model-mismatch",
                f"Every tensor of the model must be one tensor of the checkpoints, but transformers makes `{name}` "
                f"from several. Save the checkpoints in the model's own format (`save_original_format=False`).",
            )


def _only_number(tensor: Tensor) -> int | None:
    """The whole number that fills a tensor, if one does."""
    first = float(tensor.reshape(-1)[0])
    return int(first) if first.is_integer() and bool((tensor == first).all()) else None


def _others(tensors: Mapping[str, TensorInfo], known: Collection[str]) -> list[str]:
    return [name for name, info in tensors.items() if name not in known and not is_counter(info)]
