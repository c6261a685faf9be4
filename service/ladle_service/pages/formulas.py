"""Formulas as MathML. A node sends them as plain text, `alpha_i = (1 - decay) decay^(K-i)`, which is readable itself.

`_` and `^` begin what is below or above; `a/b` is a fraction; round brackets after `_` and `^` and around a part of a
fraction only group. A word of several letters is upright, a single one is a variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

GREEK = ("alpha", "beta", "gamma", "delta", "eta", "lambda", "mu", "sigma", "theta")
SIGNS = {"sum": "sum;", "-": "minus;", "<=": "le;", ">=": "ge;", "<-": "larr;", "*": "sdot;", "in": "isin;"}
_TOKEN = re.compile(r"<=|>=|<-|[A-Za-z]+|[0-9]+(?:\.[0-9]+)?|\S")
_CLOSES = {"(": ")", "[": "]", "{": "}", "|": "|"}
_SUM = html5["sum;"]


def mathml(formula: str) -> Markup:
    """One formula, as a line of its own."""
    math = Element("math", display="block", alttext=formula)
    math.append(_Reader(_TOKEN.findall(formula)).row())
    return Markup(tostring(math, encoding="unicode"))  # noqa: S704  # ElementTree has escaped what is in it


@dataclass
class _Reader:
    tokens: list[str]
    at: int = 0

    def row(self, until: str = "") -> Element:
        """All parts up to a closing bracket, or the end."""
        return _made("mrow", *self._parts(until))

    def _parts(self, until: str) -> Iterator[Element]:
        while self.at < len(self.tokens) and self.tokens[self.at] != until:
            part = self._with_scripts()
            while self._take("/"):
                part = _made("mfrac", _bare(part), _bare(self._with_scripts()))
            yield part

    def _with_scripts(self) -> Element:
        """An atom with what is below and above it."""
        atom = self._atom()
        below = _bare(self._atom()) if self._take("_") else None
        above = _bare(self._atom()) if self._take("^") else None
        under, over = ("under", "over") if atom.text == _SUM else ("sub", "sup")
        if below is not None and above is not None:
            return _made(f"m{under}{over}", atom, below, above)
        if below is not None:
            return _made(f"m{under}", atom, below)
        return atom if above is None else _made(f"m{over}", atom, above)

    def _atom(self) -> Element:
        if self.at >= len(self.tokens):
            return Element("mrow")
        word = self.tokens[self.at]
        self.at += 1
        if word == "sqrt":
            return _made("msqrt", _bare(self._atom()))
        if _is_plain(word):
            return _text("mtext", f"\xa0{' '.join([word, *self._plain_words()])}\xa0")
        if word not in _CLOSES:
            return _leaf(word)
        inside = self.row(_CLOSES[word])
        self._take(_CLOSES[word])
        return _made("mrow", _leaf(word), inside, _leaf(_CLOSES[word]))

    def _plain_words(self) -> Iterator[str]:
        while self.at < len(self.tokens) and _is_plain(self.tokens[self.at]):
            self.at += 1
            yield self.tokens[self.at - 1]

    def _take(self, word: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at] == word
        self.at += found
        return found


def _is_plain(word: str) -> bool:
    """Whether it is a word of a language, and no name of a letter or a sign."""
    return len(word) > 1 and word[0].isalpha() and word not in (*GREEK, *SIGNS, "sqrt")


def _leaf(word: str) -> Element:
    if word in SIGNS or not word[0].isalnum():
        return _text("mo", html5[SIGNS[word]] if word in SIGNS else word)
    if word[0].isdigit():
        return _text("mn", word)
    return _text("mi", html5[f"{word};"] if word in GREEK else word)


def _text(tag: str, text: str) -> Element:
    made = Element(tag)
    made.text = text
    return made


def _made(tag: str, *parts: Element) -> Element:
    if tag == "mrow" and len(parts) == 1:
        return parts[0]
    made = Element(tag)
    made.extend(parts)
    return made


def _bare(part: Element) -> Element:
    """Without the brackets that only group."""
    return part[1] if part.tag == "mrow" and len(part) == 3 and part[0].text == "(" else part
