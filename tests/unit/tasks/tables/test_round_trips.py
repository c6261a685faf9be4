"""Any rows that csv, json and pyarrow write are read back equal, at any indices and in any order."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle_engine.tasks.tables import lines, open_table, parquet_file

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(["", "\r", "\r\n", '"', '",'])
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5).filter(str.strip)
INDICES = st.lists(st.integers(0, 10**6), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
QUICKLY = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that rows lie across the edges of what is read at once."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 17)
    monkeypatch.setattr("ladle_engine.tasks.tables.json_rows.CHUNK_BYTES", 17)
    monkeypatch.setattr(parquet_file, "WINDOW_BYTES", 64)


@contextmanager
def file(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


def assert_reads(path: Path, rows: list[dict[str, Any]], indices: list[int]) -> None:
    table = open_table(path)
    assert len(table) == len(rows)
    wanted = [index % len(rows) for index in indices]
    columns = list(table.columns)
    assert table.rows(wanted, columns) == [{name: rows[index].get(name) for name in columns} for index in wanted]
    assert table.rows(range(len(rows)), columns) == [{name: row.get(name) for name in columns} for row in rows]


@QUICKLY
@given(
    names=st.lists(NAMES, min_size=2, max_size=4, unique=True),
    values=st.lists(st.lists(TEXTS, min_size=4, max_size=4), min_size=1, max_size=20),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    suffix=st.sampled_from([".csv", ".tsv"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    indices=INDICES,
)
def test_csv(
    names: list[str], values: list[list[str]], ends: str, suffix: str, quoting: int, indices: list[int]
) -> None:
    with file(f"x{suffix}") as path:
        with path.open("w", newline="", encoding="utf-8") as opened:
            # Python before 3.13 leaves the other line ends without quotes.
            quoting = quoting if ends == "\r\n" else csv.QUOTE_ALL
            delimiter = "\t" if suffix == ".tsv" else ","
            writer = csv.writer(opened, delimiter=delimiter, lineterminator=ends, quoting=quoting)
            writer.writerow(names)
            writer.writerows(row[: len(names)] for row in values)
        assert_reads(path, [dict(zip(names, row, strict=False)) for row in values], indices)


@QUICKLY
@given(
    rows=st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), min_size=2, max_size=20),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    escaped=st.booleans(),
    indices=INDICES,
)
def test_json_lines(rows: list[dict[str, Any]], end: str, escaped: bool, indices: list[int]) -> None:
    with file("x.jsonl") as path:
        path.write_bytes(end.join(json.dumps(row, ensure_ascii=escaped) for row in rows).encode())
        assert_reads(path, rows, indices)


@QUICKLY
@given(
    rows=st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), min_size=2, max_size=20),
    indent=st.none() | st.integers(0, 3),
    indices=INDICES,
)
def test_a_list_of_json_objects(rows: list[dict[str, Any]], indent: int | None, indices: list[int]) -> None:
    with file("x.json") as path:
        path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
        assert_reads(path, rows, indices)


@QUICKLY
@given(
    texts=st.lists(st.none() | TEXTS, min_size=1, max_size=30),
    numbers=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), min_size=30, max_size=30),
    nested=st.lists(st.fixed_dictionaries({"a": TEXTS, "b": st.lists(st.booleans())}), min_size=30, max_size=30),
    rows=st.integers(1, 30),
    form=st.sampled_from(["x.parquet", "x.arrow", "x.feather"]),
    indices=INDICES,
)
def test_arrow_and_parquet(
    texts: list[str | None],
    numbers: list[list[int]],
    nested: list[dict[str, Any]],
    rows: int,
    form: str,
    indices: list[int],
) -> None:
    count = len(texts)
    columns = {"texts": texts, "coded": texts, "numbers": numbers[:count], "nested": nested[:count]}
    types = {
        "texts": pa.string(),
        "coded": pa.dictionary(pa.int32(), pa.string()),
        "numbers": pa.list_(pa.int64()),
        "nested": pa.struct({"a": pa.string(), "b": pa.list_(pa.bool_())}),
    }
    table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    with file(form) as path:
        if form == "x.parquet":
            pq.write_table(table, path, row_group_size=rows)
        else:
            open_writer = pa.ipc.new_stream if form == "x.arrow" else pa.ipc.new_file
            with open_writer(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=rows)
        assert_reads(path, table.to_pylist(), indices)
