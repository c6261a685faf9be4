"""The pages that are generated from the code when the site is built."""

from __future__ import annotations

import ladle
import ladle_engine
from docs.site.command_reference import command_page
from docs.site.pages import Generated, Page
from docs.site.python_reference import python_page
from docs.site.rest_reference import rest_page

SECTION = "Reference"
CLIENT = "Every public name of `ladle`, the Python client. [The guide](client.md) has examples."
ENGINE = "Every public name of `ladle_engine`. [The guide](engine.md) has examples."


def generated() -> list[Generated]:
    """The pages, in the order in which they stand at the end of the section."""
    return [
        _page("All addresses of the REST API", "rest-api", "every request, parameter, answer and schema", rest_page()),
        _page("All commands and options", "commands", "the help of each command", command_page()),
        _page(
            "All names of the client", "client-api", "signatures and docstrings of `ladle`", python_page(ladle, CLIENT)
        ),
        _page(
            "All names of the engine",
            "engine-api",
            "signatures and docstrings of `ladle_engine`",
            python_page(ladle_engine, ENGINE),
        ),
    ]


def _page(title: str, name: str, about: str, text: str) -> Generated:
    return Generated(SECTION, Page(title, f"docs/{name}.md", about), f"# {title}\n\n{text}")
