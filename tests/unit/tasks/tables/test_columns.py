"""The columns of a task's roles: by the option, else by usual names; and values of the kind that a role takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ladle_engine.errors import TaskError
from ladle_engine.options import describe_options, parse_options
from ladle_engine.tasks.tables import (
    NUMBER,
    OBJECTS,
    TEXT,
    TEXTS,
    TRUTH,
    WHOLE,
    WHOLES,
    Role,
    Table,
    TableOptions,
    find_columns,
    open_table,
    role_rows,
)
from tests.unit.tasks.tables.helpers import refusal, write

TEXT_ROLE = Role("text", ("sentence", "content"), kinds=(TEXT,))
PAIR_ROLE = Role("pair", ("sentence2",), required=False, kinds=(TEXT,))
LABEL_ROLE = Role("label", ("labels", "class"), kinds=(WHOLE, TEXT))
ROLES = (TEXT_ROLE, PAIR_ROLE, LABEL_ROLE)


def table(tmp_path: Path, *rows: dict[str, Any]) -> Table:
    return open_table(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        ({"text": "a", "label": 1}, {}, {"text": "text", "label": "label"}),
        ({"sentence": "a", "sentence2": "b", "labels": "x"}, {},
         {"text": "sentence", "pair": "sentence2", "label": "labels"}),
        ({"text": "a", "content": "b", "label": 1}, {}, {"text": "text", "label": "label"}),
        ({"Text": "a", " Label ": 1}, {}, {"text": "Text", "label": " Label "}),
        ({"sentence": [1], "content": "b", "label": 1}, {}, {"text": "content", "label": "label"}),
        ({"text": "a", "body": "b", "label": 1, "y": 2}, {"text": "body", "label": "y"},
         {"text": "body", "label": "y"}),
        ({"text": "a", "sentence2": 3, "label": 1}, {}, {"text": "text", "label": "label"}),
    ],
)  # fmt: skip
def test_columns_are_found_by_the_option_else_by_usual_names(
    tmp_path: Path, row: dict[str, Any], given: dict[str, str], expected: dict[str, str]
) -> None:
    assert find_columns(table(tmp_path, row), ROLES, given) == expected


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    found = table(tmp_path, {"review": "a", "rating": 1, "tokens": [1]})
    message = refusal(lambda: find_columns(found, ROLES, {}))
    assert "`text` or `sentence` or `content`" in message
    assert "`review` (text), `rating` (whole number), `tokens` (list of whole number)" in message
    message = refusal(lambda: find_columns(found, ROLES, {"text": "reviews"}))
    assert "Did you mean `review`?" in message
    assert "`rating`" in message
    message = refusal(lambda: find_columns(table(tmp_path, {"text": "a", "lable": 1}), ROLES, {}))
    assert "Did you mean `lable`?" in message


def test_two_columns_of_usual_names_are_refused_with_the_option_that_says_which(tmp_path: Path) -> None:
    found = table(tmp_path, {"sentence": "a", "content": "b", "label": 1})
    message = refusal(lambda: find_columns(found, ROLES, {}))
    assert "`sentence`, `content`" in message
    assert "`columns`" in message
    assert find_columns(found, ROLES, {"text": "content"})["text"] == "content"


@pytest.mark.parametrize(("value", "kind"), [(["a"], TEXTS), ({"de": "a"}, "object"), (3, WHOLE), (True, TRUTH)])
def test_a_column_of_another_kind_is_refused_with_both_kinds(tmp_path: Path, value: Any, kind: str) -> None:
    found = table(tmp_path, {"text": value, "label": 1})
    for given in ({}, {"text": "text"}):
        assert f"must be text, but the column `text` is {kind}" in refusal(
            lambda given=given: find_columns(found, ROLES, given)
        )


def test_a_nested_column_is_taken_where_the_role_takes_it(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}], "tokens": [1, 2], "words": []}
    roles = (
        Role("messages", kinds=(OBJECTS,)),
        Role("tokens", kinds=(WHOLES,)),
        Role("words", kinds=(TEXTS,)),
        Role("anything", ("words",)),
    )
    found = table(tmp_path, row)
    columns = find_columns(found, roles, {})
    assert role_rows(found, roles, columns, [0]) == [{**row, "anything": []}]


@pytest.mark.parametrize("first", ["a film that I liked\t1", "a film that I really liked\tgood", "nice\t0.5\t1"])
def test_a_first_line_that_is_a_row_is_told_of(tmp_path: Path, first: str) -> None:
    rows = open_table(write(tmp_path / "x.tsv", f"{first}\n{first}\n"))
    message = refusal(lambda: find_columns(rows, (Role("score"),), {}))
    assert "These look like a row: the first line of a csv must name the columns." in message


@pytest.mark.parametrize("header", ["review text\tstars", "How much did you\tlike it?"])
def test_names_of_columns_may_have_several_words(tmp_path: Path, header: str) -> None:
    rows = open_table(write(tmp_path / "x.tsv", f"{header}\na\tb\n"))
    assert "look like a row" not in refusal(lambda: find_columns(rows, (Role("score"),), {}))


def test_the_advice_on_columns_can_be_copied(tmp_path: Path) -> None:
    rows = table(tmp_path, {"label": "a", "words": "b"})
    message = refusal(lambda: find_columns(rows, ROLES, {}))
    advice = message.partition("such as 'columns=")[2].partition("'")[0].replace("NAME", "words")
    assert find_columns(rows, ROLES, json.loads(advice)) == {"text": "words", "label": "label"}


def test_the_advice_on_columns_keeps_those_that_are_given(tmp_path: Path) -> None:
    rows = table(tmp_path, {"stars": 1, "words": "b"})
    message = refusal(lambda: find_columns(rows, ROLES, {"label": "stars"}))
    assert """'columns={"label": "stars", "text": "NAME"}'""" in message


def test_messages_show_names_of_columns_as_they_are_written(tmp_path: Path) -> None:
    rows = table(tmp_path, {"text": [1], "Label": "a"})
    message = refusal(lambda: find_columns(rows, ROLES, {}))
    assert "The columns there are `text` (list of whole number), `Label` (text)." in message


def test_an_option_for_a_role_that_the_task_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"Did you mean `label`\?") as caught:
        find_columns(table(tmp_path, {"text": "a"}), ROLES, {"labl": "text"})
    assert caught.value.code == "invalid-task-options"


def test_numbers_may_be_written_as_text(tmp_path: Path) -> None:
    found = open_table(write(tmp_path / "x.csv", "text,score,label\na,0.5,1\nb, -3 ,02\nc,1e3,x\n"))
    roles = (Role("score", kinds=(NUMBER,)), LABEL_ROLE)
    rows = role_rows(found, roles, find_columns(found, roles, {}), [0, 1, 2])
    assert rows == [{"score": 0.5, "label": "1"}, {"score": -3, "label": "02"}, {"score": 1000.0, "label": "x"}]
    whole = (Role("label", kinds=(WHOLE,)),)
    assert role_rows(found, whole, {"label": "label"}, [1, 0]) == [{"label": 2}, {"label": 1}]
    message = refusal(lambda: role_rows(found, whole, {"label": "label"}, [2]))
    assert "'x' in `x.csv`, line 4" in message


@pytest.mark.parametrize("score", ["", "abc", "nan", "inf", "-inf", "1_000", "0x10", "1,5", "٣", "1e999"])
def test_a_text_that_is_no_finite_number_is_refused_with_its_place(tmp_path: Path, score: str) -> None:
    found = open_table(write(tmp_path / "x.csv", f'text,score\na,1\n"b","{score}"\n'))
    roles = (Role("score", kinds=(NUMBER,)),)
    assert "line 3" in refusal(lambda: role_rows(found, roles, {"score": "score"}, [0, 1]))


def test_floating_numbers_that_are_whole_may_stand_for_whole_ones(tmp_path: Path) -> None:
    """As pandas keeps whole numbers where one was missing once."""
    found = table(tmp_path, *({"label": label} for label in (1.0, -3.0, 2.5, float("nan"), float("inf"), 1e300)))
    roles = (Role("label", kinds=(WHOLE, TEXT)),)
    assert [row["label"] for row in role_rows(found, roles, {"label": "label"}, [0, 1])] == [1, -3]
    for index in (2, 3, 4, 5):
        assert f"line {index + 1}" in refusal(
            lambda index=index: role_rows(found, roles, {"label": "label"}, [0, index])
        )
    number = (Role("label", kinds=(NUMBER,)),)
    assert role_rows(found, number, {"label": "label"}, [2]) == [{"label": 2.5}]
    for index in (3, 4):
        refusal(lambda index=index: role_rows(found, number, {"label": "label"}, [index]))


TOKENS = (Role("tokens", kinds=(WHOLES, TEXTS)),)


@pytest.mark.parametrize("tokens", [[1, "a"], [1, 2.5], [[1]]])
def test_a_list_of_several_kinds_is_refused(tmp_path: Path, tokens: list[Any]) -> None:
    assert "list of" in refusal(lambda: find_columns(table(tmp_path, {"tokens": tokens}), TOKENS, {}))
    assert find_columns(table(tmp_path, {"tokens": []}, {"tokens": [1]}), TOKENS, {}) == {"tokens": "tokens"}


@pytest.mark.parametrize("tokens", [[1, None], [None], ["a", None]])
def test_a_list_with_gaps_is_refused_with_its_place(tmp_path: Path, tokens: list[Any]) -> None:
    found = table(tmp_path, {"tokens": [1]}, {"tokens": tokens})
    message = refusal(lambda: role_rows(found, TOKENS, {"tokens": "tokens"}, [0, 1]))
    assert "something is absent in `x.jsonl`, line 2" in message


def test_a_value_that_is_absent_or_of_another_kind_is_refused_with_its_place(tmp_path: Path) -> None:
    found = table(tmp_path, {"text": "a", "label": 1}, {"text": None, "label": 1}, {"label": 1}, {"text": "a"})
    columns = find_columns(found, ROLES, {})
    assert role_rows(found, ROLES, columns, [0]) == [{"text": "a", "label": 1}]
    for index, role in ((1, "text"), (2, "text"), (3, "label")):
        message = refusal(lambda index=index: role_rows(found, ROLES, columns, [0, index]))
        assert f"`{role}`" in message
        assert f"absent in `x.jsonl`, line {index + 1}" in message


def test_an_optional_role_may_have_rows_without_a_value(tmp_path: Path) -> None:
    found = table(tmp_path, {"text": "a", "pair": "b", "label": 1}, {"text": "c", "label": 2})
    columns = find_columns(found, ROLES, {})
    assert [row["pair"] for row in role_rows(found, ROLES, columns, [1, 0])] == [None, "b"]


def test_a_column_of_values_of_several_kinds_is_refused_by_its_kinds(tmp_path: Path) -> None:
    found = table(tmp_path, {"text": "a", "label": 1}, {"text": 3, "label": "x"})
    assert "is text or whole number" in refusal(lambda: find_columns(found, ROLES, {}))
    assert find_columns(found, (LABEL_ROLE,), {}) == {"label": "label"}


def test_names_of_columns_cannot_forge_a_line_of_a_message(tmp_path: Path) -> None:
    found = table(tmp_path, {"a\n\x1b[2Jb": 1})
    message = refusal(lambda: find_columns(found, ROLES, {}))
    assert "\n" not in message
    assert "\x1b" not in message


def test_task_options_inherit_those_of_tables() -> None:
    options = parse_options(
        TableOptions, {"columns": {"text": "body"}, "limit": 3}, owner="task `x`", error=TaskError, code="x"
    )
    assert options == TableOptions(columns={"text": "body"}, split=None, limit=3)
    assert [each["name"] for each in describe_options(TableOptions)] == ["columns", "split", "limit"]
    for wrong in ({"limit": 0}, {"columns": {"text": 3}}, {"columns": "text"}, {"split": 1}):
        with pytest.raises(TaskError):
            parse_options(TableOptions, wrong, owner="task `x`", error=TaskError, code="x")
