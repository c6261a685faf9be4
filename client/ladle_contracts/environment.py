"""What the service and the workers read alike from environment variables that begin with `LADLE_`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ladle_contracts.rules import BrokenRule, broken_rules

PREFIX = "LADLE_"


def split_paths(value: Any) -> Any:
    """`/data:/more` as two paths."""
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


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
