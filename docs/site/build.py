"""Builds the documentation site: `make docs`, or `python -m docs.site.build [FOLDER]`.

The pages are gathered in a folder as they lie in the repository, so that links between them lead where they lead on
disk. The reference is generated beside them, and Sphinx turns all of it into HTML that needs no network. A warning of
Sphinx, such as a link that leads nowhere, is an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.site import llms, pages, reference

HERE = Path(__file__).parent
DEFAULT = pages.REPOSITORY / ".cache" / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT, help="default: .cache/docs")
    folder = parser.parse_args().folder.resolve()
    code = build(folder)
    if code == 0:
        print(f"Open {folder / 'html' / 'index.html'}")
    return code


def build(folder: Path) -> int:
    """Fills `folder/html`, anew. The exit code of Sphinx: not 0 after a warning."""
    source, html = folder / "source", folder / "html"
    for made in (source, html):
        shutil.rmtree(made, ignore_errors=True)
    generated = reference.generated()
    pages.gather(source, generated)
    code = build_main(
        [
            "-c",
            str(HERE),
            "-b",
            "html",
            "-d",
            str(folder / "doctrees"),
            "-W",
            "--keep-going",
            "-q",
            str(source),
            str(html),
        ]
    )
    if code == 0:
        llms.write(pages.contents(generated), source, html)
    return code


if __name__ == "__main__":
    sys.exit(main())
