"""The files of a result, found by its report and compared with it. Nothing that the report says is believed."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ladle._reports import REPORT_FILE, NotAResult, not_ours, read_report
from ladle_report import PAGE_FILE, answer
from ladle_report.markdown_text import words

OTHERS = ("README.md", "coefficients.json", "statistics.safetensors", PAGE_FILE, REPORT_FILE)
"""What Ladle writes and the report has no digest of: it is made from the report, or is the report."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A result that is what its report says."""

    folder: Path
    title: str
    """`Average of 5 checkpoints (twa)`, for a commit."""
    answer: str
    """What came out, in one sentence of Markdown."""
    report: Mapping[str, Any]
    files: Mapping[str, str | None]
    """Name -> SHA-256, where it is known."""
    changed: tuple[str, ...]
    """Side files, such as `config.json`, that somebody has edited since."""
    others: tuple[str, ...]
    """Files in the folder that are not the result's."""


def open_result(folder: Path) -> Result:
    """Reads every byte that the report has a digest of. Raises `NotAResult`, or OSError."""
    folder = folder.resolve()
    report, _ = read_report(folder)
    try:
        written, beside = _digests(report["files"]), _digests(report["inputs"]["side_files"])
        count = len(report["checkpoints"])
        is_best = report["winner"] == "best"
        title = (
            f"The best of {count} checkpoints" if is_best else f"Average of {count} checkpoints ({report['winner']})"
        )
        told = words(answer(report))
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise not_ours() from error
    if not written:
        raise not_ours()
    there = set(_files_in(folder))
    for name, digest in written.items():
        if name not in there:
            raise NotAResult(f"its file `{name}` is missing")
        if _sha256(folder / name) != digest:
            raise NotAResult(f"its file `{name}` is not the one that Ladle wrote: the SHA-256 differs")
    side_files = {name: digest for name, digest in beside.items() if name in there and name not in written}
    others = {name: None for name in OTHERS if name in there and name not in written}
    changed = [name for name, digest in side_files.items() if _sha256(folder / name) != digest]
    known: dict[str, str | None] = {**written, **dict.fromkeys(side_files), **others}
    return Result(
        folder=folder,
        title=title,
        answer=told,
        report=report,
        files=dict(sorted(known.items())),
        changed=tuple(changed),
        others=tuple(sorted(there - known.keys())),
    )


def _digests(given: Mapping[Any, Any]) -> dict[str, str]:
    found = {}
    for name, digest in given.items():
        if not _is_inside(name) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(name)
        found[name] = digest
    return found


def _is_inside(name: object) -> bool:
    """Whether it is a plain path below the folder."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name


def _files_in(folder: Path) -> Iterator[str]:
    """Every file that is no link, and lies behind none."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(where, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
