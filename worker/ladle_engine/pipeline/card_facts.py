"""What a model hub wants to know of a result: what it derives from, what loads it, what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.output.folder import SAFETENSORS
from ladle_engine.pipeline.hub_ids import is_model_id
from ladle_engine.pipeline.own_card import own_card

PIPELINE_TAGS = {
    "causal-lm": "text-generation",
    "image-classification": "image-classification",
    "image-text": "zero-shot-image-classification",
    "masked-lm": "fill-mask",
    "text-classification": "text-classification",
    "token-classification": "token-classification",
}
"""Task -> what the Hub calls it. A plug-in's is not known, and `seq2seq` is one of several there."""
OF_SEQ2SEQ = {
    **dict.fromkeys(("marian", "m2m_100", "fsmt", "nllb-moe"), "translation"),
    **dict.fromkeys(("pegasus", "pegasus_x"), "summarization"),
}
"""Kind of model -> the same, of those that do one thing."""
PEFT = "peft"


def card_facts(checkpoints: CheckpointSet, task: str, output_format: str) -> dict[str, Any]:
    """The entry `card` of a report. What is not known is absent: nothing is guessed, and no network is asked."""
    config = checkpoints.config or {}
    # The card of the checkpoint itself comes before that of its run.
    card = own_card([checkpoints.home, *checkpoints.places], checkpoints.root)
    base = card.pop("base_model", None) or _base_models(checkpoints, config)
    facts = {
        "library_name": _library(checkpoints, config, output_format),
        "pipeline_tag": PIPELINE_TAGS.get(task) or (OF_SEQ2SEQ.get(_kind(config)) if task == "seq2seq" else None),
        "base_model": base or None,
        # An average of adapters still is an adapter of its base model: with `merge` the Hub would show it as a model.
        "base_model_relation": ("merge" if checkpoints.adapters is None else "adapter") if base else None,
        **card,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _base_models(checkpoints: CheckpointSet, config: Mapping[str, Any]) -> list[str]:
    """What the adapters or the config name, where that is an id on the Hub and not a path."""
    if checkpoints.adapters is not None:
        named: object = checkpoints.adapters.base
    else:
        pretrained = config.get("pretrained_cfg")
        of_timm = pretrained.get("hf_hub_id") if isinstance(pretrained, dict) else None
        named = config.get("_name_or_path") or of_timm
    return [str(named)] if is_model_id(named) else []


def _library(checkpoints: CheckpointSet, config: Mapping[str, Any], output_format: str) -> str:
    """What loads the folder as it is."""
    if checkpoints.adapters is not None:
        return PEFT
    if output_format != SAFETENSORS:
        return "ladle"
    if any(path.name == "modules.json" for path in checkpoints.side_files):
        return "sentence-transformers"
    if _kind(config):
        return "transformers"
    if isinstance(config.get("_class_name"), str):
        return "diffusers"
    if isinstance(config.get("architecture"), str) and isinstance(config.get("pretrained_cfg"), dict):
        return "timm"
    return "ladle"


def _kind(config: Mapping[str, Any]) -> str:
    kind = config.get("model_type")
    return kind if isinstance(kind, str) else ""
