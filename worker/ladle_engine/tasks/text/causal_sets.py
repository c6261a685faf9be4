"""The data of causal language models: blocks of texts or tokens, or rows with answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.tables import Role, Table, role_rows
from ladle_engine.tasks.text.blocks import Blocks, Packer
from ladle_engine.tasks.text.conversations import MarkedText, RowReader, encode_marked
from ladle_engine.tasks.text.encoding import Affixes, Encoder, affixes_of
from ladle_engine.tasks.text.text_files import TextPiece
from ladle_engine.tasks.text.text_sets import (
    SHAPES,
    Passed,
    TextSetOptions,
    has_columns,
    open_set,
    pieces_of_table,
    pieces_of_text_set,
    row_groups,
    shape_of,
    store_documents,
)
from ladle_engine.tasks.text.token_files import StoredTokens, is_token_file, open_token_file
from ladle_engine.tasks.text.token_store import TOKEN, TokenStore

SHORT = "Documents of a single token, which `add_bos` would predict, left out"
NOTHING = "Rows with nothing to predict, left out"
CUT = "Rows longer than `block_size`, cut"
NO_TOKENS = np.empty(0, dtype=TOKEN)


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    options: TextSetOptions
    block_size: int
    stride: int | None
    add_bos: bool | None
    add_eos: bool | None
    loss_on: str
    vocabulary: int | None


def open_causal_set(path: Path, settings: CausalSettings, tokenizer: Any, need: Callable[[], Any]) -> Blocks:
    """`tokenizer` is the folder's, if there is one; `need` raises why there is none. Raises `DataError`."""
    return _CausalSet(settings, tokenizer, need).blocks(path)


class _CausalSet:
    def __init__(self, settings: CausalSettings, tokenizer: Any, need: Callable[[], Any]) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._need = need
        self._passed = Passed()
        self._packer = Packer(settings.block_size, stride=settings.stride, limit=settings.options.limit)

    def blocks(self, path: Path) -> Blocks:
        if is_token_file(path):
            source: TokenStore | StoredTokens = self._of_tokens(path)
        elif has_columns(path):
            source = self._of_table(path)
        else:
            source = self._of_texts(pieces_of_text_set(path, self._settings.options.documents, self._passed))
        pieces = self._packer.pieces()
        if pieces.num_predicted == 0 or pieces.num_blocks == 0:
            reasons = " ".join(self._passed.remarks())
            raise DataError(
                "empty-data", f"A set of texts must have tokens to predict, but `{path}` has none. {reasons}"
            )
        if pieces.num_blocks == 1:
            raise DataError(
                "too-little-data",
                f"A set must make at least 2 examples, but `{path}` makes one block of {int(pieces.lengths.sum()):,} "
                f"tokens. Set the task option `block_size` to a fraction of that, or give more text.",
            )
        return Blocks(source, pieces, [f"`{path.name}`: {remark}" for remark in self._passed.remarks()])

    def _of_tokens(self, path: Path) -> TokenStore | StoredTokens:
        options = self._settings.options
        opened = open_token_file(path, self._settings.vocabulary, options.token_dtype, options.separator)
        if isinstance(opened.source, StoredTokens) and self._tokenizer is not None:
            opened.source.byte_counts = vocabulary_bytes(self._tokenizer, self._settings.vocabulary)
        for start, end in zip(opened.starts[:-1].tolist(), opened.starts[1:].tolist(), strict=True):
            self._add(start, end - start, alone=opened.are_rows)
            if self._packer.is_full:
                break
        return opened.source

    def _of_table(self, path: Path) -> TokenStore:
        options = self._settings.options
        table = open_set(path, options)
        found = shape_of(table, options)
        if "text" in found:
            return self._of_texts(pieces_of_table(table, found["text"]))
        return self._of_rows(table, found)

    def _of_texts(self, pieces: Iterator[TextPiece]) -> TokenStore:
        settings, store = self._settings, TokenStore()
        limit = settings.options.limit
        documents = store_documents(
            store,
            self._encoder(),
            pieces,
            self._affixes(),
            boundaries=settings.options.boundaries,
            # A document of two tokens takes one place in a block.
            most_tokens=None if limit is None else 2 * (limit + 1) * settings.block_size,
            passed=self._passed,
        )
        for document in documents:
            self._add(document.start, document.length)
            if self._packer.is_full:
                break
        return store

    def _add(self, start: int, length: int, *, alone: bool = False) -> None:
        if not self._packer.add(start, length, alone=alone):
            self._passed.add(SHORT)

    def _of_rows(self, table: Table, found: dict[str, str]) -> TokenStore:
        self._packer = Packer(self._settings.block_size, limit=self._settings.options.limit)
        store, encoder = TokenStore(), self._encoder()
        reader = RowReader(tokenizer=self._tokenizer, affixes=self._affixes(), loss_on=self._settings.loss_on)
        shape = next(shape for shape in SHAPES if shape[0].name in found)
        roles = [Role(role.name, required=False, kinds=role.kinds) for role in shape]
        for indices in row_groups(len(table)):
            rows = role_rows(table, roles, found, indices)
            places = [table.place(index) for index in indices]
            read = [reader.read(row, place) for row, place in zip(rows, places, strict=True)]
            self._store_rows(store, encoder, read, places)
            if self._packer.is_full:
                break
        return store

    def _store_rows(
        self, store: TokenStore, encoder: Encoder, rows: list[MarkedText | None], places: list[str]
    ) -> None:
        encoded = iter(encode_marked(encoder, [row for row in rows if row is not None]))
        for row, place in zip(rows, places, strict=True):
            tokens = next(encoded) if row is not None else NO_TOKENS
            most = self._settings.block_size + 1
            if len(tokens) > most:
                self._passed.add(CUT, place)
                tokens = tokens[:most]
            predicted = int(tokens["counts"][1:].sum())
            if predicted == 0:
                self._passed.add(NOTHING, place)
                continue
            start = store.length
            store.append(tokens)
            self._packer.add(start, len(tokens), alone=True, predicted=predicted)

    def _encoder(self) -> Encoder:
        if self._tokenizer is None:
            self._tokenizer = self._need()
        return Encoder(self._tokenizer, self._settings.vocabulary)

    def _affixes(self) -> Affixes:
        own = affixes_of(self._tokenizer)
        settings = self._settings
        before = own.before if settings.add_bos is None else self._special("bos_token") if settings.add_bos else ()
        behind = own.behind if settings.add_eos is None else self._special("eos_token") if settings.add_eos else ()
        return Affixes(before, behind)

    def _special(self, name: str) -> tuple[int, ...]:
        token = getattr(self._tokenizer, f"{name}_id", None)
        if token is None:
            raise TaskError(
                "invalid-task-options",
                f"`add_{name[:3]}` of task `causal-lm` must be absent or false, because the tokenizer beside the "
                f"checkpoints has no `{name}`, but is true.",
            )
        return (int(token),)


def vocabulary_bytes(tokenizer: Any, vocabulary: int | None) -> NDArray[np.uint32]:
    """How many bytes of text each token stands for; special ones stand for none.

    Right for tokens that are bytes, and for words with a mark of the space before them.
    """
    count = max(vocabulary or 0, len(tokenizer))
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = {int(number): str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    # The mark of a space, where each byte is a letter.
    by_bytes = "\u0120" in tokenizer.get_vocab()
    sizes = np.zeros(count, dtype=np.uint32)
    for number, token in enumerate(tokens):
        if number in special or token is None:
            continue
        sizes[number] = len(added[number].encode()) if number in added else _token_bytes(token, by_bytes)
    return sizes


def _token_bytes(token: str, by_bytes: bool) -> int:
    if by_bytes:
        return len(token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace("\u2581", " ").removeprefix("##").encode())
