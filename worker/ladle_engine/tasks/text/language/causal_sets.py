"""The data of causal language models: blocks of texts or tokens, or rows with answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.tables import Role, Table, role_rows
from ladle_engine.tasks.text.language.blocks import Blocks, Packer
from ladle_engine.tasks.text.language.conversations import MarkedText, RowReader, encode_marked
from ladle_engine.tasks.text.language.encoding import Affixes, Encoder, affixes_of
from ladle_engine.tasks.text.language.folder_tokenizer import FolderTokenizer
from ladle_engine.tasks.text.language.text_files import TextPiece
from ladle_engine.tasks.text.language.text_sets import (
    COLUMN,
    PLAIN,
    ROWS,
    SHAPES,
    TOKENS,
    Passed,
    TextSetOptions,
    has_columns,
    open_set,
    pieces_of_table,
    pieces_of_text_set,
    row_groups,
    shape_of,
    store_documents,
    unused_options,
)
from ladle_engine.tasks.text.language.token_files import StoredTokens, Vocabulary, is_token_file, open_token_file
from ladle_engine.tasks.text.language.token_store import TOKEN, TokenStore

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


def open_causal_set(path: Path, settings: CausalSettings, folder: FolderTokenizer) -> Blocks:
    """Raises `DataError`, and `TaskError` (model-mismatch) for texts without a tokenizer."""
    return _CausalSet(settings, folder).blocks(path)


class _CausalSet:
    def __init__(self, settings: CausalSettings, folder: FolderTokenizer) -> None:
        self._settings = settings
        self._folder = folder
        self._passed = Passed()
        self._packer = Packer(settings.block_size, stride=settings.stride, limit=settings.options.limit)

    def blocks(self, path: Path) -> Blocks:
        if is_token_file(path):
            kind, source = TOKENS, self._of_tokens(path)
        elif has_columns(path):
            kind, source = self._of_table(path)
        else:
            kind, source = (
                PLAIN,
                self._of_texts(pieces_of_text_set(path, self._settings.options.documents, self._passed)),
            )
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
        remarks = [f"`{path.name}`: {remark}" for remark in self._passed.remarks()]
        return Blocks(source, pieces, [*remarks, *unused_options(self._settings.options, kind)])

    def _of_tokens(self, path: Path) -> TokenStore | StoredTokens:
        options = self._settings.options
        vocabulary = Vocabulary(
            size=self._settings.vocabulary, num_bytes=self._folder.bytes_of_tokens(self._settings.vocabulary)
        )
        opened = open_token_file(path, vocabulary, options.token_dtype, options.separator)
        for start, end in zip(opened.starts[:-1].tolist(), opened.starts[1:].tolist(), strict=True):
            self._add(start, end - start, alone=opened.are_rows)
            if self._packer.is_full:
                break
        return opened.source

    def _of_table(self, path: Path) -> tuple[str, TokenStore]:
        options = self._settings.options
        table = open_set(path, options)
        found = shape_of(table, options)
        if "text" in found:
            return COLUMN, self._of_texts(pieces_of_table(table, found["text"]))
        return ROWS, self._of_rows(table, found)

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
        reader = RowReader(tokenizer=self._folder.tokenizer, affixes=self._affixes(), loss_on=self._settings.loss_on)
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
        return Encoder(self._folder.tokenizer, self._settings.vocabulary)

    def _affixes(self) -> Affixes:
        own = affixes_of(self._folder.tokenizer)
        settings = self._settings
        before = own.before if settings.add_bos is None else self._special("bos_token") if settings.add_bos else ()
        behind = own.behind if settings.add_eos is None else self._special("eos_token") if settings.add_eos else ()
        return Affixes(before, behind)

    def _special(self, name: str) -> tuple[int, ...]:
        token = getattr(self._folder.tokenizer, f"{name}_id", None)
        if token is None:
            raise TaskError(
                "invalid-task-options",
                f"`add_{name[:3]}` of task `causal-lm` must be absent or false, because the tokenizer beside the "
                f"checkpoints has no `{name}`, but is true.",
            )
        return (int(token),)
