"""What the service and the workers read alike from environment variables that begin with `LADLE_`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ladle_contracts.far_urls import BadUrl, as_url, local_path, parse_url, shown_url
from ladle_contracts.rules import BrokenRule, broken_rules

PREFIX = "LADLE_"


def split_paths(value: Any) -> Any:
    """`/data:/more` as two paths."""
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def split_roots(values: Any) -> Any:
    """`LADLE_ROOTS` as folders, `roots`, and addresses such as `s3://bucket/runs`, `far_roots`. Raises ValueError."""
    if not isinstance(values, dict) or "roots" not in values:
        return values
    parts = _with_urls(values["roots"]) if isinstance(values["roots"], str) else list(values["roots"])
    folders: list[Any] = []
    addresses: list[str] = []
    for part in parts:
        url = as_url(part)
        if url is None:
            folders.append(part)
            continue
        try:
            local = local_path(url)
            folders += [] if local is None else [local]
            addresses += [str(parse_url(url))] if local is None else []
        except BadUrl as error:
            raise ValueError(
                f"`LADLE_ROOTS` must hold folders and addresses, but of `{shown_url(url)}` {error}."
            ) from None
    if not folders and not addresses:
        raise ValueError("`LADLE_ROOTS` must hold at least one folder or address, but is empty.")
    return values | {"roots": tuple(folders), "far_roots": (*values.get("far_roots", ()), *addresses)}


def _with_urls(text: str) -> list[str]:
    """`/data:s3://bucket/runs:http://host:8000/a` as three parts: the colons of an address do not end it."""
    parts: list[str] = []
    for part in text.split(os.pathsep):
        before = parts[-1] if parts else ""
        is_rest = bool(
            (re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", before) and part.startswith("//"))
            # A port, or a password: that is refused as a whole, and not shown.
            or (re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]+", before) and re.match(r"[0-9]+(/|$)|[^/]*@", part))
        )
        if is_rest:
            parts[-1] += f"{os.pathsep}{part}"
        else:
            parts.append(part)
    return [part for part in parts if part]


def check_absolute(roots: tuple[Path, ...], results_dir: Path) -> None:
    """Raises ValueError for a relative path: what it means would depend on where the program was started."""
    paths: Mapping[str, tuple[Path, ...]] = {"LADLE_ROOTS": roots, "LADLE_RESULTS_DIR": (results_dir,)}
    for name, each in paths.items():
        for path in each:
            if not path.is_absolute():
                raise ValueError(f"`{name}` must hold absolute paths, but has {str(path)!r}.")


def explain_settings(error: ValidationError) -> list[str]:
    """One sentence for each variable that is wrong. No value is repeated, because it may hold a password."""
    return [_explain(each) for each in broken_rules(error)]


def _explain(broken: BrokenRule) -> str:
    if not broken.field:
        return broken.rule
    rule = broken.rule.replace("must be given", "must be set")
    return f"`{PREFIX}{broken.field.upper().replace('.', '_')}` {rule}."
