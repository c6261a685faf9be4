"""Languages of models that know several: tokens in the texts, and how the decoder is told which one to write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladle_engine.errors import TaskError
from ladle_engine.options import did_you_mean

NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


@dataclass(frozen=True, kw_only=True)
class Languages:
    """Codes as the tokenizer has them, `en_XX` or `eng_Latn`; None where nobody says."""

    source: str | None
    target: str | None
    settings: Mapping[str, int] = field(default_factory=dict)
    """Settings of generation that make the decoder begin in the target language."""


def set_languages(
    tokenizer: Any, source: str | None, target: str | None, settings: Mapping[str, Any], task: str
) -> Languages:
    """Of a multilingual tokenizer, such as mBART's, M2M100's or NLLB's; others only have names for their languages.

    `source` and `target` are the task's options; `settings` are the folder's of generation, which may name the target.

    Raises `TaskError` (invalid-task-options) for a language that the tokenizer does not know, or where none is said.
    """
    if not hasattr(tokenizer, "src_lang"):
        own = {name: getattr(tokenizer, name, None) for name in ("source_lang", "target_lang")}
        return Languages(source=source or own["source_lang"], target=target or own["target_lang"])
    known = _codes(tokenizer)
    if source is not None:
        tokenizer.src_lang = _checked(source, known, "source_lang", task)
    target = target or getattr(tokenizer, "tgt_lang", None) or _of_settings(tokenizer, settings, known)
    if target is None:
        raise TaskError(
            "invalid-task-options",
            f"`target_lang` of {task} must be given, because the tokenizer knows several languages "
            f"({_some(known)}) and the folder does not say which one the model writes.",
        )
    tokenizer.tgt_lang = _checked(target, known, "target_lang", task)
    return Languages(source=tokenizer.src_lang, target=target, settings=_first_token(tokenizer))


def _first_token(tokenizer: Any) -> dict[str, int]:
    """mBART's first models start with the language; later ones, M2M100 and NLLB are forced to write it first.

    The ids of an empty target show which: the language stands behind its end there, and before it here.
    """
    first, *_, last = tokenizer(text_target="")["input_ids"]
    if first == tokenizer.eos_token_id:
        return {"decoder_start_token_id": int(last)}
    return {"forced_bos_token_id": int(first)}


def _codes(tokenizer: Any) -> list[str]:
    codes = list(getattr(tokenizer, "lang_code_to_id", None) or ())
    return codes or [token for token in tokenizer.all_special_tokens if NLLB_CODE.fullmatch(token)]


def _of_settings(tokenizer: Any, settings: Mapping[str, Any], known: list[str]) -> str | None:
    for name in ("forced_bos_token_id", "decoder_start_token_id"):
        value = settings.get(name)
        if isinstance(value, int):
            token = str(tokenizer.convert_ids_to_tokens(value))
            # M2M100's tokens have marks around the code.
            code = token if token in known else token.strip("_")
            if code in known:
                return code
    return None


def _checked(language: str, known: list[str], name: str, task: str) -> str:
    if known and language not in known:
        hint = did_you_mean(language, known, cutoff=0.3)
        raise TaskError(
            "invalid-task-options",
            f"`{name}` of {task} must be a language of the tokenizer ({_some(known)}), but is {language!r}.{hint}",
        )
    return language


def _some(known: list[str]) -> str:
    return ", ".join(f"`{code}`" for code in known[:8]) + (" ..." if len(known) > 8 else "")
