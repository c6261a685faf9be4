"""Options that are written wrong: the message says how they are meant."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from ladle_engine.errors import TaskError
from ladle_engine.options import did_you_mean, option, parse_options


@dataclass(frozen=True, kw_only=True)
class Options:
    columns: dict[str, str] = option({}, "names")
    mean: list[float] | None = option(None, "numbers")
    words: list[str] = option([], "texts")
    documents: str = option("file", "what a document is", one_of=("file", "line"))
    size: int = option(1, "a size")


def refusal(**given: object) -> str:
    with pytest.raises(TaskError) as caught:
        parse_options(Options, given, owner="task `x`", error=TaskError, code="invalid-task-options")
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("blue", ("loss", "bleu"), "bleu"),
        ("rougeL", ("rouge1", "rougel"), "rougel"),
        ("macro_f1", ("f1", "macro-f1"), "macro-f1"),
        ("f1", ("accuracy", "span-f1"), "span-f1"),
        ("acc", ("loss", "accuracy"), "accuracy"),
        ("text", ("Review_Text", "stars"), "Review_Text"),
    ],
)
def test_a_name_that_is_almost_right_is_told_of(name: str, known: tuple[str, ...], meant: str) -> None:
    assert did_you_mean(name, known) == f" Did you mean `{meant}`?"


@pytest.mark.parametrize("name", ["ppl", ""])
def test_a_name_like_no_other_gets_no_guess(name: str) -> None:
    assert did_you_mean(name, ("loss", "perplexity")) == ""


@pytest.mark.parametrize(
    ("name", "text"), [("columns", "{'text': 'body'}"), ("columns", "body"), ("mean", "0.5,0.5"), ("words", "a b")]
)
def test_a_text_where_json_is_needed_gets_an_example_that_works(name: str, text: str) -> None:
    example = refusal(**{name: text}).rpartition(f"'{name}=")[2].removesuffix("'.")
    parse_options(Options, {name: json.loads(example)}, owner="task `x`", error=TaskError, code="invalid-task-options")


def test_other_wrong_types_get_no_example() -> None:
    assert "JSON" not in refusal(size="many") + refusal(columns=["text"])


def test_a_choice_that_is_almost_right_is_told_of() -> None:
    assert refusal(documents="lines").endswith("but is 'lines'. Did you mean `line`?")
