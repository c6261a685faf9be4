"""What lies beside the checkpoints of an encoder-decoder, made ready: tokenizer, languages, lengths, generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.text.generation import Generator
from ladle_engine.tasks.text.generation_settings import GenerationSettings, read_settings
from ladle_engine.tasks.text.languages import Languages, set_languages
from ladle_engine.tasks.text.lengths import NO_LIMIT, max_positions
from ladle_engine.tasks.text.pair_data import PairEncoder
from ladle_engine.tasks.text.tokenizer import open_tokenizer

USUAL_LENGTH = 1024
"""Tokens, where neither the model nor its tokenizer has a limit."""


class Wanted(Protocol):
    """The task's options that matter here; None for what the folder says."""

    max_source_length: int | None
    max_target_length: int | None
    source_prefix: str
    source_lang: str | None
    target_lang: str | None
    num_beams: int | None
    max_new_tokens: int | None
    length_penalty: float | None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqFolder:
    encoder: PairEncoder
    languages: Languages
    generator: Generator
    padding: int
    """The token that fills up sources."""
    remarks: tuple[str, ...]

    def texts_of(self, tokens: Sequence[Tensor]) -> list[str]:
        texts: list[str] = self.encoder.tokenizer.batch_decode(list(tokens), skip_special_tokens=True)
        return texts


def open_folder(checkpoints: CheckpointSet, wanted: Any, task: str) -> Seq2SeqFolder:
    """Raises `TaskError` (model-mismatch, invalid-task-options, missing-library)."""
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
    settings = settings.limited(wanted.max_new_tokens, max_target, positions[1])
    _refuse_without_start(settings, config)
    return Seq2SeqFolder(
        encoder=PairEncoder(
            tokenizer=tokenizer,
            prefix=wanted.source_prefix,
            max_source_length=max_source,
            max_target_length=max_target,
        ),
        languages=languages,
        generator=Generator(settings.values),
        padding=_padding(config, tokenizer),
        remarks=settings.remarks,
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
            f"`config.json` must name the token that a text begins with, `decoder_start_token_id`, but has none. Add it; "
            f"for model_type {config.model_type!r} it is the one that the model was trained with.",
        )
