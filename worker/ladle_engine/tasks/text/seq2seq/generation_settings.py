"""How texts are generated: what `generation_config.json` beside the checkpoints says, checked, without chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.storage.input_paths import read_json

FILE = "generation_config.json"
MOST_TOKENS = 16_384
MOST_BEAMS = 100


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _ids(value: Any) -> bool:
    return _whole(0, 1 << 31)(value) or (isinstance(value, list) and len(value) >= 1 and all(map(_ids, value)))


LENGTHS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_length": (_whole(1, MOST_TOKENS), f"a whole number from 1 to {MOST_TOKENS}"),
    "max_new_tokens": (_whole(1, MOST_TOKENS), f"a whole number from 1 to {MOST_TOKENS}"),
}
TOKENS = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
USED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **LENGTHS,
    **dict.fromkeys(
        ("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        (_whole(0, MOST_TOKENS), f"a whole number from 0 to {MOST_TOKENS}"),
    ),
    "num_beams": (_whole(1, MOST_BEAMS), f"a whole number from 1 to {MOST_BEAMS}"),
    "length_penalty": (_number(-100, 100), "a number from -100 to 100"),
    "repetition_penalty": (_number(1e-3, 1e3), "a number from 0.001 to 1000"),
    "early_stopping": (lambda value: value in (True, False, "never"), 'true, false or "never"'),
    "renormalize_logits": (lambda value: isinstance(value, bool), "true or false"),
    "remove_invalid_values": (lambda value: isinstance(value, bool), "true or false"),
    "exponential_decay_length_penalty": (lambda value: isinstance(value, list) and len(value) == 2, "two numbers"),
    "sequence_bias": (lambda value: isinstance(value, list), "a list of tokens and biases"),
    "bad_words_ids": (
        lambda value: isinstance(value, list) and all(isinstance(word, list) and _ids(word) for word in value),
        "a list of lists of tokens",
    ),
    **dict.fromkeys(
        ("suppress_tokens", "begin_suppress_tokens"),
        (lambda value: isinstance(value, list) and all(map(_whole(0, 1 << 31), value)), "a list of tokens"),
    ),
    **dict.fromkeys(TOKENS, (_ids, "a token, or a list of tokens")),
}
"""Settings that decide the text of greedy and beam search, each with its rule."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
WITHOUT_EFFECT = frozenset(
    {
        *SAMPLING,
        *("do_sample", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "disable_compile"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("transformers_version", "compile_config", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "is_assistant", "low_memory", "diversity_penalty", "trust_remote_code"),
        *("max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "num_return_sequences"),
    }
)
"""On the best text of greedy and beam search."""
NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, [], {}, "")
"""As a value of a setting that is not used: it would change nothing."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    values: Mapping[str, Any]
    """Arguments of transformers' `GenerationConfig`."""
    remarks: tuple[str, ...] = ()
    """What is not as the folder says."""

    def with_values(self, **values: Any) -> GenerationSettings:
        """With these in place of the folder's; those that are None are not given."""
        given = {name: value for name, value in values.items() if value is not None}
        return GenerationSettings(values={**self.values, **given}, remarks=self.remarks)

    @property
    def num_beams(self) -> int:
        return int(self.values.get("num_beams", 1))

    def limited(self, option: int | None, usual: int, positions: int | None) -> GenerationSettings:
        """With one limit of length, within the model's positions: the option, the folder's, or what is usual."""
        values = {name: value for name, value in self.values.items() if name not in LENGTHS}
        own = self.values.get("max_new_tokens")
        if own is None and "max_length" in self.values:
            # The first token of a decoder is not new.
            own = max(self.values["max_length"] - 1, 1)
        wanted = option or own or usual
        most = wanted if positions is None else min(wanted, positions - 1)
        remarks = list(self.remarks)
        if option is None and own is None:
            remarks.append(
                f"`{FILE}` sets no limit of length: generated texts end after {most} tokens at the latest. The task "
                f"option `max_new_tokens` sets another."
            )
        elif most < wanted:
            remarks.append(f"Generated texts end after {most} tokens at the latest: the decoder has no more positions.")
        return GenerationSettings(values={**values, "max_new_tokens": most}, remarks=tuple(remarks))


def read_settings(checkpoints: CheckpointSet) -> GenerationSettings:
    """Of `generation_config.json` or, as older tools save them, of `config.json`.

    Raises `TaskError` (model-mismatch) for a file that is broken, and for values that make no sense.
    """
    path = next((path for path in checkpoints.side_files if path.name == FILE), None)
    found = _read(path) if path is not None else _of_config(checkpoints.config or {})
    name = FILE if path is not None else "config.json"
    values = {}
    for setting, (fits, rule) in USED.items():
        value = found.get(setting)
        if value is None:
            continue
        if not fits(value):
            raise TaskError("model-mismatch", f"`{setting}` in `{name}` must be {rule}, but is {repr(value)[:100]}.")
        values[setting] = value
    return GenerationSettings(values=values, remarks=_remarks(found, name))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise TaskError("model-mismatch", f"`{path}` must be a JSON file, but does not parse ({error}).") from error
    if not isinstance(values, dict):
        raise TaskError("model-mismatch", f"`{path}` must be a JSON object, but is a {type(values).__name__}.")
    return values


def _of_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Also of its part for the decoder, where a model is made of two."""
    decoder = config.get("decoder")
    of_both = {**decoder, **config} if isinstance(decoder, dict) else config
    return {name: of_both[name] for name in (*USED, "do_sample") if of_both.get(name) is not None}


def _remarks(found: Mapping[str, Any], name: str) -> tuple[str, ...]:
    remarks = []
    if found.get("do_sample") is True:
        remarks.append(
            f"`{name}` asks for sampling, which is turned off: texts are generated by greedy or beam search, so that a "
            f"model always has the same score."
        )
    unused = [
        setting
        for setting, value in found.items()
        if setting not in USED and setting not in WITHOUT_EFFECT and setting[:1] != "_" and value not in NEUTRAL
    ]
    if unused:
        names = ", ".join(f"`{setting}`" for setting in sorted(unused)[:10])
        remarks.append(f"These settings of `{name}` are not used to generate texts: {names}.")
    return tuple(remarks)
