"""Sets of texts and of tokens, whatever file they are in, as documents of tokens one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ladle_engine.errors import DataError, TaskError
from ladle_engine.options import option
from ladle_engine.storage.input_paths import is_folder
from ladle_engine.tasks.tables import OBJECTS, TEXT, Role, Table, TableOptions, find_columns, open_table, role_rows
from ladle_engine.tasks.text.language.encoding import Affixes, Encoder, TokenRun, refuse_surrogates, token_runs
from ladle_engine.tasks.text.language.text_files import DOCUMENTS, TextPiece, text_files, text_pieces
from ladle_engine.tasks.text.language.token_files import DTYPES, is_token_file
from ladle_engine.tasks.text.language.token_store import TokenStore, tokens_of

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
"""Endings of files that have columns; any other file that has no tokens is plain text."""
ROWS_AT_ONCE = 256
TEXT_ROLE = Role("text", ("content", "document", "sentence", "body"), kinds=(TEXT,))
SHAPES: Sequence[Sequence[Role]] = (
    (Role("messages", ("conversations", "conversation"), kinds=(OBJECTS,)),),
    (
        Role("prompt", ("instruction", "question", "query"), kinds=(TEXT, OBJECTS)),
        Role("completion", ("response", "answer", "output"), kinds=(TEXT, OBJECTS)),
    ),
    (TEXT_ROLE,),
)
"""What the columns of a table can be: conversations, prompts with completions, or texts."""


@dataclass(frozen=True, kw_only=True)
class TextSetOptions(TableOptions):
    """What every task on plain texts takes."""

    limit: int | None = option(None, "takes so many examples from the beginning, and no more", at_least=1)
    documents: str = option(
        "file", "what a document of a plain text file is: the whole, a paragraph, a line", one_of=DOCUMENTS
    )
    boundaries: bool = option(True, "keeps documents apart; false joins them into one")
    token_dtype: str | None = option(None, "of a raw token file; by the vocabulary when absent", one_of=DTYPES)
    separator: int | None = option(None, "the token with which each document of a token file begins", at_least=0)


@dataclass(kw_only=True)
class Passed:
    """What was passed over, and how often, for the user to be told."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, place: str = "") -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, place)

    def remarks(self) -> list[str]:
        firsts = {what: f", the first is {place}" if place else "" for what, place in self.first.items()}
        return [f"{what}: {count:,}{firsts[what]}." for what, count in self.counts.items()]


PLAIN, COLUMN, ROWS, TOKENS = "plain text", "a column of texts", "rows of messages or prompts", "a file of tokens"
"""Kinds of sets, in words."""
USED_WITH: Mapping[str, Collection[str]] = {
    "documents": (PLAIN,),
    "boundaries": (PLAIN, COLUMN),
    "add_bos": (PLAIN, COLUMN, ROWS),
    "add_eos": (PLAIN, COLUMN, ROWS),
    "stride": (PLAIN, COLUMN, TOKENS),
    "columns": (COLUMN, ROWS),
    "split": (COLUMN, ROWS),
    "loss_on": (ROWS,),
    "token_dtype": (TOKENS,),
    "separator": (TOKENS,),
}
"""Option -> the kinds of sets for which it matters."""


def unused_options(options: TextSetOptions, kind: str) -> list[str]:
    """Remarks on options that are set and do nothing."""
    defaults = type(options)()
    return [
        f"The task option `{name}` has no effect on {kind}."
        for name, kinds in USED_WITH.items()
        if kind not in kinds and getattr(options, name, None) != getattr(defaults, name, None)
    ]


EMPTY = "Documents without any token, left out"
OTHER_FILES = "Files of another kind than .txt, passed over"


def has_columns(path: Path) -> bool:
    """Whether a set is a table: a file with columns, or a folder that has some or has no text files."""
    if is_folder(path):
        files, others = text_files(path)
        return not files or any(other.suffix.lower() in TABLES for other in others)
    return path.suffix.lower() in TABLES


def pieces_of_text_set(path: Path, documents: str, passed: Passed) -> Iterator[TextPiece]:
    """Of a text file, or of all text files in a folder. Raises `DataError` for what is not UTF-8."""
    files, others = text_files(path)
    for other in others:
        if is_token_file(other):
            raise DataError(
                "invalid-data",
                f"A folder must hold texts or tokens, but `{path}` has `{other.name}` beside `{files[0].name}`. Name "
                f"the file that is meant.",
            )
        passed.add(OTHER_FILES, f"`{other.name}`")
    for file in files:
        yield from text_pieces(file, documents)


def pieces_of_table(table: Table, column: str) -> Iterator[TextPiece]:
    """The texts of a column; empty ones too."""
    found = {TEXT_ROLE.name: column}
    role = (Role(TEXT_ROLE.name, required=False, kinds=(TEXT,)),)
    for indices in row_groups(len(table)):
        for index, row in zip(indices, role_rows(table, role, found, indices), strict=True):
            text = row["text"] or ""
            refuse_surrogates(text, table.place(index))
            yield text, True


def row_groups(count: int) -> Iterator[range]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield range(start, min(start + ROWS_AT_ONCE, count))


def open_set(path: Path, options: TableOptions) -> Table:
    return open_table(path, split=options.split)


def shape_of(table: Table, options: TableOptions) -> dict[str, str]:
    """Role -> column of the first shape that a table has: by the columns that are given, by the names of the roles, by
    other usual names. Raises `DataError` that lists the columns, and `TaskError`.
    """
    given = options.columns
    known = {role.name for shape in SHAPES for role in shape}
    if unknown := [name for name in given if name not in known]:
        raise TaskError(
            "invalid-task-options",
            f"`columns` must name {', '.join(f'`{name}`' for name in sorted(known))}, but names `{unknown[0]}`.",
        )
    for shape in SHAPES:
        names = [role.name for role in shape]
        if any(name in given for name in names) or (not given and all(name in table.columns for name in names)):
            return find_columns(table, shape, {name: given[name] for name in names if name in given})
    usual = [
        shape
        for shape in SHAPES
        if all(any(name in table.columns for name in (role.name, *role.usual)) for role in shape)
    ]
    # `prompt` without `completion`: what is missing is to be told of.
    halves = [shape for shape in SHAPES if any(role.name in table.columns for role in shape)]
    return find_columns(table, [*usual, *halves, SHAPES[-1]][0], {})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A document in a store."""

    start: int
    length: int


def store_documents(
    store: TokenStore,
    encoder: Encoder,
    pieces: Iterable[TextPiece],
    affixes: Affixes,
    *,
    boundaries: bool = True,
    most_tokens: int | None = None,
    passed: Passed,
) -> Iterator[Stored]:
    """Writes documents to `store`, and tells of each as soon as it is there.

    Stops where a consumer does, or when there are `most_tokens`; then the last document is cut.
    """
    before, behind = (np.array(each, dtype=np.uint32) for each in (affixes.before, affixes.behind))
    start, is_open = store.length, False
    for run in _joined(token_runs(encoder, pieces), passed):
        if not is_open:
            store.append(tokens_of(before, 0))
        store.append(tokens_of(run.ids, run.num_bytes))
        is_open = not run.is_last
        if run.is_last:
            store.append(tokens_of(behind, 0))
            if boundaries:
                yield Stored(start=start, length=store.length - start)
                start = store.length
        if most_tokens is not None and store.length >= most_tokens:
            break
    if store.length > start:
        yield Stored(start=start, length=store.length - start)


def _joined(runs: Iterable[TokenRun], passed: Passed) -> Iterator[TokenRun]:
    """Without documents that have no tokens."""
    continues = False
    for run in runs:
        if run.is_last and not continues and len(run.ids) == 0:
            passed.add(EMPTY)
            continue
        continues = not run.is_last
        yield run
