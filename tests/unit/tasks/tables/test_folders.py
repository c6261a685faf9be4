"""Folders: shards, splits, what the Hub and `save_to_disk` leave; and folders that hold no data set, or several."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables import open_table
from tests.unit.tasks.tables.helpers import all_rows, refusal, refused, write


def texts(folder: Path, **options: str | int) -> list[str]:
    return [row["text"] for row in all_rows(open_table(folder, **options))]


def parquet(path: Path, *values: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": list(values)}), path)


def saved(folder: Path, *shards: list[str], split: str | None = None) -> None:
    """What `save_to_disk` of datasets 5.2 writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, values in zip(names, shards, strict=True):
        table = pa.table({"text": values})
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_format_columns": None}
    write(folder / "state.json", json.dumps({**state, "_split": split}))
    write(folder / "dataset_info.json", "{}")
    write(folder / "cache-0123.arrow", b"left by map")


def test_shards_are_one_table_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("part-0.csv", "part-1.csv", "part-2.csv"):
        write(tmp_path / name, f"text,n\n{name} a,1\n{name} b,2\n")
    table = open_table(tmp_path)
    assert texts(tmp_path) == [f"part-{number}.csv {letter}" for number in range(3) for letter in "ab"]
    assert table.rows([5, 0, 3], ["n", "text"]) == [
        {"n": "2", "text": "part-2.csv b"}, {"n": "1", "text": "part-0.csv a"}, {"n": "2", "text": "part-1.csv b"},
    ]  # fmt: skip
    assert table.place(4) == "`part-2.csv`, line 2"
    assert texts(tmp_path, limit=3) == ["part-0.csv a", "part-0.csv b", "part-1.csv a"]


def hub(folder: Path, *names: str) -> None:
    """As a data set lies on the Hub, with files beside it."""
    for name in names:
        parquet(folder / name, f"{name} a", f"{name} b")
    write(folder / "README.md", "---\n---")
    write(folder / ".gitattributes", "")
    write(folder / "dataset_infos.json", "{}")


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
         "train", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        (("data/train-00000-of-00001-0123456789abcdef.parquet", "data/validation-00000-of-00001-01.parquet"),
         "validation", ["data/validation-00000-of-00001-01.parquet"]),
        (("plain_text/train-00000-of-00001.parquet", "plain_text/unsupervised-00000-of-00001.parquet"),
         "unsupervised", ["plain_text/unsupervised-00000-of-00001.parquet"]),
        (("train.parquet", "valid.parquet"), "validation", ["valid.parquet"]),
        (("train.parquet", "dev.parquet"), "val", ["dev.parquet"]),
        (("wiki.train.parquet", "wiki.valid.parquet"), "valid", ["wiki.valid.parquet"]),
        (("imdb-train.parquet", "imdb-test.parquet"), "test", ["imdb-test.parquet"]),
        (("train/part-0.parquet", "train/part-1.parquet", "test/part-0.parquet"),
         "train", ["train/part-0.parquet", "train/part-1.parquet"]),
        (("data/train/0.parquet", "data/validation/0.parquet"), "validation", ["data/validation/0.parquet"]),
        (("0.parquet", "1.parquet"), None, ["0.parquet", "1.parquet"]),
        (("data/test-00000-of-00001.parquet",), None, ["data/test-00000-of-00001.parquet"]),
        (("restraint.parquet", "trained.parquet"), None, ["restraint.parquet", "trained.parquet"]),
    ],
)  # fmt: skip
def test_a_split_is_found_by_the_names_of_files_or_folders(
    tmp_path: Path, names: tuple[str, ...], split: str | None, expected: list[str]
) -> None:
    hub(tmp_path, *names)
    assert texts(tmp_path, split=split) == [f"{name} {letter}" for name in expected for letter in "ab"]


@pytest.mark.parametrize("split", ["tset", "dev", "Train", "", "unsupervised"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, split: str) -> None:
    hub(tmp_path, "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    if split == "Train":
        assert texts(tmp_path, split=split)
        return
    message = refused(tmp_path, split=split)
    assert "`test`, `train`" in message
    assert ("Did you mean `test`?" in message) == (split == "tset")


def test_several_splits_need_one_to_be_named(tmp_path: Path) -> None:
    hub(tmp_path, "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    assert "`test`, `train`" in refused(tmp_path)
    saved(tmp_path / "saved/train", ["a"])
    saved(tmp_path / "saved/validation", ["b"])
    write(tmp_path / "saved/dataset_dict.json", '{"splits": ["train", "validation"]}')
    assert "`train`, `validation`" in refused(tmp_path / "saved")


def test_a_file_has_no_split_but_the_one_that_it_is_named_for(tmp_path: Path) -> None:
    parquet(tmp_path / "valid.parquet", "a")
    assert texts(tmp_path / "valid.parquet", split="validation") == ["a"]
    assert "`split` must be absent" in refused(tmp_path / "valid.parquet", split="test")


def test_what_save_to_disk_writes_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "one", ["a", "b"], ["c"], split="train")
    assert texts(tmp_path / "one") == ["a", "b", "c"]
    assert texts(tmp_path / "one", split="train", limit=2) == ["a", "b"]
    assert "`train`" in refused(tmp_path / "one", split="test")
    saved(tmp_path / "all/train", ["a"])
    saved(tmp_path / "all/validation", ["b", "c"])
    write(tmp_path / "all/dataset_dict.json", '{"splits": ["train", "validation"]}')
    assert texts(tmp_path / "all", split="validation") == texts(tmp_path / "all", split="dev") == ["b", "c"]
    assert "Did you mean `train`?" in refused(tmp_path / "all", split="trian")


@pytest.mark.parametrize(
    "state",
    [
        "", "[]", "{}", '{"_data_files": []}', '{"_data_files": [{"filename": "../x.arrow"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}', '{"_data_files": ["a"]}', '{"_data_files": {"a": 1}}',
        '{"_data_files": [{"filename": "gone.arrow"}]}',
    ],
)  # fmt: skip
def test_a_saved_data_set_whose_list_of_files_is_broken_is_refused(tmp_path: Path, state: str) -> None:
    saved(tmp_path / "inner", ["a"])
    write(tmp_path / "inner/state.json", state)
    assert "inner" in refused(tmp_path / "inner")
    write(tmp_path / "dataset_dict.json", '{"splits": ["../inner"]}')
    assert "dataset_dict.json" in refused(tmp_path)


@pytest.mark.parametrize("second", ["text,n\nb,1\n", "text,N\nb,2\n", "other\nb\n"])
def test_shards_with_other_columns_are_refused(tmp_path: Path, second: str) -> None:
    write(tmp_path / "0.csv", "text,label\na,1\n")
    write(tmp_path / "1.csv", second)
    message = refused(tmp_path)
    assert "`0.csv`" in message
    assert "`1.csv`" in message


def test_shards_may_name_columns_in_another_order_and_json_lines_may_lack_some(tmp_path: Path) -> None:
    write(tmp_path / "csv/0.csv", "text,label\na,1\n")
    write(tmp_path / "csv/1.csv", "label,text\n2,b\n")
    assert [row["label"] for row in all_rows(open_table(tmp_path / "csv"))] == ["1", "2"]
    write(tmp_path / "json/0.jsonl", '{"text": "a"}')
    write(tmp_path / "json/1.jsonl", '{"text": "b", "n": 1}')
    assert all_rows(open_table(tmp_path / "json")) == [{"text": "a", "n": None}, {"text": "b", "n": 1}]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [([1], [2.5], "number"), ([1], ["a"], None), (["a"], [["a"]], None), ([None], [3], "whole number")],
)
def test_shards_of_other_types_are_refused_but_for_numbers(
    tmp_path: Path, first: list[object], second: list[object], kind: str | None
) -> None:
    for number, values in enumerate((first, second)):
        pq.write_table(pa.table({"x": values}), tmp_path / f"{number}.parquet")
    if kind is None:
        assert "`x`" in refused(tmp_path)
    else:
        assert open_table(tmp_path).columns == {"x": kind}


def test_shards_whose_numbers_stand_for_other_classes_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((["a", "b"], ["b", "a"])):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table({"label": [0, 1]}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / f"{number}.parquet")
    assert "`label`" in refused(tmp_path)


def test_an_empty_shard_is_passed_over(tmp_path: Path) -> None:
    for number, values in enumerate((["a"], [], ["b"])):
        pq.write_table(pa.table({"text": pa.array(values, pa.string())}), tmp_path / f"{number}.parquet")
    assert texts(tmp_path) == ["a", "b"]
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    refused(tmp_path, "empty-data")


def test_files_beside_the_data_are_passed_over_and_said(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", "a")
    parquet(tmp_path / "test.parquet", "a")
    parquet(tmp_path / "extra.parquet", "b")
    write(tmp_path / "train.txt", "notes")
    write(tmp_path / "LICENSE.txt", "words")
    write(tmp_path / "_SUCCESS", "")
    table = open_table(tmp_path, split="train")
    assert [row["text"] for row in all_rows(table)] == ["a"]
    assert {name for name in ("extra.parquet", "train.txt") if any(name in each for each in table.remarks)} == {
        "extra.parquet", "train.txt",
    }  # fmt: skip


@pytest.mark.parametrize("others", [("x.csv",), ("x.tsv", "x.jsonl"), ("x.tar",)])
def test_files_of_several_kinds_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    parquet(tmp_path / "x.parquet", "a")
    for name in others:
        write(tmp_path / name, "text\na\n")
    assert ".parquet" in refused(tmp_path)


def test_a_folder_of_several_data_sets_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("de-en/train.parquet", "fr-en/train.parquet"):
        parquet(tmp_path / name, "a")
    assert "`de-en`, `fr-en`" in refused(tmp_path)


def test_a_folder_without_data_is_refused_with_what_it_could_hold(tmp_path: Path) -> None:
    write(tmp_path / "cats/1.png", b"x")
    assert ".parquet" in refused(tmp_path, "empty-data")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert ".parquet" in refused(tmp_path, "empty-data")


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet", "a")
    write(tmp_path / "1.parquet", "PAR1 cut off")
    assert "1.parquet" in refused(tmp_path)


def test_a_link_to_nothing_among_the_shards_is_an_error_that_names_it(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet", "a")
    (tmp_path / "1.parquet").symlink_to(tmp_path / "gone")
    assert "1.parquet" in refused(tmp_path)
    assert refusal(lambda: open_table(tmp_path / "1.parquet"))
    with pytest.raises(DataError):
        open_table(tmp_path / "a\0b")
