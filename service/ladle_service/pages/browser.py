"""The folder browser inside the form: what is open in it, and what a press of one of its buttons changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ladle_contracts.roots import PathNotAllowed
from ladle_service.pages.folders import Listing, list_folder, roots_there
from ladle_service.settings import Settings

FIELD, PATH, WANTED = "browser.field", "browser.path", "browser.wanted"
"""Names of its controls."""
MANY = ("ckpt_dir", "val_set")
"""Fields that take several paths."""


@dataclass(frozen=True, kw_only=True)
class Browser:
    """What is open for one field."""

    field: str
    listing: Listing | None
    """None where the roots are listed."""
    roots: dict[str, bool]
    """Root -> whether this process sees it."""
    far_roots: tuple[str, ...]
    wanted: str
    can_add: bool
    """Whether the field has a path, and may have another one."""
    problem: str | None = None


def press(texts: dict[str, str], verb: str, argument: str) -> None:
    """What a button does to the texts of the form."""
    match verb:
        case "browse":
            texts |= {FIELD: argument, PATH: _first_path(texts.get(argument, "")), WANTED: ""}
        case "open":
            texts |= {PATH: argument, WANTED: ""}
        case "use":
            texts[texts.get(FIELD, "")] = argument
            _close(texts)
        case "add":
            field = texts.get(FIELD, "")
            texts[field] = "\n".join(filter(None, (texts.get(field, "").rstrip(), argument)))
        case "close":
            _close(texts)


async def open_browser(texts: dict[str, str], settings: Settings, page: int = 1) -> Browser | None:
    """What to show; None if it is closed. A path that is not there is told, and the roots are shown."""
    field, path, wanted = (texts.get(name, "") for name in (FIELD, PATH, WANTED))
    if not field:
        return None
    roots = await asyncio.to_thread(roots_there, settings.roots)
    there = [root for root, is_there in roots.items() if is_there]
    if not path and len(there) == 1 and not settings.far_roots:
        path = str(there[0])
    listing, problem = None, None
    if path:
        try:
            listing = await asyncio.to_thread(list_folder, path, settings.roots, wanted=wanted, page=page)
        except (PathNotAllowed, OSError):
            problem = _problem(path, settings.roots)
    return Browser(
        field=field,
        listing=listing,
        roots={str(root): is_there for root, is_there in roots.items()},
        far_roots=settings.far_roots,
        wanted=wanted,
        can_add=field in MANY and bool(texts.get(field, "").strip()),
        problem=problem,
    )


def _problem(path: str, roots: Sequence[Path]) -> str:
    """The same for what is missing and for what is outside."""
    return f"`{path}` must be an existing folder inside {' or '.join(f'`{root}`' for root in roots)}, but is not."


def _first_path(text: str) -> str:
    """Where to begin: at what stands in the field."""
    first = text.strip().splitlines()[0].strip() if text.strip() else ""
    if not first.startswith("/"):
        first = first.partition("=")[2]
    return first if first.startswith("/") and "://" not in first else ""


def _close(texts: dict[str, str]) -> None:
    texts |= {FIELD: "", PATH: "", WANTED: ""}
