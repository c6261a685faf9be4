"""A page, parsed as strictly as no browser does: what is opened is closed, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})


@dataclass
class Element:
    """One element with what is in it."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str = "") -> Iterator[Element]:
        """Itself and everything in it, of one name or of any."""
        if not name or self.name == name:
            yield self
        for child in self.children:
            yield from child.all(name)

    @property
    def whole_text(self) -> str:
        """Of itself and everything in it."""
        return self.text + "".join(child.whole_text for child in self.children)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.top = Element("", {})
        self.open = [self.top]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def parse(page: str) -> Element:
    """The whole page. An element that is never closed, or twice, is an error."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.top], [element.name for element in parser.open]
    return parser.top


def data_in(page: Element) -> dict[str, Any]:
    """The JSON in a page."""
    (element,) = (each for each in page.all("script") if each.attributes.get("id") == "report-data")
    found: dict[str, Any] = json.loads(element.text)
    return found
