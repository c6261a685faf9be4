"""Foreign text in Markdown, safe to render: names of checkpoints and tensors, labels, warnings with a plug-in's words.

Whatever is not a plain word becomes a code span, in which Markdown has no meaning at all.
"""

from __future__ import annotations

import re

from ladle_report.safe_text import one_line

_PLAIN = re.compile(r"[+-]?\d+(?:[.,]\d+)*%?|[^\W\d_][^\W_]*(?:['/-][^\W_]+)*|[%=-]?")
"""A number or a word. A dot inside a word would make a link of `evil.example`."""
_LIST_ITEM = re.compile(r"\d+[.)]|-")
_QUOTED = re.compile(r"`([^`]+)`")


def code(text: str) -> str:
    """A code span on one line, with more backticks around it than in it."""
    shown = one_line(text)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    # A space at both ends is taken off again by the reader.
    pad = " " if not shown.strip() or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def words(text: str) -> str:
    """A sentence on one line. What is in backticks stays a code span, and what is no plain word becomes one."""
    told = ""
    for index, part in enumerate(_QUOTED.split(one_line(text).strip(" "))):
        # Every second part is what stood in backticks.
        for piece in [code(part)] if index % 2 else map(_plain, re.split("( +)", part)):
            # Two code spans that touch would become one.
            told += f" {piece}" if told.endswith("`") and piece.startswith("`") else piece
    first = told.partition(" ")[0]
    return code(first) + told.removeprefix(first) if not first or _LIST_ITEM.fullmatch(first) else told


def cell(text: str) -> str:
    """`words` in a table, where a `|` ends a cell even in a code span."""
    return words(text.replace("|", r"\x7c"))


def _plain(word: str) -> str:
    """A word, or the spaces between two: quotes, brackets and marks around it stay outside its code span."""
    opened = word.lstrip("(\"'")
    core = opened.rstrip(")\"'.,;:!?")
    if not core.strip(" ") or _PLAIN.fullmatch(core):
        return word
    return f"{word[: len(word) - len(opened)]}{code(core)}{opened[len(core) :]}"
