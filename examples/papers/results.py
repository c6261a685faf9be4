"""The committed figures: one JSON file per row of the papers, one entry per seed (and number of models)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from places import CACHE, RESULTS

from ladle_engine.versions import versions

KEY = ("seed", "models")
"""What tells the runs of one file apart."""


class Results:
    """Grows run by run, so that what was finished before an interruption is kept."""

    def __init__(self, name: str, settings: Mapping[str, Any], *, quick: bool) -> None:
        folder = CACHE / "quick" if quick else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.json"
        self._settings = dict(settings)

    @property
    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.path.read_text())["runs"] if self.path.exists() else []
        return found

    def has(self, **key: Any) -> bool:
        return any(_key(run) == _key(key) for run in self.runs)

    def add(self, run: Mapping[str, Any]) -> None:
        """In place of one of the same key."""
        runs = [*(known for known in self.runs if _key(known) != _key(run)), {**run, "versions": versions()}]
        runs.sort(key=_key)
        self.path.write_text(json.dumps({"settings": self._settings, "runs": runs}, indent=1) + "\n")


def _key(run: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(run.get(name, 0) for name in KEY)


def arguments(doc: str | None, *names: str) -> argparse.Namespace:
    """What every row is asked: which seeds, whether only quickly, and, if it has parts, which of them."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if names:
        parser.add_argument("rows", nargs="*", default=list(names), metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that all works; kept in the cache only")
    parser.add_argument("--again", action="store_true", help="compare anew, on the checkpoints that are there")
    parser.add_argument("--train-only", action="store_true", help="only make the checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    found = parser.parse_args()
    if unknown := sorted(set(getattr(found, "rows", [])) - set(names)):
        parser.error(f"ROW must be one of {', '.join(names)}, but is {', '.join(unknown)}")
    torch.set_num_threads(found.threads)
    transformers.utils.logging.disable_progress_bar()
    return found


def cache_folder(name: str, *, quick: bool) -> Path:
    return CACHE / "quick" / name if quick else CACHE / name
