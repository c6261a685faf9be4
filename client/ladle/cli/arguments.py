"""Options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RESULTS = Path("ladle-results")
"""The folder of results where none is named."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The service's address. By default that of `ladle up`. [env var: LADLE_URL]"),
]
Token = Annotated[str | None, typer.Option(metavar="TOKEN", help="The bearer token. [env var: LADLE_TOKEN]")]
