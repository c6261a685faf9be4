"""A data set of texts with labels: which columns they are, and batches for a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.label_names import by_loose_name
from ladle_engine.tasks.tables import TEXT, Role, Table, find_columns, role_rows
from ladle_engine.tasks.text.classification.encoder import Encoder, remark_on_unknown
from ladle_engine.tasks.text.classification.labels import Classes, LabelColumn, flags
from ladle_engine.tasks.text.classification.problems import MultiLabel, Problem
from ladle_engine.tasks.text.rows import PreparedRows, Row, chunks

TEXT_NAMES = (
    *("sentence", "sentence1", "premise", "content", "review", "comment", "comment_text", "tweet", "document"),
    *("question", "query", "title"),
)
TEXT_ROLE = Role("text", TEXT_NAMES, kinds=(TEXT,))
PAIR_ROLE = Role("text_pair", ("sentence2", "hypothesis"), required=False, kinds=(TEXT,))
LABEL_ROLE = Role(
    "label", ("labels", "target", "class", "category", "score", "similarity_score", "sentiment", "y"),
)  # fmt: skip
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence")),
    *(("question", "passage"), ("query", "passage"), ("text1", "text2"), ("text_a", "text_b"), ("text", "text_pair")),
)
"""Names of columns that belong together."""
MOST_LOOKED_AT = 200_000
"""Texts that are tokenized before the job begins. Those of a larger table take too long."""


@dataclass(frozen=True, kw_only=True)
class TextColumns:
    """The texts of a table, single or in pairs."""

    table: Table
    roles: tuple[Role, ...]
    found: Mapping[str, str]

    @property
    def are_pairs(self) -> bool:
        return "text_pair" in self.found

    def texts(self, indices: Sequence[int]) -> tuple[list[str], list[str] | None]:
        """Raises `DataError` for a row without a text."""
        rows = role_rows(self.table, self.roles, self.found, indices)
        texts = [row["text"] for row in rows]
        return texts, [row["text_pair"] for row in rows] if self.are_pairs else None


class ClassifiedTexts:
    """Examples in the order of the table. Texts are read and tokenized when they are asked for."""

    def __init__(self, columns: TextColumns, labels: Tensor | None, encoder: Encoder) -> None:
        """Looks at the texts, of very large tables at the first ones; `labels` are None where there are none.

        Raises `DataError` and `TaskError` for what cannot be used.
        """
        if columns.are_pairs:
            encoder.check_pairs()
        self._columns = columns
        self._labels = labels
        self._encoder = encoder
        self._rows = PreparedRows(self._prepared)
        self.remarks = [*columns.table.remarks, *encoder.remarks, *_looked_at(columns, encoder)]

    def __len__(self) -> int:
        return len(self._columns.table)

    def keep(self, max_bytes: int) -> None:
        self._rows.keep(max_bytes)

    def _prepared(self, indices: Sequence[int]) -> list[Row]:
        rows = self._encoder.rows(*self._columns.texts(indices))
        for index, row in zip(indices, rows, strict=True):
            self._encoder.check(row, self._columns.table, index)
        return rows

    def batch(self, indices: Tensor) -> Batch:
        rows = self._rows.rows(indices.tolist())
        labels = {} if self._labels is None else {"labels": self._labels[indices]}
        return {**self._encoder.batch(rows), **labels}


def find_texts(table: Table, given: Mapping[str, str]) -> TextColumns:
    """Raises `DataError` that lists what is there."""
    roles = (TEXT_ROLE, PAIR_ROLE)
    texts = {role: column for role, column in given.items() if role != "label"}
    if not texts:
        pair = next((pair for pair in PAIRS if all(name in table.columns for name in pair)), None)
        texts = {"text": pair[0], "text_pair": pair[1]} if pair else {}
    found = find_columns(table, roles, texts)
    if "text_pair" in found:
        # A pair without its second text is not a single text.
        roles = (TEXT_ROLE, Role(PAIR_ROLE.name, kinds=PAIR_ROLE.kinds))
    return TextColumns(table=table, roles=roles, found=found)


def find_labels(table: Table, problem: Problem, given: Mapping[str, str]) -> Tensor:
    """Of the column of labels; of columns named as the model's labels, where a text may have several and there is no
    such column. Raises `DataError`.
    """
    named = _columns_of_classes(table, problem.classes) if isinstance(problem, MultiLabel) else None
    try:
        label = {role: column for role, column in given.items() if role == "label"}
        name = find_columns(table, (LABEL_ROLE,), label)["label"]
    except DataError:
        if named is None or "label" in given:
            raise
        return torch.stack([flags(_column(table, name)) for name in named], dim=1)
    return problem.labels(_column(table, name))


def _columns_of_classes(table: Table, classes: Classes) -> list[str] | None:
    """In the order of the classes; None where not every class has a column."""
    column_of = {
        label[name]: name
        for name in table.columns
        if (label := by_loose_name([name], classes.names, classes.number)) is not None
    }
    return [column_of[each] for each in range(classes.number)] if len(column_of) == classes.number else None


def _column(table: Table, name: str) -> LabelColumn:
    values: list[Any] = []
    for indices in chunks(len(table)):
        values += [row[name] for row in table.rows(indices, [name])]
    return LabelColumn(table=table, name=name, values=values)


def _looked_at(columns: TextColumns, encoder: Encoder) -> list[str]:
    """What should be said of the texts."""
    ends = _Ends(encoder)
    long = unknown = total = 0
    count = min(len(columns.table), MOST_LOOKED_AT)
    for indices in chunks(count):
        rows: list[Row] = encoder.rows(*columns.texts(indices), cut=False)
        for index, row in zip(indices, rows, strict=True):
            ids = row["input_ids"]
            encoder.check(row, columns.table, index)
            ends.check(row, columns.table, index)
            long += encoder.max_length is not None and len(ids) > encoder.max_length
            unknown += int((ids == encoder.tokenizer.unk_token_id).sum()) if encoder.tokenizer.unk_token_id else 0
            total += len(ids)
    remarks = [remark] if (remark := remark_on_unknown(unknown, total)) else []
    if long:
        remarks.append(
            f"{long:,} of {'the first ' if count < len(columns.table) else ''}{count:,} texts have more tokens than "
            f"{encoder.max_length}, and are cut there. "
            f"The task option `max_length` says where."
        )
    return remarks


class _Ends:
    """Classifiers that encode and decode take the place of the last end token, and need equally many in every text."""

    def __init__(self, encoder: Encoder) -> None:
        config = encoder.config
        self._end = config.eos_token_id if getattr(config, "is_encoder_decoder", False) else None
        self._first: int | None = None

    def check(self, row: Row, table: Table, index: int) -> None:
        """Raises `DataError`."""
        if not isinstance(self._end, int):
            return
        count = int((row["input_ids"] == self._end).sum())
        self._first = count if self._first is None else self._first
        if count != self._first or count == 0:
            raise DataError(
                "invalid-data",
                f"Every text must have the model's end token equally often, at least once, because the model finds its "
                f"answer there, but the text in {table.place(index)} has it {count} times, and the first text "
                f"{self._first} times. Take it out of the text.",
            )
