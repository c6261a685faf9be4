"""The scripts as texts: they are put together from files, in which a name must not mean two things."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ladle_contracts.transitions import SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_function_of_a_script_hides_another_one(name: str) -> None:
    """The files are written by different people, and Lua takes the last one without a word."""
    defined = Counter(re.findall(r"^local function (\w+)", SCRIPTS[name], re.MULTILINE))
    assert [function for function, count in defined.items() if count > 1] == []


BUILT_IN = {"ipairs", "pairs", "tonumber", "tostring", "unpack", "type", "next"}
WORDS = {"if", "and", "or", "not", "while", "for", "function", "return", "in", "elseif", "until"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_calls_only_functions_that_are_defined(name: str) -> None:
    """Lua notices it only when it comes to that line."""
    code = re.sub(r"--[^\n]*|'[^'\n]*'", "", SCRIPTS[name])
    given = [
        name.strip() for names in re.findall(r"\b(?:local |function \w+\()([\w, ]+)", code) for name in names.split(",")
    ]
    defined = set(re.findall(r"\blocal function (\w+)", code)) | set(given)
    called = set(re.findall(r"(?<![\w.:])([A-Za-z_]\w*)\s*\(", code))
    assert called - defined - BUILT_IN - WORDS == set()
