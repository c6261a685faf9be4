"""Foreign text becomes safe to show. Contracts and engine have the same file."""

from __future__ import annotations

import inspect
import sys
import unicodedata
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ladle_contracts.run_names
import ladle_contracts.safe_text
import ladle_report.run_names
import ladle_report.safe_text
from tests.hostile import HARMLESS, HOSTILE, NOT_UTF8, unsafe_in

MODULES = pytest.mark.parametrize(
    "module", [ladle_contracts.safe_text, ladle_report.safe_text], ids=lambda m: m.__name__
)


def test_contracts_and_reports_have_the_same_files() -> None:
    assert inspect.getsource(ladle_contracts.safe_text) == inspect.getsource(ladle_report.safe_text)
    assert inspect.getsource(ladle_contracts.run_names) == inspect.getsource(ladle_report.run_names)


@MODULES
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]8;;http://x\x07link", r"\x1b]8;;http://x\x07link"),
        ("\x9b31m", r"\x9b31m"),
        ("a\x7fb\x00c\x08", r"a\x7fb\x00c\x08"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("a\u2066b\u2069c\u200e\u061c", r"a\u2066b\u2069c\u200e\u061c"),
        ("pay\u200bpal\ufeff\u2060\xad", r"pay\u200bpal\ufeff\u2060\xad"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("a\u3164b\U000e0041", r"a\u3164b\U000e0041"),
        ("pay\u200dpal", r"pay\u200dpal"),
        ("\u200d\u200d", r"\u200d\u200d"),
        (NOT_UTF8, r"run-\udcff\udc80"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
    ],
)
def test_what_a_terminal_obeys_becomes_a_visible_escape(module: ModuleType, text: str, shown: str) -> None:
    assert module.one_line(text) == shown


@MODULES
def test_text_of_several_lines_keeps_its_newlines_and_tabs_alone(module: ModuleType) -> None:
    assert module.for_terminal("one\r\n\ttwo\x1b[A\x0b\x0c") == "one\\r\n\ttwo\\x1b[A\\x0b\\x0c"


@MODULES
@pytest.mark.parametrize("text", [HARMLESS, "plain/path-3.safetensors", "日本　語", "a\u00a0b", "C:\\runs\\[x]"])
def test_names_in_any_script_and_emoji_stay(module: ModuleType, text: str) -> None:
    assert module.one_line(text) == module.for_terminal(text) == text


def test_every_character_that_unicode_calls_a_control_or_a_format_is_escaped() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert ladle_contracts.safe_text.one_line(f"a{char}b").startswith("a\\"), ascii(char)


@settings(deadline=None)
@given(st.text() | st.text(alphabet=HOSTILE + NOT_UTF8 + HARMLESS))
def test_whatever_comes_stays_on_its_line_and_twice_is_once(text: str) -> None:
    once = ladle_contracts.safe_text.one_line(text)
    assert not unsafe_in(once) - {"\u200c", "\u200d"}
    assert len(once.splitlines()) <= 1
    assert ladle_contracts.safe_text.one_line(once) == once
