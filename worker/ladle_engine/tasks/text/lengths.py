"""How many tokens a model takes at most, and where texts are cut."""

from __future__ import annotations

from typing import Any

from ladle_engine.errors import TaskError

RELATIVE = frozenset(
    {
        *("t5", "mt5", "umt5", "longt5", "switch_transformers", "pop2piano", "xlnet", "bloom", "mpt", "funnel"),
        *("mamba", "mamba2", "falcon_mamba", "rwkv", "reformer", "transfo-xl"),
    }
)
"""Models whose positions have no end, whatever length their config or an old version of it mentions."""
AFTER_PADDING = frozenset(
    {
        *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "ibert"),
        *("longformer", "luke", "mpnet", "xmod", "lilt", "layoutlmv3", "markuplm", "esm", "bertweet"),
    }
)
"""Models that count positions from `pad_token_id + 1` on: of 514 they use 512."""
NAMES = ("max_position_embeddings", "max_encoder_position_embeddings", "max_sequence_length", "n_positions", "n_ctx")
NO_LIMIT = 10**9
"""What tokenizers say instead of nothing is beyond that."""


def max_positions(config: Any) -> int | None:
    """Of a config of transformers: how many tokens a sequence may have. None where positions are relative and have no
    end.
    """
    part = getattr(config, "encoder", None)
    config = part if hasattr(part, "model_type") else config.get_text_config()
    model_type = config.model_type
    if model_type in RELATIVE or _has_relative_positions_alone(config):
        return None
    found = next((value for name in NAMES if type(value := getattr(config, name, None)) is int and value >= 1), None)
    if found is None or model_type not in AFTER_PADDING:
        return found
    padding = getattr(config, "pad_token_id", None)
    return max(found - (padding if isinstance(padding, int) else 1) - 1, 1)


def longest(max_length: int | None, tokenizer: Any, config: Any, task: str) -> int | None:
    """Where texts are cut: the option `max_length`, or else the smaller of what tokenizer and model say. None: nowhere.

    Raises `TaskError`: invalid-task-options for an option beyond the model's positions, or without room for a token;
    model-mismatch for a tokenizer that leaves no room.
    """
    positions = max_positions(config)
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if max_length is None:
        own = tokenizer.model_max_length
        if type(own) is int and 1 <= own <= special:
            raise TaskError(
                "model-mismatch",
                f"`model_max_length` of the tokenizer must be at least {special + 1}, because it adds {special} "
                f"special tokens to a text, but is {own}. Give the task option `max_length`.",
            )
        known = [each for each in (positions, own) if type(each) is int and 1 <= each < NO_LIMIT]
        return min(known, default=None)
    if positions is not None and max_length > positions:
        raise TaskError(
            "invalid-task-options",
            f"`max_length` of task `{task}` must be at most {positions}, the model's positions, but is {max_length}.",
        )
    if max_length <= special:
        raise TaskError(
            "invalid-task-options",
            f"`max_length` of task `{task}` must be at least {special + 1}, because the tokenizer adds {special} "
            f"special tokens, but is {max_length}.",
        )
    return max_length


def _has_relative_positions_alone(config: Any) -> bool:
    """DeBERTa's, by default from version 2 on."""
    return config.model_type.startswith("deberta") and getattr(config, "position_biased_input", True) is False
