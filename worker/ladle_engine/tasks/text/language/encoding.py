"""Texts as tokens, and how many bytes of the text each token stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle_engine.errors import DataError, TaskError
from ladle_engine.progress import pulse

PIECE_CHARS = 1 << 18
"""Of text that is tokenised at once."""
PIECE_TEXTS = 4096
TRIED = ("a", "the", "1", ".")
"""Texts of which a tokenizer makes some token."""
MARGIN_CHARS = 2_000
"""Where a long text is cut, what stands so far away does not change how it is tokenised."""


class Encoded(NamedTuple):
    ids: NDArray[np.uint32]
    ends: NDArray[np.int64] | None
    """Behind which character of the text each token ends, never decreasing; None from a tokenizer that cannot say."""


class Encoder:
    """A tokenizer of transformers, without the special tokens that it adds."""

    def __init__(self, tokenizer: Any, vocabulary: int | None) -> None:
        """`vocabulary` is how many tokens the model knows."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.tells_places = bool(getattr(tokenizer, "is_fast", False))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Raises `TaskError` (model-mismatch) for a token that the model does not know."""
        if not texts:
            return []
        made = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=self.tells_places,
            truncation=False,
            verbose=False,
        )
        pulse()
        ids = [self._checked(np.array(each, dtype=np.int64)) for each in made["input_ids"]]
        if not self.tells_places:
            return [Encoded(each, None) for each in ids]
        return [Encoded(each, _ends(offsets)) for each, offsets in zip(ids, made["offset_mapping"], strict=True)]

    def _checked(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        largest = int(ids.max(initial=-1))
        if self._vocabulary is not None and largest >= self._vocabulary:
            token = self._tokenizer.convert_ids_to_tokens(largest)
            raise TaskError(
                "model-mismatch",
                f"The tokenizer must make tokens that the model knows, ids 0 to {self._vocabulary - 1}, but makes "
                f"{largest} (`{token}`). Is it the tokenizer of this model?",
            )
        return ids.astype(np.uint32)


def _ends(offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    if not len(offsets):
        return np.empty(0, dtype=np.int64)
    return np.maximum.accumulate(np.array(offsets, dtype=np.int64)[:, 1])


def byte_counts(text: str, encoded: Encoded) -> NDArray[np.uint32]:
    """How many bytes of UTF-8 each token stands for; together all that the text has.

    Of a tokenizer that does not tell places, each token stands for as many as any other.
    """
    before = bytes_before(text)
    count = len(encoded.ids)
    if encoded.ends is None:
        places = np.linspace(0, before[-1], count + 1).round().astype(np.int64)
        return np.diff(places).astype(np.uint32)
    places = before[encoded.ends]
    places[count - 1 :] = before[-1]
    return np.diff(places, prepend=0).astype(np.uint32)


def bytes_before(text: str) -> NDArray[np.int64]:
    """How many bytes of UTF-8 stand before each character, and at the end. Raises `UnicodeEncodeError`."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate([[0], np.cumsum(widths)])


@dataclass(frozen=True)
class Affixes:
    """Special tokens that stand before and behind a document."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()


def affixes_of(tokenizer: Any) -> Affixes:
    """What the tokenizer puts around every text."""
    for text in TRIED:
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(text)["input_ids"])
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return Affixes(tuple(whole[:start]), tuple(whole[start + len(plain) :]))
    return Affixes()


class TokenRun(NamedTuple):
    """Tokens of a document; a long one comes in several runs."""

    ids: NDArray[np.uint32]
    num_bytes: NDArray[np.uint32]
    is_last: bool


def token_runs(encoder: Encoder, pieces: Iterable[tuple[str, bool]]) -> Iterator[TokenRun]:
    """The tokens of documents that come in pieces: a text, and whether its document ends with it.

    A long document's tokens are those of the whole text, though never more than a part of it is tokenised at once.
    """
    waiting: list[str] = []
    num_chars = 0
    long: _LongText | None = None
    for text, ends in pieces:
        is_short = long is None and ends
        if waiting and (not is_short or len(waiting) >= PIECE_TEXTS or num_chars >= PIECE_CHARS):
            yield from _short(encoder, waiting)
            waiting, num_chars = [], 0
        if is_short:
            waiting.append(text)
            num_chars += len(text)
            continue
        long = long or _LongText(encoder)
        yield from long.add(text)
        if ends:
            yield long.finish()
            long = None
    yield from _short(encoder, waiting)


def _short(encoder: Encoder, texts: Sequence[str]) -> Iterator[TokenRun]:
    for text, encoded in zip(texts, encoder.encode(texts), strict=True):
        yield TokenRun(encoded.ids, byte_counts(text, encoded), is_last=True)


class _LongText:
    """Tokenises a text piece by piece. Pieces overlap, and are joined where both ways of tokenising agree."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._text = ""
        self._done = 0
        """So many characters of `_text` were given out as tokens; they are there for what follows."""

    def add(self, text: str) -> Iterator[TokenRun]:
        self._text += text
        if len(self._text) < PIECE_CHARS:
            return
        if not self._encoder.tells_places:
            yield self._up_to_a_blank()
            return
        kept = len(self._text) - 2 * MARGIN_CHARS
        whole, tail = self._encoder.encode([self._text, self._text[kept:]])
        assert whole.ends is not None
        assert tail.ends is not None
        agreeing = _common_end(whole, tail, kept)
        stop = int(np.searchsorted(whole.ends, len(self._text) - MARGIN_CHARS, side="right"))
        if len(whole.ids) - stop > agreeing or (stop and whole.ends[stop - 1] < kept):
            # No agreement: one long word, say. The cut then costs a token or two.
            kept = int(whole.ends[stop - 1]) if stop else kept
        yield self._give(whole, stop, is_last=False)
        self._text, self._done = self._text[kept:], max(self._done - kept, 0)

    def finish(self) -> TokenRun:
        (whole,) = self._encoder.encode([self._text])
        return self._give(whole, len(whole.ids), is_last=True)

    def _give(self, whole: Encoded, stop: int, *, is_last: bool) -> TokenRun:
        if whole.ends is None:
            return TokenRun(whole.ids, byte_counts(self._text, whole), is_last)
        start = int(np.searchsorted(whole.ends, self._done, side="right")) if self._done else 0
        start = min(start, stop)
        before = bytes_before(self._text)
        places = before[whole.ends[start:stop]]
        if is_last and len(places):
            places[-1] = before[-1]
        num_bytes = np.diff(places, prepend=before[self._done]).astype(np.uint32)
        self._done = int(whole.ends[stop - 1]) if stop else self._done
        return TokenRun(whole.ids[start:stop], num_bytes, is_last)

    def _up_to_a_blank(self) -> TokenRun:
        cut = max(self._text.rfind("\n"), self._text.rfind(" ")) or len(self._text)
        text, self._text = self._text[:cut], self._text[cut:]
        (encoded,) = self._encoder.encode([text])
        return TokenRun(encoded.ids, byte_counts(text, encoded), is_last=False)


def _common_end(whole: Encoded, tail: Encoded, offset: int) -> int:
    """How many tokens at the end are the same, at the same places; `tail` begins at character `offset`."""
    assert whole.ends is not None
    assert tail.ends is not None
    count = min(len(whole.ids), len(tail.ids))
    if count == 0:
        return 0
    same = (whole.ids[-count:] == tail.ids[-count:]) & (whole.ends[-count:] == tail.ends[-count:] + offset)
    differing = np.flatnonzero(~same)
    return count - int(differing[-1]) - 1 if len(differing) else count


def refuse_surrogates(text: str, place: str) -> None:
    """Raises `DataError` for halves of surrogate pairs, as JSON can have them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "invalid-data",
            f"Texts must be Unicode, but in {place} there is half of a surrogate pair ({error.reason}).",
        ) from error
