"""The pages of the site: which there are, in which order, and what is done to each on its way into the site."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.site import notebooks

REPOSITORY = Path(__file__).parents[2]
CONTENTS = REPOSITORY / "docs" / "README.md"
"""The table of contents: a heading of level 2 is a section, and an item of the list below it is a page."""
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/results/*.md", "examples/**/*.md")
"""Documents outside `docs` to which its pages link."""
BELOW = {"docs/methods.md": "methods/*", "docs/tasks.md": "tasks/*", "docs/decisions/README.md": "0*"}
"""Page -> the pages that are below it in the navigation."""

ITEM = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<target>[^)]+)\): (?P<about>.+)$", re.MULTILINE)
REASON = re.compile(r"^( *)<!-- not run: (.+?) -->$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


@dataclass(frozen=True)
class Page:
    """An entry of the table of contents. `path` is relative to the repository."""

    title: str
    path: str
    about: str


@dataclass(frozen=True)
class Generated:
    """A page that is made when the site is built, and the section that it belongs to."""

    section: str
    page: Page
    text: str


@dataclass(frozen=True)
class Section:
    """A section of the navigation."""

    title: str
    pages: tuple[Page, ...]


def contents(generated: Sequence[Generated] = ()) -> list[Section]:
    """The sections of `docs/README.md`, each followed by its generated pages."""
    parts = re.split(r"^## (.+)$", CONTENTS.read_text(), flags=re.MULTILINE)[1:]
    return [
        Section(title, (*_entries(body), *(each.page for each in generated if each.section == title)))
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def _entries(body: str) -> Iterator[Page]:
    for found in ITEM.finditer(body):
        path = (CONTENTS.parent / found["target"]).resolve().relative_to(REPOSITORY)
        yield Page(found["title"], path.as_posix(), found["about"])


def gather(source: Path, generated: Sequence[Generated]) -> None:
    """Fills the folder `source` with all that Sphinx reads."""
    sections = contents(generated)
    listed = {page.path for section in sections for page in section.pages}
    for path in _documents():
        _copy(path, source, listed)
    for each in generated:
        _write(source / each.page.path, each.text)
    _write(source / "index.md", _index(sections))


def _documents() -> Iterator[Path]:
    docs = REPOSITORY / "docs"
    yield from (path for path in sorted(docs.rglob("*.md")) if path != CONTENTS)
    yield from sorted(docs.rglob("*.ipynb"))
    yield from (path for pattern in BESIDE for path in sorted(REPOSITORY.glob(pattern)))


def _copy(path: Path, source: Path, listed: set[str]) -> None:
    """One document, with the files that it shows or links to."""
    name = path.relative_to(REPOSITORY).as_posix()
    text = notebooks.as_markdown(path) if path.suffix == ".ipynb" else path.read_text()
    for target, _ in LINK.findall(text):
        linked = path.parent / target
        if "://" not in target and linked.is_file() and linked.suffix not in (".md", ".ipynb"):
            copy = source / linked.resolve().relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(linked, copy)
    text = REASON.sub(r"\1*Not run by the tests: \2.*", text)
    text = text.replace(".ipynb)", ".md)").replace("docs/README.md)", "index.md)")
    if name in BELOW:
        text += _toctree([BELOW[name]], glob=True)
    if name not in listed and not any(
        Path(name).match(f"docs/{below}") for below in ("methods/*", "tasks/*", "decisions/0*")
    ):
        text = f"---\norphan: true\n---\n{text}"
    _write((source / name).with_suffix(".md"), text)


def _index(sections: Sequence[Section]) -> str:
    """The first page: the table of contents, and the navigation beside every page."""
    head = CONTENTS.read_text().split("\n## ", 1)[0].replace("](", "](docs/")
    parts = [head]
    for section in sections:
        rows = [f"- [{page.title}]({_site_path(page)}): {page.about}" for page in section.pages]
        parts.append("\n".join([f"## {section.title}", *rows]))
        tree = [f"{page.title.replace('`', '')} <{_site_path(page).removesuffix('.md')}>" for page in section.pages]
        parts.append(_toctree(tree, caption=section.title))
    return "\n\n".join(parts)


def _site_path(page: Page) -> str:
    return Path(page.path).with_suffix(".md").as_posix()


def _toctree(lines: Sequence[str], *, caption: str = "", glob: bool = False) -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else []), *([":glob:"] if glob else [])]
    return "\n".join(["", "```{toctree}", *options, "", *lines, "```", ""])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
