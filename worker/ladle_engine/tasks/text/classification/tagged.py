"""A data set of words with tags: which columns they are, and batches in which each word's first token has its tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.tables import TEXTS, WHOLES, Role, Table, TableOptions, find_columns, open_table, role_rows
from ladle_engine.tasks.text.classification.conll import find_conll, open_conll
from ladle_engine.tasks.text.classification.encoder import Encoder, remark_on_unknown
from ladle_engine.tasks.text.classification.labels import Classes, LabelColumn, meanings
from ladle_engine.tasks.text.classification.words import Words, encode_words
from ladle_engine.tasks.text.rows import PreparedRows, Row, chunks
from ladle_engine.tasks.text.token_losses import IGNORED

WORDS_ROLE = Role("tokens", ("words",), kinds=(TEXTS,))
TAGS_ROLE = Role("tags", ("ner_tags", "labels", "ner", "ner_labels", "label"), kinds=(WHOLES, TEXTS))
FIRST = 1000
"""Sentences that tell whether a column counts words."""
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class TaggedSentences:
    """Sentences of a table, each a list of words with as many tags."""

    table: Table
    found: Mapping[str, str]
    """Role -> column."""
    tag_ids: Mapping[Any, int] | None
    """Tag as the table has it -> number. None where tags are not looked at: then all are 0."""

    def at(self, indices: Sequence[int]) -> list[tuple[list[str], list[int]]]:
        """Words and numbers of their tags. Raises `DataError`."""
        if self.tag_ids is None:
            found = [row["tokens"] for row in role_rows(self.table, (WORDS_ROLE,), self.found, indices)]
            return [(words, [0] * len(words)) for words in found]
        rows = role_rows(self.table, (WORDS_ROLE, TAGS_ROLE), self.found, indices)
        return [(row["tokens"], [self.tag_ids[tag] for tag in row["tags"]]) for row in rows]


def open_sentences(path: Path, options: TableOptions, classes: Classes | None) -> TaggedSentences:
    """`classes` are None where no tags are wanted. Raises `DataError`: invalid-data, unknown-classes, empty-data."""
    roles = (WORDS_ROLE,) if classes is None else (WORDS_ROLE, TAGS_ROLE)
    given = {role: column for role, column in options.columns.items() if classes is not None or role != "tags"}
    if conll := find_conll(path, options.split):
        table = open_conll(conll, options.limit)
        found = find_columns(table, roles, {**_columns_of_conll(table, roles), **given})
    else:
        table = open_table(path, split=options.split, limit=options.limit)
        found = find_columns(table, roles, given)
    tag_ids = None if classes is None else _tag_ids(table, found, classes)
    return TaggedSentences(table=table, found=found, tag_ids=tag_ids)


def _tag_ids(table: Table, found: Mapping[str, str], classes: Classes) -> dict[Any, int]:
    """Of all tags that there are. Looks at every row. Raises `DataError`."""
    first: dict[Any, int] = {}
    for indices in chunks(len(table)):
        for index, row in zip(indices, role_rows(table, (WORDS_ROLE, TAGS_ROLE), found, indices), strict=True):
            _check(table, index, row, found)
            for tag in row["tags"]:
                first.setdefault(tag, index)
    ignored = {IGNORED: IGNORED} if IGNORED in first else {}
    column = LabelColumn(table=table, name=found["tags"], values=())
    known = meanings(column, {tag: index for tag, index in first.items() if tag != IGNORED}, classes)
    return {**known, **ignored}


class TaggedWords:
    """Examples in the order of the table: what the model takes, `labels`, int64 [B, L], that are `IGNORED` at all but
    the first tokens of words, and `scale`, float32 [B]: one over the mean number of labels of an example.
    """

    def __init__(self, sentences: TaggedSentences, encoder: Encoder) -> None:
        """Looks at every sentence once. Raises `DataError` and `TaskError` for those that cannot be used."""
        self._sentences = sentences
        self._encoder = encoder
        self._rows = PreparedRows(self._prepared)
        self._counts = _Counts()
        self.most_labels = 0
        """Of one sentence."""
        for indices in chunks(len(sentences.table)):
            self._look(indices)
        counts = self._counts
        if not counts["labels"]:
            raise DataError("empty-data", "A data set must have words with tags, but this one has none.")
        self._scale = len(sentences.table) / counts["labels"]
        self.remarks = [*sentences.table.remarks, *encoder.remarks, *counts.remarks(encoder, len(sentences.table))]

    def __len__(self) -> int:
        return len(self._sentences.table)

    def keep(self, max_bytes: int) -> None:
        self._rows.keep(max_bytes)

    def batch(self, indices: Tensor) -> Batch:
        made = self._encoder.batch(self._rows.rows(indices.tolist()), labels=IGNORED)
        return {**made, "scale": torch.full((len(indices),), self._scale, dtype=torch.float32)}

    def _prepared(self, indices: Sequence[int]) -> list[Row]:
        sentences = self._sentences.at(indices)
        return [
            {**words.row, "labels": words.labels(tags)}
            for words, (_, tags) in zip(self._encoded(sentences), sentences, strict=True)
        ]

    def _look(self, indices: Sequence[int]) -> None:
        sentences = self._sentences.at(indices)
        for index, words, (_, tags) in zip(indices, self._encoded(sentences), sentences, strict=True):
            self._encoder.check(words.row, self._sentences.table, index)
            labelled = np.asarray(tags, dtype=np.int32) != IGNORED
            cut = labelled & words.are_behind_cut(self._encoder.max_length)
            missing = labelled & (words.first_tokens < 0)
            self.most_labels = max(self.most_labels, int(labelled.sum() - missing.sum()))
            self._counts.add(labelled, cut, missing)
            self._counts["unknown"] += int((words.row["input_ids"] == self._unknown).sum())
            self._counts["tokens"] += len(words.row["input_ids"])

    def _encoded(self, sentences: Sequence[tuple[list[str], list[int]]]) -> list[Words]:
        return encode_words(self._encoder, [words for words, _ in sentences])

    @property
    def _unknown(self) -> int:
        found = self._encoder.tokenizer.unk_token_id
        return -1 if found is None else int(found)


class _Counts(Counter[str]):
    """Of all sentences."""

    def add(self, labelled: Flags, cut: Flags, missing: Flags) -> None:
        """Of the words of a sentence: which have a tag, and of those which are behind the cut, and have no token."""
        self["labels"] += int(labelled.sum() - missing.sum())
        self["cut"] += int(cut.sum())
        self["sentences cut"] += bool(cut.any())
        self["without tokens"] += int(missing.sum() - cut.sum())

    def remarks(self, encoder: Encoder, sentences: int) -> list[str]:
        total = self["labels"] + self["cut"] + self["without tokens"]
        found = [remark] if (remark := remark_on_unknown(self["unknown"], self["tokens"])) else []
        if self["cut"]:
            found.append(
                f"{self['cut']:,} of {total:,} tags, in {self['sentences cut']:,} of {sentences:,} sentences, are "
                f"beyond {encoder.max_length} tokens (`max_length`), where sentences are cut. They are not judged."
            )
        if self["without tokens"]:
            found.append(
                f"{self['without tokens']:,} of {total:,} tags are of words for which the tokenizer has no token, such "
                f"as blanks. They are not judged."
            )
        return found


def _columns_of_conll(table: Table, roles: Sequence[Role]) -> dict[str, str]:
    """The first column for words, and the last for tags. Where the first counts the words, the second."""
    names = list(table.columns)
    rows = table.rows(range(min(len(table), FIRST)), names[:1])
    counted = all(row["1"] == [str(number) for number in range(1, len(row["1"]) + 1)] for row in rows)
    usual = {"tokens": names[1] if counted and len(names) > 2 else names[0], "tags": names[-1]}
    return {role.name: usual[role.name] for role in roles}


def _check(table: Table, index: int, row: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Raises `DataError`."""
    words, tags = row["tokens"], row["tags"]
    if len(words) != len(tags):
        raise DataError(
            "invalid-data",
            f"There must be one tag for each word, but {table.place(index)} has {len(words)} words in "
            f"`{found['tokens']}` and {len(tags)} tags in `{found['tags']}`.",
        )
    if any(value is None for value in (*words, *tags)):
        raise DataError("invalid-data", f"Every word must be there and have a tag, but {table.place(index)} has none.")
