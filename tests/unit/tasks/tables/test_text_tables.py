"""csv, tsv, JSON lines, lists of JSON objects and plain text: rows at any indices, and files that are none."""

from __future__ import annotations

import csv
import json
import pickle
import random
from pathlib import Path

import pytest

from ladle_engine.tasks.tables import lines, open_table, open_text
from tests.unit.tasks.tables.helpers import all_rows, refused, write

CSV = 'text,label\n"a, b",1\n"two\r\nlines",2\n"say ""x""",3\n'
CSV_ROWS = [
    {"text": "a, b", "label": "1"},
    {"text": "two\r\nlines", "label": "2"},
    {"text": 'say "x"', "label": "3"},
]
JSON_ROWS = [{"text": "é ]}", "n": 1}, {"text": 'a"b', "n": 2.5}, {"text": "\u2028", "n": None}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_csv_is_read_with_any_line_ends_and_with_or_without_a_mark(
    tmp_path: Path, end: str, mark: str, closed: bool
) -> None:
    text = mark + f'text,label{end}"a, b",1{end}"c{end}d",2{end}e,3' + end * closed
    table = open_table(write(tmp_path / "x.csv", text))
    assert all_rows(table) == [
        {"text": "a, b", "label": "1"}, {"text": f"c{end}d", "label": "2"}, {"text": "e", "label": "3"},
    ]  # fmt: skip
    assert [table.place(row) for row in range(3)] == ["`x.csv`, line 2", "`x.csv`, line 3", "`x.csv`, line 5"]


def test_rows_are_given_in_the_order_of_the_indices_and_with_the_columns_asked_for(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "x.csv", CSV))
    assert table.columns == {"text": "text", "label": "text"}
    assert all_rows(table) == CSV_ROWS
    assert table.rows([2, 0, 2], ["label"]) == [{"label": "3"}, {"label": "1"}, {"label": "3"}]
    with pytest.raises(IndexError):
        table.rows([3], ["text"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt"])
def test_rows_of_many_blocks_are_read_at_any_indices(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks and chunks, so that rows and line ends lie across their edges."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 37)
    rows = [{"text": "é\r\n" * (n % 3) + f"{n}" * (n % 50) + "x", "n": n} for n in range(300)]
    path = tmp_path / f"x{suffix}"
    if suffix == ".txt":
        rows = [{"text": f"é {n}"} for n in range(300)]
        write(path, "\r\n".join(row["text"] for row in rows))
    elif suffix == ".jsonl":
        write(path, "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    elif suffix == ".json":
        write(path, json.dumps(rows, indent=1))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "n"], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
        rows = [{"text": row["text"], "n": str(row["n"])} for row in rows]
    table = open_table(path)
    wanted = random.Random(0).choices(range(300), k=200)
    assert table.rows(wanted, list(rows[0])) == [rows[index] for index in wanted]
    assert all_rows(table) == rows


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".txt"])
def test_a_limit_takes_the_first_rows_and_may_be_larger_than_there_are(tmp_path: Path, suffix: str, limit: int) -> None:
    content = {".csv": CSV, ".json": json.dumps(JSON_ROWS), ".txt": "a\nb\nc"}
    content[".jsonl"] = "\n".join(map(json.dumps, JSON_ROWS))
    path = write(tmp_path / f"x{suffix}", content[suffix])
    assert all_rows(open_table(path, limit=limit)) == all_rows(open_table(path))[:limit]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_tells_the_delimiter_of_a_csv(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "x.csv", f"text{delimiter}label\na{delimiter}1\n")
    assert all_rows(open_table(path)) == [{"text": "a", "label": "1"}]


def test_a_column_without_a_name_gets_one_as_pandas_gives_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ",text, \n0,a,b\n")
    assert all_rows(open_table(path)) == [{"Unnamed: 0": "0", "text": "a", "Unnamed: 2": "b"}]


def test_blank_lines_are_no_rows_of_a_csv_and_of_json_lines_but_of_plain_text(tmp_path: Path) -> None:
    assert len(open_table(write(tmp_path / "x.csv", "text\n\na\n\r\n\nb\n\n"))) == 2
    assert len(open_table(write(tmp_path / "x.jsonl", '\n{"a": 1}\n \n{"a": 2}\n\n'))) == 2
    assert all_rows(open_table(write(tmp_path / "x.txt", "a\n\n b \n"))) == [
        {"text": each} for each in ("a", "", " b ")
    ]


def test_a_tsv_whose_quotes_are_text_is_read_without_quoting_and_that_is_said(tmp_path: Path) -> None:
    """As in the files of GLUE."""
    path = write(tmp_path / "dev.tsv", 'sentence\tlabel\n"It is," he said.\t1\n5" nails\t0\n"open\t1\n')
    table = open_table(path)
    assert [row["sentence"] for row in all_rows(table)] == ['"It is," he said.', '5" nails', '"open']
    assert "taken as characters of the text" in table.remarks[0]
    assert open_table(write(tmp_path / "x.tsv", 'a\tb\n"x\ty"\t1\n')).rows([0], ["a"]) == [{"a": "x\ty"}]


def test_values_longer_than_the_csv_module_takes_by_default_are_read(tmp_path: Path) -> None:
    text = "a b " * 100_000
    assert open_table(write(tmp_path / "x.csv", f'text\n"{text}"\n')).rows([0], ["text"]) == [{"text": text}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('text,label\na,1\n"b"c,2\nd,3\n', "line 3"),
        ('text,label\na,1\n"b,2\nc,3\n', "line 3"),
        ('text,label\na,1\nb,"2\n', "line 3"),
        ('text,label\n"a "x" b",1\n', "line 2"),
        ("text,label\na,1\nb\n", "line 3"),
        ("text,label\na,1\nb,2,3\n", "line 3"),
        ('text,label\n"a\nb",1\nb,2,3\n', "line 4"),
        ("text,label\na, b,1\n", "line 2"),
        ("text,text\na,1\n", "`text` stands 2 times"),
        ("text,label,text\na,1,2\n", "`text` stands 2 times"),
    ],
)
def test_a_csv_with_broken_quotes_ragged_rows_or_equal_names_is_refused(
    tmp_path: Path, content: str, expected: str
) -> None:
    message = refused(write(tmp_path / "x.csv", content))
    assert expected in message
    assert "x.csv" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"x{suffix}", b"") for suffix in (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".arrow", ".tar")),
        *(("x.csv", content) for content in (b"text,label\n", b"text,label", b"\xef\xbb\xbf", b"\n\n", b"text\n\n\n")),
        *(("x.jsonl", content) for content in (b"\n\n", b" ", b"\xef\xbb\xbf\r\n")),
        *(("x.json", content) for content in (b"[]", b" [ ]\n")),
        ("x.txt", b"\xef\xbb\xbf"),
    ],
)
def test_a_file_without_rows_is_empty(tmp_path: Path, name: str, content: bytes) -> None:
    assert name in refused(write(tmp_path / name, content), "empty-data")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.txt"])
@pytest.mark.parametrize("codec", ["latin-1", "cp1252", "shift-jis"])
def test_what_is_not_utf_8_is_refused_with_its_file_and_line(tmp_path: Path, name: str, codec: str) -> None:
    word = "日本" if codec == "shift-jis" else "é"
    rows = {"x.csv": ["text,n", "a,1", f"{word},2"], "x.jsonl": ['{"a": 1}', "", f'{{"a": "{word}"}}']}
    path = write(tmp_path / name, "\r\n".join(rows.get(name, ["a", "b", f"c {word}"])).encode(codec))
    assert f"line 3 of `{path}`" in refused(path)


def test_the_line_of_what_is_not_utf_8_is_right_inside_a_quoted_value(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b'text\n"a\nb\n\xff c"\n')
    assert f"line 4 of `{path}`" in refused(path)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.txt"])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named(tmp_path: Path, name: str, codec: str) -> None:
    assert "UTF-16" in refused(write(tmp_path / name, '[{"text": "some words"}]\n'.encode(codec)))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.txt", "x.parquet", "x.arrow", "x.tar"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((pickle.dumps([{"text": "a"}] * 3, protocol), "pickle") for protocol in (2, 3, 4, 5)),
        (b"PK\x03\x04 and more", "zip"),
        (b"\x1f\x8b\x08\x00 and more", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
    ],
)
def test_a_file_of_another_kind_in_disguise_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    assert words in refused(write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.parquet", "x.arrow", "x.tar"])
def test_a_web_page_in_disguise_is_named_but_may_be_plain_text(tmp_path: Path, name: str) -> None:
    page = "\n<!DOCTYPE html>\n<html></html>"
    assert "a web page" in refused(write(tmp_path / name, page))
    assert len(open_table(write(tmp_path / "x.txt", page))) == 3


@pytest.mark.parametrize("name", ["x.pkl", "x.pt", "x.xlsx", "x.jsonl.gz", "x.csv.zst", "x", "x.db"])
def test_a_file_of_no_known_suffix_is_refused_with_those_that_are(tmp_path: Path, name: str) -> None:
    message = refused(write(tmp_path / name, pickle.dumps([1])))
    assert ".jsonl" in message
    assert ("Unpack it" in message) == name.endswith((".gz", ".zst"))


def test_any_text_file_may_be_opened_as_plain_text(tmp_path: Path) -> None:
    """Such as the files of a parallel corpus."""
    assert all_rows(open_text(write(tmp_path / "valid.de", "eins\nzwei\n"))) == [{"text": "eins"}, {"text": "zwei"}]


def test_json_lines_with_differing_keys_have_all_of_them_as_columns(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1}, {"text": 2, "more": [1, 2]}, {"n": 1.5, "more": None, "nested": {"a": [{}]}}]
    table = open_table(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert table.columns == {
        "text": "text or whole number", "n": "number", "more": "list of whole number", "nested": "object",
    }  # fmt: skip
    assert all_rows(table) == [{name: row.get(name) for name in table.columns} for row in rows]


@pytest.mark.parametrize(
    ("line", "how"),
    [
        *(
            (line, "does not parse")
            for line in ('{"a": 1', '{"a": 1}}', "{a: 1}", "{'a': 1}", '{"a": 1} {"a": 2}', "x")
        ),
        *(('{"a": 1, "a": 2}', "twice"), ('{"a": "\\ud83d"}', "half of a character")),
        *(("1", "whole number"), ("null", "nothing"), ('"a"', "is text"), ("[1]", "is list of whole number")),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_number(tmp_path: Path, line: str, how: str) -> None:
    message = refused(write(tmp_path / "x.jsonl", '{"a": 1}\n\n' + line + '\n{"a": 2}\n'))
    assert "line 3" in message
    assert how in message


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1},\n{"a": 2}', '[{"a": 1},\n{"a": 2', '[{"a": 1},\n{"a": "2]', '[{"a": 1},\n{"a": 2}] x',
        '[{"a": 1}\n{"a": 2}]', '[{"a": 1},\n,{"a": 2}]', '[{"a": 1},\n3]', '[{"a": 1},\n"b"]', '[{"a": 1},\n[2]]',
        '[{"a": 1},\n]', '[{"a": 1},\n{"a": }]', '[{"a": 1}\n}',
    ],
)  # fmt: skip
def test_a_list_that_is_broken_or_holds_other_than_objects_is_refused(tmp_path: Path, content: str) -> None:
    assert "x.json" in refused(write(tmp_path / "x.json", content))


def test_the_columns_that_pandas_writes_by_default_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}))
    assert "one per column" in refused(path)


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lines", "json_rows"):
        monkeypatch.setattr(f"ladle_engine.tasks.tables.{module}.MAX_LINE_BYTES", 1000)
        monkeypatch.setattr(f"ladle_engine.tasks.tables.{module}.CHUNK_BYTES", 100)
    for name, begin in (("x.txt", ""), ("x.csv", "text\n"), ("x.jsonl", '{"text": "'), ("x.json", '[{"text": "')):
        assert "1,000 bytes" in refused(write(tmp_path / name, begin + "a" * 5000))


def test_there_is_nothing_at_the_path(tmp_path: Path) -> None:
    assert "there is none" in refused(tmp_path / "x.csv")
