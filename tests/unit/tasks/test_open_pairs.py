"""Pairs of texts in the forms in which people have them, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.text.seq2seq.languages import Languages
from ladle_engine.tasks.text.seq2seq.open_pairs import open_pairs
from ladle_engine.tasks.text.seq2seq.pairs import Pair, Pairs

PAIRS = [Pair("one", "eins"), Pair("two words", "zwei Wörter"), Pair("three", "drei")]


def opened(path: Path, languages: tuple[str | None, str | None] = (None, None), **options: Any) -> Pairs:
    settings = {"columns": {}, "split": None, "limit": None, **options}
    return open_pairs(path, languages=Languages(source=languages[0], target=languages[1]), **settings)


def all_of(pairs: Pairs) -> list[Pair]:
    return pairs.rows(range(len(pairs)))


def write_rows(path: Path, source: str, target: str) -> Path:
    path.write_text("".join(json.dumps({source: pair.source, target: pair.target}) + "\n" for pair in PAIRS))
    return path


def write_parallel(folder: Path, stem: str, endings: tuple[str, str] = ("en", "de"), line_end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    for number, ending in enumerate(endings):
        lines = "".join(pair[number] + line_end for pair in PAIRS)
        (folder / f"{stem}{ending}").write_bytes(lines.encode())
    return folder


# Tables


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("source", "target"), ("src", "tgt"), ("text", "summary"), ("article", "highlights"), ("input", "output")),
        *(("document", "summary"), ("dialogue", "summary"), ("Source", "Target"), ("prompt", "completion")),
    ],
)
def test_usual_names_of_columns_are_found(tmp_path: Path, source: str, target: str) -> None:
    assert all_of(opened(write_rows(tmp_path / "val.jsonl", source, target))) == PAIRS


def test_columns_may_be_named_or_be_called_as_the_languages_are(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "val.jsonl", "en", "de")
    assert all_of(opened(path, columns={"source": "en", "target": "de"})) == PAIRS
    assert all_of(opened(path, ("en_XX", "de_DE"))) == PAIRS
    assert all_of(opened(path, ("de", "en")))[0] == Pair("eins", "one")


def test_tables_with_commas_and_tabs_work(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text('source,target\n"one, or 1",eins\ntwo,"zwei ""2"""\n')
    assert all_of(opened(tmp_path / "val.csv")) == [Pair("one, or 1", "eins"), Pair("two", 'zwei "2"')]
    (tmp_path / "val.tsv").write_text("src\ttgt\none\teins\n")
    assert all_of(opened(tmp_path / "val.tsv")) == [Pair("one", "eins")]


def test_whole_numbers_may_be_answers(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"input": "2 + 3", "output": 5}\n{"input": "1 + 1", "output": 2}\n')
    assert all_of(opened(tmp_path / "val.jsonl")) == [Pair("2 + 3", "5"), Pair("1 + 1", "2")]


def test_a_column_of_translations_is_read_by_its_languages(tmp_path: Path) -> None:
    rows = [{"id": number, "translation": {"en": pair.source, "de": pair.target}} for number, pair in enumerate(PAIRS)]
    path = tmp_path / "val.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert all_of(opened(path, ("en", "de"))) == PAIRS
    assert all_of(opened(path, ("eng_Latn", "de_DE"))) == PAIRS, "one of two languages is enough"
    assert all_of(opened(path, (None, "en")))[1] == Pair("zwei Wörter", "two words")
    with pytest.raises(DataError, match=r"the languages `en`, `de`\. Say .* `source_lang` and `target_lang`"):
        opened(path)
    with pytest.raises(DataError, match=r"`en`, `de`, and what is asked for is `fr`, `ru`"):
        opened(path, ("fr", "ru"))


def test_a_translation_that_is_no_text_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    path.write_text('{"translation": {"en": "one", "de": "eins"}}\n{"translation": {"en": "two", "de": ["zwei"]}}\n')
    pairs = opened(path, ("en", "de"))
    with pytest.raises(DataError, match=r"a text for `de`, but has a list in `.*val.jsonl`, line 2"):
        all_of(pairs)


def test_an_absent_value_is_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"source": "one", "target": null}\n{"source": "two", "target": "zwei"}\n')
    assert all_of(opened(tmp_path / "val.jsonl")) == [Pair("one", ""), Pair("two", "zwei")]


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "val.jsonl", "english", "german")
    with pytest.raises(DataError, match=r"`source`.*`english` \(text\), `german` \(text\)"):
        opened(path)
    with pytest.raises(DataError, match=r"names `englisch` for `source`.*Did you mean `english`"):
        opened(path, columns={"source": "englisch", "target": "german"})
    with pytest.raises(TaskError, match=r"roles of the task \(`source`, `target`\), but names `from`"):
        opened(path, columns={"from": "english", "target": "german"})


def test_limit_takes_the_first_pairs_alone(tmp_path: Path) -> None:
    assert all_of(opened(write_rows(tmp_path / "val.jsonl", "source", "target"), limit=2)) == PAIRS[:2]
    assert all_of(opened(write_parallel(tmp_path / "val", "val.", ("src", "tgt")), limit=2)) == PAIRS[:2]


# Parallel files


@pytest.mark.parametrize(
    ("stem", "endings"),
    [("val.", ("en", "de")), ("val.", ("en.txt", "de.txt")), ("", ("en.txt", "de.txt")), ("wmt.en-de.", ("en", "de"))],
)
def test_files_that_end_with_their_languages_belong_together(
    tmp_path: Path, stem: str, endings: tuple[str, str]
) -> None:
    folder = write_parallel(tmp_path / "val", stem, endings)
    (folder / "README.md").write_text("From somewhere.")
    (folder / "LICENSE").write_text("Free.")
    (folder / ".hidden").write_text("")
    assert all_of(opened(folder, ("en", "de"))) == PAIRS
    assert all_of(opened(folder, (None, "de"))) == PAIRS
    assert all_of(opened(folder, columns={"source": "en", "target": "de"})) == PAIRS
    with pytest.raises(DataError, match=r"(end with|are called) `de`, `en`\. Say which is which"):
        opened(folder)


def test_files_may_be_links(tmp_path: Path) -> None:
    write_parallel(tmp_path / "there", "val.")
    (tmp_path / "val").mkdir()
    for name in ("val.en", "val.de"):
        (tmp_path / "val" / name).symlink_to(tmp_path / "there" / name)
    assert all_of(opened(tmp_path / "val", ("en", "de"))) == PAIRS


@pytest.mark.parametrize("endings", [("src", "tgt"), ("source", "target"), ("article", "highlights")])
def test_usual_endings_need_no_word(tmp_path: Path, endings: tuple[str, str]) -> None:
    folder = write_parallel(tmp_path / "val", "test.", endings)
    assert all_of(opened(folder)) == PAIRS
    assert all_of(opened(folder, ("en", "de"))) == PAIRS, "a tokenizer may know languages that no file is named after"


def test_split_names_one_pair_of_files_among_several(tmp_path: Path) -> None:
    for stem in ("train.", "val."):
        write_parallel(tmp_path / "data", stem)
    assert len(opened(tmp_path / "data", ("en", "de"), split="val")) == 3
    assert len(opened(tmp_path / "data", ("en", "de"), split="validation")) == 3
    with pytest.raises(DataError, match=r"is meant, because it has several: `train`, `val`"):
        opened(tmp_path / "data", ("en", "de"))
    with pytest.raises(DataError, match=r"one of those of .* \(`train`, `val`\), but is `test`"):
        opened(tmp_path / "data", ("en", "de"), split="test")


def test_one_of_two_files_is_answered_with_their_folder(tmp_path: Path) -> None:
    folder = write_parallel(tmp_path / "val", "val.")
    with pytest.raises(DataError, match=r"by the folder that holds both, but `.*val\.en` is one file\. Give `.*/val`"):
        opened(folder / "val.en", ("en", "de"))


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_lines_may_end_as_on_other_systems(tmp_path: Path, line_end: str) -> None:
    assert all_of(opened(write_parallel(tmp_path / "val", "val.", line_end=line_end), ("en", "de"))) == PAIRS


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    folder = write_parallel(tmp_path / "val", "val.")
    (folder / "val.en").write_text("one\u2028or 1\ntwo\x0bwords\nthree\x85\n")
    assert [pair.source for pair in all_of(opened(folder, ("en", "de")))] == [
        "one\u2028or 1",
        "two\x0bwords",
        "three\x85",
    ]


def test_files_of_different_lengths_are_named_with_their_lines(tmp_path: Path) -> None:
    folder = write_parallel(tmp_path / "val", "val.")
    with (folder / "val.de").open("a") as file:
        file.write("vier\n")
    with pytest.raises(DataError, match=r"`.*val\.en` has 3 and `.*val\.de` has 4") as found:
        opened(folder, ("en", "de"))
    assert found.value.code == "invalid-data"


def test_a_file_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_parallel(tmp_path / "val", "val.")
    (folder / "val.de").write_bytes("eins\nzwei Wörter\ndrei\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"UTF-8, but line 2 of `.*val\.de`"):
        opened(folder, ("en", "de"))


def test_places_of_both_files_are_named(tmp_path: Path) -> None:
    place = opened(write_parallel(tmp_path / "val", "val."), ("en", "de")).place(1)
    assert "val.en`, line 2 and `" in place
    assert "val.de`, line 2" in place
