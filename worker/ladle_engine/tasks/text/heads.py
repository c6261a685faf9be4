"""What a model of transformers is for, as the name of its class says: `BertForMaskedLM` fills in masked words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError


@dataclass(frozen=True, kw_only=True)
class Head:
    suffixes: tuple[str, ...]
    """How the names of such classes end."""
    is_a: str
    needs: str = ""
    """What a task for such models needs, as its user would say it."""


HEADS: Mapping[str, Head] = {
    "AutoModelForSequenceClassification": Head(
        suffixes=("ForSequenceClassification",), is_a="a classifier of texts", needs="a classification head"
    ),
    "AutoModelForTokenClassification": Head(
        suffixes=("ForTokenClassification",),
        is_a="a classifier of tokens",
        needs="a head that classifies tokens",
    ),
    "AutoModelForMaskedLM": Head(
        suffixes=("ForMaskedLM", "ForPreTraining", "WithLMHeadModel"),
        is_a="a masked language model",
        needs="a masked language modelling head",
    ),
    "AutoModelForCausalLM": Head(
        suffixes=("ForCausalLM", "LMHeadModel"),
        is_a="a causal language model",
        needs="a causal language modelling head",
    ),
    "AutoModelForSeq2SeqLM": Head(
        suffixes=("ForConditionalGeneration", "MTModel", "EncoderDecoderModel"),
        is_a="an encoder and decoder that generates texts",
        needs="an encoder and a decoder with a language modelling head",
    ),
    "AutoModelForImageClassification": Head(
        suffixes=("ForImageClassification",), is_a="an image classifier", needs="an image classification head"
    ),
    "AutoModelForQuestionAnswering": Head(suffixes=("ForQuestionAnswering",), is_a="a model that answers questions"),
    "AutoModelForMultipleChoice": Head(suffixes=("ForMultipleChoice",), is_a="a model for multiple choice"),
    "AutoModelForNextSentencePrediction": Head(
        suffixes=("ForNextSentencePrediction",), is_a="a model that predicts whether a sentence follows another"
    ),
    "AutoModelForAudioClassification": Head(suffixes=("ForAudioClassification",), is_a="a classifier of sounds"),
    "AutoModelForObjectDetection": Head(suffixes=("ForObjectDetection",), is_a="a detector of objects"),
    "AutoModel": Head(suffixes=("Model",), is_a="a model without a head"),
}
"""By the auto class of transformers. A suffix belongs to the first that ends a name, the longer before the shorter."""


def architectures_of(config: Mapping[str, Any] | None) -> list[str]:
    found = (config or {}).get("architectures")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def recognised(checkpoints: CheckpointSet, suffixes: Sequence[str]) -> bool:
    """Whether `config.json` names a class that ends with one of these."""
    return any(name.endswith(tuple(suffixes)) for name in architectures_of(checkpoints.config))


def refuse_another_head(checkpoints: CheckpointSet, auto_class_name: str, task: str) -> None:
    """Raises `TaskError` (model-mismatch) where the class that `config.json` names is known to be for something else.

    A class that nobody here knows is let through: its tensors say whether it fits.
    """
    names = architectures_of(checkpoints.config)
    owners = {name: owner for name in names if (owner := _owner(name)) is not None}
    if not owners or auto_class_name in owners.values() or len(owners) < len(names):
        return
    name, owner = next(iter(owners.items()))
    raise TaskError(
        "model-mismatch",
        f"Task `{task}` needs {HEADS[auto_class_name].needs}, but `config.json` names `{name}`: this is "
        f"{HEADS[owner].is_a}. Leave `task` out, or choose one for such models; `ladle tasks` lists them.",
    )


def _owner(name: str) -> str | None:
    """The auto class whose models have such names."""
    suffixes = {suffix: auto_class for auto_class, head in HEADS.items() for suffix in head.suffixes}
    matching = [suffix for suffix in suffixes if name.endswith(suffix)]
    return suffixes[max(matching, key=len)] if matching else None
