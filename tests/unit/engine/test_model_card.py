"""The model card: what a report says is text in it, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ladle_engine import average
from ladle_engine.pipeline.model_card import model_card
from ladle_report.markdown_text import cell, code, words
from ladle_report.safe_text import one_line
from tests.hostile import HARMLESS, HOSTILE, NOT_UTF8, unsafe_in
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
LINKED = re.compile(r"://|www\.|@|\w\.[^\W\d]")
"""What GitHub makes a link of, though nothing marks it as one."""
HOSTILE_TEXTS = (
    HOSTILE, NOT_UTF8, "", " ", "`", "``", "a`", "`a", "`` ` ``", "|", r"a\|b", "\\", "---", "- x", "1. x", "1)", "# x",
    "<b>", "<!-- x", "</code><img src=x onerror=alert(1)>", "[a](http://x)", "![a](http://x)", "[x]: http://evil",
    "<http://evil.example>", "http://evil.example", "www.evil.example", "me@evil.example", "**b** _i_ ~~s~~",
    "&lt;b&gt;",
    "a  \nb", "---\ntags: [x]\n---", "```\ncode", "~~~", "    indented", "> quote", "=== ", "`a` <b> `c", "`a`<b>`c`",
)  # fmt: skip
FOREIGN = st.text() | st.text(alphabet="`|\\<>[]()!*_#-=~ \n\tab1.:/@&\"'") | st.sampled_from(HOSTILE_TEXTS)


def tokens(markdown: str) -> Iterator[Token]:
    """Every token, also those inside a line."""
    for token in PARSER.parse(markdown):
        yield token
        yield from token.children or ()


def text_of(markdown: str) -> str:
    """What a reader sees."""
    return "".join(token.content for token in tokens(markdown) if token.type in ("text", "code_inline"))


def kinds(markdown: str) -> list[str]:
    return [token.type for token in tokens(markdown)]


PLAIN = {"inline", "text", "code_inline", "paragraph_open", "paragraph_close"}


@settings(max_examples=80, deadline=None)
@given(FOREIGN)
def test_a_code_span_shows_the_text_as_it_is(text: str) -> None:
    assert kinds(code(text)) == ["paragraph_open", "inline", "code_inline", "paragraph_close"]
    assert text_of(code(text)).strip(" ") == one_line(text).strip(" ")
    assert not unsafe_in(code(text)) - {"\u200c", "\u200d"}


@settings(max_examples=80, deadline=None)
@given(FOREIGN)
@example("The file `a` must be whole, but is `<b>`.")
def test_a_sentence_is_a_paragraph_of_text_and_code(text: str) -> None:
    assert set(kinds(words(text))) <= PLAIN
    item = kinds(f"- {words(text)}")
    assert item[:2] + item[-2:] == ["bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close"]
    assert set(item[2:-2]) <= PLAIN
    assert not LINKED.search(" ".join(token.content for token in tokens(words(text)) if token.type == "text"))
    without = str.maketrans("", "", " `")
    assert text_of(words(text)).translate(without) == one_line(text).translate(without), "nothing is lost"


@settings(max_examples=80, deadline=None)
@given(FOREIGN, FOREIGN)
def test_a_cell_stays_in_its_row_and_column(one: str, two: str) -> None:
    table = f"| a | b |\n|---|---|\n| {cell(one)} | **{cell(two)}** |\n\nafter"
    found = kinds(table)
    assert (found.count("tr_open"), found.count("td_open"), found.count("paragraph_open")) == (2, 2, 1)
    assert not {"html_inline", "html_block", "link_open", "image"} & set(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The file `a_b` is 5 % larger (3 of 16), see x.", "The file `a_b` is 5 % larger (3 of 16), see x."),
        ("best (epoch-3.safetensors)", "best (`epoch-3.safetensors`)"),
        ("see http://evil.example, or <b>", "see `http://evil.example`, or `<b>`"),
        ("größe der Läufe", "größe der Läufe"),
    ],
)
def test_plain_words_stay_plain(text: str, told: str) -> None:
    assert words(text) == told


def test_checkpoints_with_hostile_names_make_a_card_that_is_only_text(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    for index, path in enumerate(sorted((tmp_path / "checkpoints").iterdir())):
        path.rename(path.with_name(f"{index} {HOSTILE[:180].translate({0: None, 47: 45})}{path.suffix}"))
    average(tmp_path / "checkpoints", "data", output=tmp_path / "out", task=ToyTask(plain_net), method="uniform")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "evil.example" in card
    assert not unsafe_in(card)
    assert not {"html_inline", "html_block", "link_open"} & set(kinds(card))
    sources = [token.attrs["src"] for token in tokens(card) if token.type == "image"]
    assert sources == ["candidates.png", "merge-curve.png", "weights.png"]
    parsed = PARSER.parse(card.partition("\n---\n")[2])
    headings = [parsed[index + 1].content for index, token in enumerate(parsed) if token.type == "heading_open"]
    assert {heading.split()[0] for heading in headings} <= {"Average", "Left", "Load", "Rebuild", "Made", "Warnings"}
    for name in ("report.json", "coefficients.json"):
        assert (tmp_path / "out" / name).read_text().isascii()


def report(text: str) -> dict[str, Any]:
    """A report in which everything that is not a number is `text`."""
    row: dict[str, Any] = {"select": {text: 0.5, "loss": 0.5}, "gain": 0.1, "gain_low": 0.0, "gain_high": 0.2}
    row |= {"sets": {text: dict(row), "other": dict(row)}, "fit": {text: 0.5}}
    return {
        "winner": text,
        "metric": {"name": text, "higher_is_better": True},
        "gain": {"value": 0.1, "low": 0.05, "high": 0.2},
        "candidates": [{"method": "best", "label": text, **row}, {"method": text, "label": text, **row}],
        "checkpoints": [{"name": text, "not_its_own": [text]}, {"name": "plain", "not_its_own": []}],
        "left_out": {"taken_from": {text: [text, "head"]}, "dropped": [text]},
        "splits": {"fit": 1, "select": 1, "fit_judged": 1},
        "validation_sets": {text: {"weight": 0.5, "select": 3}, "other": {"weight": 0.5, "select": 3}},
        "statistics": {"fit_loss": {}, "mixtures": None},
        "warnings": [text, "second"],
        "versions": {"ladle": "1"},
    }


def test_the_card_tells_a_tiny_gain_from_an_equal_score() -> None:
    told = report("bleu")
    told["candidates"][1] |= {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    told["candidates"].append({**told["candidates"][1], "gain": 2e-5, "gain_low": -1e-5, "gain_high": 0.1})
    card = model_card(told)
    assert "| equal | equal |" in card
    assert "| 2e-05 higher | 1e-05 lower to 0.1000 higher |" in card


def test_a_checkpoint_that_no_average_beats_is_not_called_an_average() -> None:
    told = report("bleu")
    assert f"# Average of {len(told['checkpoints'])} checkpoints (" in model_card(told)
    told["candidates"][0]["coefficients"] = [[1.0]]
    card = model_card({**told, "winner": "best"})
    assert f"# The best of {len(told['checkpoints'])} checkpoints\n" in card
    assert "# Average of" not in card


def test_the_card_says_what_the_interval_counts_and_what_would_show_the_gain() -> None:
    told = report("accuracy")
    told["gain"]["low"] = -0.05
    assert "holds for all candidates at once" not in model_card(told)
    told["choice"] = {"method": "accuracy", "averages": 28, "visible_gain": 0.3, "examples_needed": 941}
    card = model_card(told)
    assert "it counts that the best of 28 averages was picked on the same examples" in card
    assert (
        "The interval includes zero, so this may be chance. With 1 held-out example, a gain of 30.00 points is seen "
        "four times in five. To see one as large as the difference of `accuracy` takes about 950." in card
    )
    sure = model_card({**told, "gain": {"value": 0.1, "low": 0.05, "high": 0.2}})
    assert "takes about" not in sure


def test_the_card_says_where_the_loss_decided() -> None:
    told = report("accuracy")
    told["candidates"][0] |= {"gain": 0.0, "coefficients": [[1.0]], "sets": {}}
    told["candidates"][1] |= {"sets": {}}
    assert "so the lower loss decided" not in model_card(told)
    decided = "By accuracy `accuracy` is ahead, but the difference may be chance, so the lower loss decided."
    assert f"{decided} So this is the best checkpoint" in model_card({**told, "winner": "best"})
    told["candidates"].append({**told["candidates"][1], "method": "ema", "label": "ema", "gain": 0.2})
    assert decided.replace("`accuracy`", "`ema`") in model_card(told)


def skeleton(card: str) -> list[str]:
    """The card's structure, without what stands inside its lines."""
    return [token.type for token in PARSER.parse(card.partition("\n---\n")[2]) if token.type != "inline"]


@settings(max_examples=80, deadline=None)
@given(FOREIGN)
@example(HOSTILE)
@example(NOT_UTF8)
@example(HARMLESS)
def test_no_report_changes_the_structure_of_the_card(text: str) -> None:
    card = model_card(report(text))
    assert skeleton(card) == skeleton(model_card(report("plain")))
    assert not {"html_inline", "html_block", "link_open", "image", "hardbreak"} & set(kinds(card))
    assert not unsafe_in(card) - {"\u200c", "\u200d"}
    assert not LINKED.search(" ".join(token.content for token in tokens(card) if token.type == "text"))
    card.encode()
    front = card.removeprefix("---\n").partition("\n---\n")[0]
    assert list(yaml.safe_load(front)) == ["library_name", "tags", "model-index"]
    card_read = ModelCard(card)
    assert str(card_read) == card, "the Hub reads what was written"
    assert [(each.metric_value, each.dataset_type) for each in card_read.data.eval_results] == [(0.5, "unknown")] * 4
