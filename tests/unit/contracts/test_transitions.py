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


GIVEN_BY_LUA = {"ipairs", "pairs", "tonumber", "type", "unpack", "tostring"}
KEYWORDS = {"and", "elseif", "function", "if", "in", "not", "or", "return", "until", "while"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_function_that_a_script_calls_is_there(name: str) -> None:
    """Lua would notice only when it comes there."""
    code = re.sub(r"--.*|'[^']*'", "", SCRIPTS[name])
    known = set(re.findall(r"local function (\w+)", code)) | GIVEN_BY_LUA | KEYWORDS
    for names in re.findall(r"local ([\w, ]+?) =|function[ \w]*\(([^)]*)\)", code):
        known |= set(re.findall(r"\w+", " ".join(names)))
    assert set(re.findall(r"(?<![.:\w])(\w+)\(", code)) - known == set()
