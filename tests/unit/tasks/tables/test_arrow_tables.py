"""Arrow and parquet: rows at any indices whatever their type, and files that are damaged or too large."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from ladle_engine.errors import EngineError, TaskError
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.tasks.tables import arrow_file, arrow_large, arrow_values, kept, open_table, parquet_file, spilled
from tests.unit.tasks.tables.helpers import all_rows, read_or_refused, refusal, refused, write

COUNT = 500
TABLE = pa.table(
    {
        "text": [f"é {n}" if n % 7 else None for n in range(COUNT)],
        "long": pa.array([f"{n}" * 20 for n in range(COUNT)], pa.large_string()),
        "label": pa.array([n % 3 for n in range(COUNT)], pa.int8()),
        "score": pa.array([n / 2 for n in range(COUNT)], pa.float32()),
        "half": pa.array([float(n % 9) for n in range(COUNT)], pa.float16()),
        "sure": [n % 2 == 0 for n in range(COUNT)],
        "category": pa.array([f"c{n % 5}" for n in range(COUNT)]).dictionary_encode(),
        "tokens": [list(range(n % 4)) for n in range(COUNT)],
        "fixed": pa.array([[n, 1.5] for n in range(COUNT)], pa.list_(pa.float64(), 2)),
        "words": [[f"w{n}", None] for n in range(COUNT)],
        "translation": [{"de": f"d{n}", "en": None} for n in range(COUNT)],
        "messages": [[{"role": "user", "content": f"{n}"}] * (n % 3) for n in range(COUNT)],
        "image": [{"bytes": bytes([n % 256]), "path": None} for n in range(COUNT)],
        "raw": pa.array([bytes([n % 256, 0]) for n in range(COUNT)], pa.binary(2)),
        "day": pa.array(range(COUNT), pa.date32()),
        "nothing": pa.nulls(COUNT),
    }
)
KINDS = {
    "text": "text", "long": "text", "label": "whole number", "score": "number", "half": "number",
    "sure": "true or false", "category": "text", "tokens": "list of whole number", "fixed": "list of number",
    "words": "list of text", "translation": "object", "messages": "list of object", "image": "image", "raw": "bytes",
    "day": "date32[day]", "nothing": "nothing",
}  # fmt: skip
ROWS = TABLE.to_pylist()


def stream(table: pa.Table, path: Path, rows: int = 33, **options: Any) -> None:
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)


def file(table: pa.Table, path: Path, rows: int = 33, **options: Any) -> None:
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)


def parquet(table: pa.Table, path: Path, rows: int = 90, **options: Any) -> None:
    pq.write_table(table, path, row_group_size=rows, **options)


FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    "stream": ("x.arrow", stream),
    "stream, packed": ("x.arrow", lambda table, path: stream(table, path, compression="zstd")),
    "stream, one batch": ("x.arrow", lambda table, path: stream(table, path, rows=COUNT)),
    "old stream": ("x.arrow", lambda table, path: stream(table, path, use_legacy_format=True)),
    "file": ("x.arrow", file),
    "file, packed": ("x.ipc", lambda table, path: file(table, path, compression="lz4")),
    "feather": ("x.feather", lambda table, path: pyarrow.feather.write_feather(table, path, chunksize=50)),
    "parquet": ("x.parquet", parquet),
    "parquet, one row group": ("x.parquet", lambda table, path: parquet(table, path, rows=COUNT)),
    "parquet, small pages": (
        "x.parquet", lambda table, path: parquet(table, path, data_page_size=64, compression="zstd")
    ),
    "parquet, no dictionaries": ("x.parquet", lambda table, path: parquet(table, path, use_dictionary=False)),
}  # fmt: skip


@pytest.fixture(params=FORMATS)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The table in one of the formats."""
    name, save = FORMATS[request.param]
    save(TABLE, tmp_path / name)
    return tmp_path / name


def test_rows_of_every_type_are_read_at_any_indices(stored: Path) -> None:
    table = open_table(stored)
    assert dict(table.columns) == KINDS
    wanted = random.Random(0).choices(range(COUNT), k=200)
    assert table.rows(wanted, list(KINDS)) == [ROWS[index] for index in wanted]
    assert table.rows(wanted, ["label", "text"]) == [
        {"label": ROWS[index]["label"], "text": ROWS[index]["text"]} for index in wanted
    ]
    assert all_rows(table) == ROWS
    assert table.place(12) == f"`{stored.name}`, row 12 (from 0)"
    with pytest.raises(IndexError):
        table.rows([COUNT], ["text"])


def test_nothing_changes_where_little_stays_in_memory(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 1)
    monkeypatch.setattr(parquet_file, "WINDOW_BYTES", 2000)
    table = open_table(stored)
    wanted = random.Random(1).choices(range(COUNT), k=50)
    assert table.rows(wanted, list(KINDS)) == [ROWS[index] for index in wanted]
    assert [table.rows([index], ["text"])[0]["text"] for index in wanted] == [ROWS[index]["text"] for index in wanted]


@pytest.mark.parametrize("limit", [1, 40, 10**6])
def test_a_limit_takes_the_first_rows(stored: Path, limit: int) -> None:
    assert all_rows(open_table(stored, limit=limit)) == ROWS[:limit]


def test_names_with_points_and_no_columns_at_all_are_read(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "a.b": [3, 4], "c": [{"d": 5}, {"d": 6}], "c.d": [7, 8]})
    for name, save in (("x.arrow", stream), ("x.parquet", parquet)):
        save(table, tmp_path / name)
        opened = open_table(tmp_path / name)
        assert opened.rows([1], ["a"]) == [{"a": 2}]
        assert opened.rows([1, 0], ["c.d", "a.b"]) == [{"c.d": 8, "a.b": 4}, {"c.d": 7, "a.b": 3}]
        assert opened.rows([0], ["c"]) == [{"c": {"d": 5}}]
        assert opened.rows([1, 0], []) == [{}, {}]


@pytest.fixture(params=[name for name in FORMATS if "parquet" not in name])
def large(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table in a format of arrow, where every batch is read piece by piece that can be."""
    monkeypatch.setattr(arrow_file, "LARGE_BYTES", 0)
    monkeypatch.setattr(arrow_large, "GRAIN_BYTES", 1 << 12)
    monkeypatch.setattr(arrow_large, "RESIDENT_BYTES", 1 << 14)
    name, save = FORMATS[request.param]
    save(TABLE, tmp_path / name)
    return tmp_path / name


def test_rows_of_large_batches_are_read_piece_by_piece(large: Path) -> None:
    test_rows_of_every_type_are_read_at_any_indices(large)


def test_damaged_large_batches_never_end_the_process(large: Path) -> None:
    test_damaged_bytes_anywhere_are_refused_or_give_other_values_and_never_end_the_process(large)


def test_of_a_large_batch_little_is_read_and_stays(tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * 1000 + str(n) for n in range(100_000)], "n": range(100_000)})
    for name, save in (("x.arrow", stream), ("y.arrow", file)):
        save(table, tmp_path / name, rows=100_000)
        opened = open_table(tmp_path / name)
        COUNTS.clear()
        for row in range(0, 100_000, 1000):
            assert opened.rows([row], ["n", "text"]) == [{"n": row, "text": "x" * 1000 + str(row)}]
        assert COUNTS.bytes[tmp_path / name] < 80 << 20
        assert resident_shared_bytes() < 50 << 20


def resident_shared_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssShmem")).split()[1]) << 10


@pytest.mark.parametrize("room", [1 << 30, 5000, 0])
def test_rows_of_a_large_row_group_are_read_in_any_order_with_or_without_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 1)
    monkeypatch.setattr(parquet_file, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet_file, "WINDOW_BYTES", 2000)
    monkeypatch.setattr(spilled, "MAX_BYTES", room)
    parquet(TABLE, tmp_path / "x.parquet", rows=200)
    opened = open_table(tmp_path / "x.parquet")
    for index in random.Random(0).choices(range(COUNT), k=30):
        assert opened.rows([index], list(KINDS)) == [ROWS[index]]
    assert all_rows(opened) == ROWS


def test_a_large_row_group_is_decoded_once_for_rows_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 1)
    monkeypatch.setattr(parquet_file, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet_file, "WINDOW_BYTES", 2000)
    parquet(TABLE, tmp_path / "x.parquet", rows=COUNT)
    opened = open_table(tmp_path / "x.parquet")
    opened.rows([COUNT - 1], ["text"])
    COUNTS.clear()
    assert [opened.rows([index], ["text"])[0]["text"] for index in (5, 400, 3, 399)] == [
        ROWS[index]["text"] for index in (5, 400, 3, 399)
    ]
    assert COUNTS.bytes[tmp_path / "x.parquet"] < 1000


@pytest.mark.parametrize("save", [stream, file])
def test_columns_that_are_views_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    """As polars writes them."""
    table = pa.table({"text": pa.array(["a", "b" * 100, None], pa.string_view()), "n": [1, 2, 3]})
    save(table, tmp_path / "x.arrow")
    assert open_table(tmp_path / "x.arrow").rows([2, 0, 1], ["text"]) == [
        {"text": None}, {"text": "a"}, {"text": "b" * 100},
    ]  # fmt: skip


def test_a_dictionary_that_is_replaced_or_grows_is_right_for_each_batch(tmp_path: Path) -> None:
    parts = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", "c", "a"]).dictionary_encode()]
    for name, options in (("x.arrow", {}), ("y.arrow", {"emit_dictionary_deltas": True})):
        batches = [pa.record_batch([part], ["text"]) for part in (*parts, parts[0])]
        with pa.ipc.new_stream(tmp_path / name, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            for batch in batches:
                writer.write_batch(batch)
        table = open_table(tmp_path / name)
        assert [row["text"] for row in table.rows([6, 5, 4, 3, 2, 1, 0], ["text"])] == list("baacbba")


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_only_what_is_asked_for_is_read(tmp_path: Path, name: str) -> None:
    table = pa.table({"n": range(3000), "large": ["x" * 3000 + str(n) for n in range(3000)]})
    (parquet if name == "x.parquet" else stream)(table, tmp_path / name)
    size = (tmp_path / name).stat().st_size
    opened = open_table(tmp_path / name)
    COUNTS.clear()
    opened.rows([1500], ["n"])
    assert 0 < COUNTS.bytes[tmp_path / name] < size / 5


def test_the_names_of_classes_are_found_where_datasets_wrote_them(tmp_path: Path) -> None:
    names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {
        "label": names,
        "tags": {"feature": names, "_type": "List"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"label": [0, 1], "tags": [[0], [1]], "text": ["a", "b"]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for name, save in (("x.arrow", stream), ("y.arrow", file), ("x.parquet", parquet)):
        save(table, tmp_path / name)
        assert open_table(tmp_path / name).class_names == {"label": ("neg", "pos"), "tags": ("neg", "pos")}
    for broken in (
        "[",
        "[]",
        '{"info": 3}',
        '{"info": {"features": {"label": {"names": [1], "_type": "ClassLabel"}}}}',
    ):
        stream(table.replace_schema_metadata({"huggingface": broken}), tmp_path / "x.arrow")
        assert open_table(tmp_path / "x.arrow").class_names == {}


@pytest.mark.parametrize("name", ["x.arrow", "y.arrow", "x.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])
    {"x.arrow": stream, "y.arrow": file, "x.parquet": parquet}[name](table, tmp_path / name)
    assert "`a` stands 2 times" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["x.arrow", "y.arrow", "x.parquet"])
def test_a_table_without_rows_is_empty(tmp_path: Path, name: str) -> None:
    {"x.arrow": stream, "y.arrow": file, "x.parquet": parquet}[name](TABLE.slice(0, 0), tmp_path / name)
    assert name in refused(tmp_path / name, "empty-data")


def test_a_file_that_is_cut_off_anywhere_is_refused_or_holds_the_rows_before(stored: Path) -> None:
    """A stream has no end of its own, so one that is cut off between two batches is a shorter one."""
    content = stored.read_bytes()
    cuts = [1, 7, 9, 100, len(content) // 3, len(content) // 2, len(content) - 100, len(content) - 9, len(content) - 1]
    for cut in cuts:
        found = read_or_refused(write(stored, content[:cut]))
        if isinstance(found, EngineError):
            assert found.code in ("invalid-data", "empty-data")
            assert stored.name in found.message
        else:
            assert stored.name == "x.arrow"
            assert found == ROWS[: len(found)]


def test_damaged_bytes_anywhere_are_refused_or_give_other_values_and_never_end_the_process(stored: Path) -> None:
    content, chance, refusals = stored.read_bytes(), random.Random(2), 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in chance.choices(range(len(content)), k=chance.choice([1, 3, 20])):
            damaged[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        found = read_or_refused(write(stored, bytes(damaged)))
        if isinstance(found, EngineError):
            refusals += 1
            assert found.code in ("invalid-data", "empty-data")
            assert stored.name in found.message
    assert refusals > 10


def test_text_that_is_not_utf_8_is_refused_with_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"b", b"\xff"])
    wrong = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    table = pa.table({"text": wrong})
    parquet(table, tmp_path / "x.parquet")
    assert "row 2 (from 0)" in refused(tmp_path / "x.parquet")
    stream(table, tmp_path / "x.arrow")
    assert "x.arrow" in refused(tmp_path / "x.arrow")


def test_an_encrypted_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", b"PARE" + bytes(100) + b"PARE")
    assert "encrypted" in refused(tmp_path / "x.parquet")


def with_footer(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes in the footer of a parquet file, of which there must be some."""
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    footer = content[-8 - length : -8]
    assert old in footer
    replaced = footer.replace(old, new)
    write(path, content[: -8 - length] + replaced + struct.pack("<I", len(replaced)) + b"PAR1")


def varint(number: int) -> bytes:
    """A whole number as Thrift's compact form has it."""
    number, found = 2 * number, b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


@pytest.mark.parametrize("rows", [10**6, 10**9, 10**12, 2**62])
def test_more_rows_than_a_parquet_file_has_are_refused(tmp_path: Path, rows: int) -> None:
    table = pa.table({"n": [n % 7 for n in range(77_777)]})
    parquet(table, tmp_path / "x.parquet", rows=77_777, write_statistics=False)
    with_footer(tmp_path / "x.parquet", varint(77_777), varint(rows))
    assert "x.parquet" in refusal(
        lambda: open_table(tmp_path / "x.parquet").rows([100_000 if rows < 10**9 else 0], ["n"])
    )


def test_a_column_that_becomes_absurdly_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "SMALL_BYTES", 1 << 20)
    table = pa.table({"text": ["x" * (16 << 20)], "n": [1]})
    parquet(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "x.parquet").stat().st_size < 16_000
    opened = open_table(tmp_path / "x.parquet")
    assert opened.rows([0], ["n"]) == [{"n": 1}]
    assert "`text`" in refusal(lambda: opened.rows([0], ["text"]))


def test_a_long_text_that_a_dictionary_repeats_is_read_in_few_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "MAX_EXPANDED_BYTES", 32 << 20)
    monkeypatch.setattr(arrow_values, "MAX_ASKED_BYTES", 64 << 20)
    table = pa.table({"text": pa.array(["x" * (1 << 20)] * 300)})
    parquet(table, tmp_path / "x.parquet", rows=300, compression="zstd", dictionary_pagesize_limit=1 << 30)
    del table
    opened = open_table(tmp_path / "x.parquet")
    before = pa.total_allocated_bytes()
    assert len(opened.rows([3], ["text"])[0]["text"]) == 1 << 20
    assert pa.total_allocated_bytes() - before < 100 << 20
    assert "together" in refusal(lambda: opened.rows(range(100), ["text"]))


def test_a_dictionary_of_arrow_does_not_grow_beyond_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000), pa.array(["x" * (1 << 20)]))
    stream(pa.table({"text": texts}), tmp_path / "x.arrow", rows=10_000)
    opened = open_table(tmp_path / "x.arrow")
    assert len(opened.rows([9_999], ["text"])[0]["text"]) == 1 << 20
    assert "together" in refusal(lambda: opened.rows(range(2_000), ["text"]))


@pytest.mark.parametrize("save", [stream, file])
def test_a_batch_that_unpacks_beyond_bounds_is_refused_before_it_is_read(
    tmp_path: Path, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_file, "MAX_BATCH_BYTES", 1 << 20)
    save(pa.table({"text": ["x" * (4 << 20)]}), tmp_path / "x.arrow", compression="zstd")
    assert "smaller batches" in refused(tmp_path / "x.arrow")


def test_a_file_that_becomes_shorter_while_it_is_open_is_an_error(stored: Path) -> None:
    """Through a memory map it would end the process."""
    table = open_table(stored)
    stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(EngineError) as caught:
        all_rows(table)
    assert caught.value.code == "inputs-changed"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_without_pyarrow_the_line_that_installs_it_is_said(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parquet if name == "x.parquet" else stream)(TABLE, tmp_path / name)
    for module in [module for module in sys.modules if module.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TaskError, match=r"pip install 'ladle\[text\]'") as caught:
        open_table(tmp_path / name)
    assert caught.value.code == "missing-library"
