"""What lies beside the checkpoints of an encoder-decoder, made ready: tokenizer, languages, lengths, generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.text.heads import refuse_another_head
from ladle_engine.tasks.text.lengths import NO_LIMIT, max_positions
from ladle_engine.tasks.text.seq2seq.generation import Generator
from ladle_engine.tasks.text.seq2seq.generation_settings import (
    MOST_BEAMS,
    MOST_TOKENS,
    TOKENS,
    GenerationSettings,
    read_settings,
)
from ladle_engine.tasks.text.seq2seq.languages import Languages, set_languages
from ladle_engine.tasks.text.seq2seq.pair_data import PairEncoder
from ladle_engine.tasks.text.tokenizer import open_tokenizer

AUTO_CLASS = "AutoModelForSeq2SeqLM"
USUAL_LENGTH = 1024
"""Tokens, where neither the model nor its tokenizer has a limit."""
USUAL_NEW_TOKENS = 256
"""Of a generated text, where the folder has no limit: a model that does not learn to end would take long otherwise."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What a task's options say of texts; None for what the folder says."""

    max_source_length: int | None = option(None, "tokens of a source; the model's own limit when absent", at_least=2)
    max_target_length: int | None = option(None, "tokens of a target; the model's own limit when absent", at_least=2)
    source_prefix: str = option("", "before each source, such as `translate English to German: ` for T5")
    source_lang: str | None = option(None, "language of the sources: a column, an ending, or a tokenizer's code")
    target_lang: str | None = option(None, "language of the targets")
    num_beams: int | None = option(
        None, "1 is greedy search; generation_config.json's when absent", at_least=1, at_most=MOST_BEAMS
    )
    max_new_tokens: int | None = option(
        None, "of a generated text; generation_config.json's when absent", at_least=1, at_most=MOST_TOKENS
    )
    length_penalty: float | None = option(
        None, "of beam search; generation_config.json's when absent", at_least=-100, at_most=100
    )


@dataclass(frozen=True, kw_only=True)
class Seq2SeqFolder:
    encoder: PairEncoder
    languages: Languages
    generator: Generator
    padding: int
    """The token that fills up sources."""

    def texts_of(self, tokens: Sequence[Tensor]) -> list[str]:
        texts: list[str] = self.encoder.tokenizer.batch_decode(list(tokens), skip_special_tokens=True)
        return texts


def open_folder(checkpoints: CheckpointSet, wanted: TextOptions, task: str) -> Seq2SeqFolder:
    """Raises `TaskError` (model-mismatch, invalid-task-options, missing-library)."""
    refuse_another_head(checkpoints, AUTO_CLASS, task)
    config = model_config.parse_config(checkpoints)
    tokenizer = open_tokenizer(checkpoints)
    settings = read_settings(checkpoints)
    languages = set_languages(tokenizer, wanted.source_lang, wanted.target_lang, settings.values, f"task `{task}`")
    positions = max_positions(config), _decoder_positions(config)
    max_source, max_target = (
        _length(getattr(wanted, f"max_{kind}_length"), tokenizer, most, f"max_{kind}_length", task)
        for kind, most in zip(("source", "target"), positions, strict=True)
    )
    if wanted.max_new_tokens is not None and positions[1] is not None and wanted.max_new_tokens >= positions[1]:
        raise _beyond("max_new_tokens", task, positions[1] - 1, wanted.max_new_tokens)
    settings = _with_tokens(settings, config, tokenizer).with_values(
        **languages.settings, num_beams=wanted.num_beams, length_penalty=wanted.length_penalty
    )
    settings = settings.limited(wanted.max_new_tokens, min(max_target, USUAL_NEW_TOKENS), positions[1])
    _refuse_without_start(settings, config)
    _refuse_strange_tokens(settings, config)
    return Seq2SeqFolder(
        encoder=PairEncoder(
            tokenizer=tokenizer,
            prefix=wanted.source_prefix,
            max_source_length=max_source,
            max_target_length=max_target,
        ),
        languages=languages,
        generator=Generator(settings),
        padding=_padding(config, tokenizer),
    )


def _length(option: int | None, tokenizer: Any, positions: int | None, name: str, task: str) -> int:
    """Raises `TaskError` (invalid-task-options) for an option beyond the model's positions."""
    if option is not None:
        if positions is not None and option > positions:
            raise _beyond(name, task, positions, option)
        return option
    known = [each for each in (positions, tokenizer.model_max_length) if each is not None and 1 <= each < NO_LIMIT]
    return int(min(known, default=USUAL_LENGTH))


def _beyond(name: str, task: str, most: int, value: int) -> TaskError:
    return TaskError(
        "invalid-task-options",
        f"`{name}` of task `{task}` must be at most {most}, because the model has no positions beyond, but is {value}.",
    )


def _decoder_positions(config: Any) -> int | None:
    """As `max_positions`, of the decoder: some models have fewer there."""
    own = getattr(config, "max_decoder_position_embeddings", None)
    if isinstance(own, int):
        return own
    decoder = getattr(config, "decoder", None)
    return max_positions(decoder if hasattr(decoder, "model_type") else config)


def _with_tokens(settings: GenerationSettings, config: Any, tokenizer: Any) -> GenerationSettings:
    """With the tokens of config and tokenizer where the settings name none: nothing ends a text otherwise."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    decoder = getattr(config, "decoder", None)
    missing = {
        name: next((value for part in (config, decoder, tokenizer) if (value := _id(part, name)) is not None), None)
        for name in names
        if name not in settings.values
    }
    return settings.with_values(**missing)


def _id(part: Any, name: str) -> int | None:
    value = getattr(part, name, None)
    return value if isinstance(value, int) else None


def _padding(config: Any, tokenizer: Any) -> int:
    """Attention never looks at it."""
    found = _id(tokenizer, "pad_token_id")
    return 0 if found is None else found


def _refuse_without_start(settings: GenerationSettings, config: Any) -> None:
    """Raises `TaskError` (model-mismatch): without a first token the decoder has nothing to go on from."""
    if not settings.values.keys() & {"decoder_start_token_id", "bos_token_id"}:
        raise TaskError(
            "model-mismatch",
            f"`config.json` must name the token that a text begins with, `decoder_start_token_id`, but has none. "
            f"Add the one with which this {config.model_type!r} model was trained.",
        )


def _refuse_strange_tokens(settings: GenerationSettings, config: Any) -> None:
    """Raises `TaskError` (model-mismatch) for a token that the decoder does not know: at one a GPU fails for good."""
    decoder = getattr(config, "decoder", config)
    sizes = (getattr(decoder, name, None) for name in ("decoder_vocab_size", "vocab_size"))
    size = next((each for each in sizes if isinstance(each, int)), None)
    used = [(name, value) for name in TOKENS for value in (_id(config, name), settings.values.get(name))]
    for name, value in used:
        ids = value if isinstance(value, list) else [value]
        if size is not None and any(isinstance(each, int) and each >= size for each in ids):
            raise TaskError(
                "model-mismatch",
                f"`{name}` must be a token of the decoder, which knows {size:,}, but is {value}. Correct it in "
                f"`config.json` or `generation_config.json`.",
            )
