"""Rows whose answers are judged: conversations by the folder's chat template, and prompts with their completions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.text.language.encoding import Affixes, Encoded, Encoder, byte_counts, refuse_surrogates
from ladle_engine.tasks.text.language.token_store import Tokens, tokens_of

ALL, ASSISTANT = "all", "assistant"
LOSS_ON = (ALL, ASSISTANT)
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template tells what the assistant says."""
NAMES = {"from": "role", "value": "content"}
ROLES = {"human": "user", "gpt": "assistant"}
"""What conversations of ShareGPT's kind say instead."""

Span = tuple[int, int]
"""From one character to another."""


@dataclass(frozen=True, kw_only=True)
class MarkedText:
    """A text, and which parts of it are to be predicted."""

    text: str
    spans: Sequence[Span]
    affixes: Affixes
    """A conversation has its special tokens in its text."""


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Makes texts of rows by role: `messages`, or `prompt` and `completion`."""

    tokenizer: Any
    affixes: Affixes
    loss_on: str = ALL

    def read(self, row: Mapping[str, Any], place: str) -> MarkedText | None:
        """None for a row that has nothing to predict. Raises `DataError` that names the place."""
        marked = self._messages(row, place) if "messages" in row else self._prompt(row, place)
        if marked is not None:
            refuse_surrogates(marked.text, place)
        return marked

    def _messages(self, row: Mapping[str, Any], place: str) -> MarkedText | None:
        messages = _as_messages(row["messages"], place)
        if not messages:
            return None
        template = ChatTemplate(self.tokenizer, place)
        text, generated = template.render(messages)
        if self.loss_on == ALL:
            spans: Sequence[Span] = [(0, len(text))]
        elif template.tells_turns:
            spans = generated
        else:
            spans = [template.turn(messages, number, text) for number in _answers(messages)]
        return MarkedText(text=text, spans=spans, affixes=Affixes())

    def _prompt(self, row: Mapping[str, Any], place: str) -> MarkedText | None:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            messages, answers = _as_messages(prompt, place), _as_messages(completion, place)
            if not answers:
                return None
            template = ChatTemplate(self.tokenizer, place)
            text, _ = template.render([*messages, *answers])
            return MarkedText(text=text, spans=[(template.end_of(messages, text), len(text))], affixes=Affixes())
        if isinstance(prompt, list) or isinstance(completion, list):
            raise DataError(
                "invalid-data", f"`prompt` and `completion` must both be texts or both be messages in {place}."
            )
        if not completion:
            return None
        text = (prompt or "") + completion
        return MarkedText(text=text, spans=[(len(prompt or ""), len(text))], affixes=self.affixes)


@dataclass(frozen=True)
class ChatTemplate:
    tokenizer: Any
    place: str

    @property
    def tells_turns(self) -> bool:
        return GENERATION.search(self._source) is not None

    def render(self, messages: Sequence[Mapping[str, Any]], *, then_answer: bool = False) -> tuple[str, list[Span]]:
        """The conversation as a text, and what in it the assistant says, where the template tells. With `then_answer`,
        up to where the assistant's next turn begins.

        Raises `TaskError` (model-mismatch) where there is no template, and `DataError` where it fails.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._source
        try:
            # Run in a sandbox by transformers, which gives it nothing but the messages.
            rendered: Any = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=template,
                return_assistant_tokens_mask=self.tells_turns,
                add_generation_prompt=then_answer,
                **self.tokenizer.special_tokens_map,
            )
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                "invalid-data",
                f"The chat template must take the messages in {self.place}, but fails ({type(error).__name__}: "
                f"{str(error)[:300]}).",
            ) from error
        texts, spans = rendered
        return str(texts[0]), [(int(start), int(end)) for start, end in spans[0]] if spans else []

    def turn(self, messages: Sequence[Mapping[str, Any]], number: int, text: str) -> Span:
        """Where message `number`, the assistant's, stands in the text of all of them."""
        start = self.end_of(messages[:number], text)
        upto, _ = self.render(messages[: number + 1])
        if not text.startswith(upto) or len(upto) < start:
            raise self._unclear()
        return start, len(upto)

    def end_of(self, messages: Sequence[Mapping[str, Any]], text: str) -> int:
        """Where an answer to the messages begins in the text of a longer conversation."""
        before, _ = self.render(messages, then_answer=True)
        if text.startswith(before):
            return len(before)
        raise self._unclear()

    def _unclear(self) -> DataError:
        return DataError(
            "invalid-data",
            f"The chat template must tell where answers begin, but it writes the turns in {self.place} in another way "
            f"when more of them follow. A template with `{{% generation %}}` tells; without one, use `loss_on` `all`.",
        )

    @property
    def _source(self) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise TaskError(
                "model-mismatch",
                "A set of `messages` needs the chat template of the model, but there is none beside the checkpoints. "
                "Put `chat_template.jinja` there, or a `tokenizer_config.json` that has one; or use rows of `prompt` "
                "and `completion`.",
            )
        return str(self.tokenizer.get_chat_template())


def encode_marked(encoder: Encoder, texts: Sequence[MarkedText]) -> list[Tokens]:
    """Of each, the tokens that are to be predicted marked by `counts`; special tokens behind a text too."""
    if encoder.tells_places:
        encoded = encoder.encode([each.text for each in texts])
        return [_with_affixes(each, _marked(each, some)) for each, some in zip(texts, encoded, strict=True)]
    return [_with_affixes(each, _by_parts(encoder, each)) for each in texts]


def _marked(marked: MarkedText, encoded: Encoded) -> Tokens:
    assert encoded.ends is not None
    wanted = np.zeros(len(marked.text) + 1, dtype=np.int64)
    for start, end in marked.spans:
        wanted[start + 1 : end + 1] = 1
    wanted_before = np.cumsum(wanted)
    starts = np.concatenate([[0], encoded.ends[:-1]])
    # A token may end where the one before does, within the same character.
    starts = np.minimum(starts, np.maximum(encoded.ends - 1, 0))
    counts: NDArray[np.bool_] = wanted_before[encoded.ends] > wanted_before[starts]
    return tokens_of(encoded.ids, byte_counts(marked.text, encoded), counts)


def _by_parts(encoder: Encoder, marked: MarkedText) -> Tokens:
    """Of a tokenizer that does not tell places: each part on its own."""
    cuts = sorted({0, len(marked.text), *(place for span in marked.spans for place in span)})
    parts = [(marked.text[start:end], start) for start, end in itertools.pairwise(cuts)]
    encoded = encoder.encode([text for text, _ in parts])
    return np.concatenate(
        [
            tokens_of(some.ids, byte_counts(text, some), any(first <= start < end for first, end in marked.spans))
            for (text, start), some in zip(parts, encoded, strict=True)
        ]
    )


def _with_affixes(marked: MarkedText, tokens: Tokens) -> Tokens:
    before, behind = (np.array(each, dtype=np.uint32) for each in (marked.affixes.before, marked.affixes.behind))
    return np.concatenate([tokens_of(before, 0, False), tokens, tokens_of(behind, 0)])


def _as_messages(messages: Any, place: str) -> list[dict[str, Any]]:
    """Raises `DataError` for what is no list of objects with a role and a content."""
    made = []
    for message in messages or []:
        if isinstance(message, dict):
            # What a table has for a message without it.
            message = {NAMES.get(name, name): value for name, value in message.items() if value is not None}
        says = isinstance(message, dict) and ("content" in message or "tool_calls" in message)
        if not says or not isinstance(message.get("role"), str):
            raise DataError(
                "invalid-data",
                f"Messages must be objects with `role` and `content`, but one in {place} is {repr(message)[:80]}.",
            )
        made.append({"content": None, **message, "role": ROLES.get(message["role"], message["role"])})
    return made


def _answers(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [number for number, message in enumerate(messages) if message["role"] == "assistant"]
