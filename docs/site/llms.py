"""`llms.txt`: what the site has, as one small Markdown file, and `llms-full.txt`: every page of it in one file.

The form is that of llmstxt.org: a title, a summary, and sections with lists of links.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from docs.site.pages import CONTENTS, Section


def write(sections: Sequence[Section], source: Path, html: Path) -> None:
    """Both files, beside the pages' sources, to which the first one links."""
    title, summary = CONTENTS.read_text().split("\n## ", 1)[0].strip().split("\n", 1)
    lines = [title, "", *(f"> {line}" for line in summary.strip().splitlines())]
    whole = []
    for section in sections:
        lines += ["", f"## {section.title}"]
        for page in section.pages:
            name = Path(page.path).with_suffix(".md")
            lines.append(f"- [{page.title}](pages/{name.as_posix()}): {page.about}")
            text = (source / name).read_text()
            copy = html / "pages" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)
            whole.append(text)
    (html / "llms.txt").write_text("\n".join(lines) + "\n")
    (html / "llms-full.txt").write_text("\n\n".join(whole))
