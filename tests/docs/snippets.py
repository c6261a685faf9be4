"""The snippets of the documents: where each stands, what it is, and why it is not run if it says so."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for path in (
        *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").rglob("*.md"),
    )
    if path.name != "CHANGELOG.md"
]  # fmt: skip
"""What is written for users. The changelog tells of the past."""
CONSOLE = ("console", "sh", "bash")
FOR_A_SERVICE = "from ladle import"
"""A Python snippet with this needs a running service; `tests/integration/test_api_docs.py` has one."""

FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$"
    r"(?:\n(?P=indent)<!-- not run: (?P<after>.+?) -->$)?",
    re.MULTILINE | re.DOTALL,
)
BEFORE = re.compile(r"<!-- not run: (.+?) -->\n *\Z")
INDENTED = re.compile(r"^    +(?:\$ )?(ladle .+)$", re.MULTILINE)
INLINE = re.compile(r"`(?:nice -n \d+ )?ladle ([a-z][^`]*)`")
OPTION = re.compile(r"`(--[a-z][a-z-]+)[ =`]")


@dataclass(frozen=True)
class Snippet:
    """A fenced block. `why_not` is the reason that stands right before or right after it."""

    page: str
    line: int
    language: str
    text: str
    why_not: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


def snippets_of(page: str) -> list[Snippet]:
    """The fenced blocks of one page, in order."""
    text = (REPOSITORY / page).read_text()
    found = []
    for block in FENCED.finditer(text):
        before = BEFORE.search(text[: block.start()])
        why_not = block["after"] or (before[1] if before else None)
        line = text.count("\n", 0, block.start()) + 2
        found.append(Snippet(page, line, block["language"], textwrap.dedent(block["text"]), why_not))
    return found


def all_snippets() -> list[Snippet]:
    """Of every page."""
    return [snippet for document in DOCUMENTS for snippet in snippets_of(name_of(document))]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every line of every page that calls `ladle`, with what would reach the program: `(page, arguments)`."""
    for snippet in all_snippets():
        if snippet.language in ("", *CONSOLE):
            yield from ((snippet.page, words) for words in _calls(snippet.text))
    for document in DOCUMENTS:
        for found in INDENTED.finditer(_prose(document)):
            yield from ((name_of(document), words) for words in _calls(found[1]))


def mentions() -> Iterator[tuple[str, str]]:
    """Each command in running text, such as `ladle list --state STATE`: `(page, what stands after ladle)`."""
    for document in DOCUMENTS:
        for found in INLINE.finditer(_prose(document)):
            yield name_of(document), found[1]


def options() -> Iterator[tuple[str, str]]:
    """Each option that stands alone in running text: `(page, option)`."""
    for document in DOCUMENTS:
        for found in OPTION.finditer(_prose(document)):
            yield name_of(document), found[1]


def _prose(document: Path) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", document.read_text())


def _calls(text: str) -> Iterator[list[str]]:
    """The arguments of each call of `ladle` in a shell's text: without comments, prompts, variables and pipes."""
    for line in text.replace("\\\n", " ").splitlines():
        call = re.match(r"^\s*(?:\$ )?(?:[A-Z_]+=\S* )*(?:nice -n \d+ )?ladle ([a-z-].*)$", line)
        if call:
            words = shlex.split(call[1], comments=True)
            ends = [words.index(word) for word in words if word in ("|", ">", "2>", "&&", "&")]
            yield words[: min(ends, default=len(words))]
