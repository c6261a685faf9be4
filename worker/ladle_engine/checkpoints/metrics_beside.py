"""What training wrote beside its checkpoints about how good each is. It is shown to people, and decides nothing."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ladle_engine.checkpoints.files import leads_out
from ladle_engine.checkpoints.layouts.trainer import STATE
from ladle_engine.checkpoints.name_parts import METRIC_WORD, SUFFIXES, Counts, parts_of
from ladle_engine.checkpoints.order import runs_of
from ladle_engine.checkpoints.side_files import USUAL_FOLDERS
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import EngineError
from ladle_engine.storage.input_paths import read_bytes
from ladle_engine.storage.json_text import parse_json

RESULTS = ("all_results.json", "eval_results.json", "results.json", "metrics.json")
"""Of the model in the same folder."""
SUMMARY = "summary.csv"
"""timm's, a row per epoch."""
LOG = "metrics.csv"
"""Lightning's `CSVLogger`, several rows per epoch."""
NO_METRIC = re.compile(
    r".*(runtime|per_second|total_flos|preparation_time|_samples|num_input_tokens.*|num_params.*)|epoch|step|lr.*|learning_rate",
    re.IGNORECASE,
)
OF_VALIDATION = re.compile(r"(eval|val|valid|validation|test|dev)([-_/].+)?", re.IGNORECASE)
NUMBER = r"(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
A_METRIC = METRIC_WORD.pattern.removeprefix(".*")
GIVEN_IN_NAME = re.compile(rf"(?P<name>[A-Za-z][A-Za-z0-9_/@]*)={NUMBER}")
IN_NAME = re.compile(rf"(?<![a-z0-9])(?P<name>(?:[a-z]+[_/])?[a-z]*{A_METRIC})[-_]{NUMBER}")
TIME_IN_NAME = re.compile(r".*(epoch|step|iter)s?|e|ep|v", re.IGNORECASE)
MOST_METRICS = 50
MOST_BYTES = 32 << 20

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """By the checkpoints' names."""

    metrics: Mapping[str, Mapping[str, float]]
    best: frozenset[str]
    """Those that their training called the best."""


def metrics_beside(checkpoints: Sequence[Checkpoint], folder: Path, root: Path | None = None) -> Beside:
    """From `trainer_state.json`, results in JSON, timm's and Lightning's tables, and the checkpoints' names.

    What is broken, or is not there, says nothing. `folder` is the set's; nothing that leads out of `root`, which is the
    folder itself by default, is read.
    """
    files = _Files(root=folder if root is None else root)
    metrics = {}
    for each in checkpoints:
        run = folder / each.run
        home = each.files[0].parent if each.files else run
        state = files.json(home / STATE) or files.json(run / STATE)
        found = _of_name(each.name_in_run)
        found |= _of_table(files.table(run / SUMMARY), each) or _of_log(files, run, each)
        found |= _of_state(state, each) | (_of_results(files, home) if _has_a_folder(each, home, run) else {})
        metrics[each.name] = dict(list(found.items())[:MOST_METRICS])
    return Beside(metrics=metrics, best=_best(files, checkpoints, folder))


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Each is read once: hundreds of checkpoints share a table."""

    root: Path
    _read: dict[Path, Any] = field(default_factory=dict)

    def json(self, path: Path) -> Any:
        return self._get(path, parse_json)

    def table(self, path: Path) -> list[dict[str, str]]:
        return self._get(path, lambda content: list(csv.DictReader(io.StringIO(content.decode())))) or []

    def _get(self, path: Path, parse: Callable[[bytes], Any]) -> Any:
        if path not in self._read:
            self._read[path] = None
            with suppress(OSError, EngineError, ValueError, csv.Error):
                if not leads_out(path, self.root) and len(content := read_bytes(path, MOST_BYTES)) <= MOST_BYTES:
                    self._read[path] = parse(content)
        return self._read[path]


def _of_state(state: Any, checkpoint: Checkpoint) -> Metrics:
    """What the Trainer's last evaluation at the checkpoint's step gave."""
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        return {}
    step = checkpoint.step if checkpoint.step is not None else state.get("global_step")
    logged = [each for each in state["log_history"] if isinstance(each, dict) and each.get("step") == step]
    return {name: value for each in logged for name, value in _numbers(each).items() if OF_VALIDATION.fullmatch(name)}


def _best(files: _Files, checkpoints: Sequence[Checkpoint], folder: Path) -> frozenset[str]:
    """What the Trainer's last state of each run calls the best, by a path of the machine that trained."""
    best: set[str] = set()
    for run, members in runs_of(checkpoints).items():
        homes = {each.files[0].parent: each.name for each in members if each.files}
        states = [files.json(home / STATE) for home in (folder / run, *homes)]
        known = [each for each in states if isinstance(each, dict) and type(each.get("global_step")) is int]
        named = max(known, key=lambda each: each["global_step"], default={}).get("best_model_checkpoint")
        if isinstance(named, str):
            last_part = PurePosixPath(named.replace("\\", "/")).name
            best |= {name for home, name in homes.items() if home.name == last_part}
    return frozenset(best)


def _of_results(files: _Files, home: Path) -> Metrics:
    found: Metrics = {}
    for name in RESULTS:
        parsed = files.json(home / name)
        found |= _numbers(parsed) if isinstance(parsed, dict) else {}
    return found


def _has_a_folder(checkpoint: Checkpoint, home: Path, run: Path) -> bool:
    """Whether results in the folder are the checkpoint's: it is its own, or it is the model at the top of a run."""
    return home != run or not any(part.number is not None for part in parts_of(checkpoint.name_in_run))


def _of_table(rows: Sequence[Mapping[str, str]], checkpoint: Checkpoint) -> Metrics:
    """The row of the checkpoint's epoch, or of its only number."""
    epoch = _count(checkpoint, Counts.EPOCH, Counts.PLAIN)
    return next((_evaluated(row) for row in rows if epoch is not None and _float(row.get("epoch")) == epoch), {})


def _of_log(files: _Files, run: Path, checkpoint: Checkpoint) -> Metrics:
    """The last value of each metric in the checkpoint's epoch or, without one, at its step; it logs from step 0 on."""
    rows = files.table(run / LOG)
    if not rows and run.name in USUAL_FOLDERS and run != files.root:
        rows = files.table(run.parent / LOG)
    epoch, step = _count(checkpoint, Counts.EPOCH), _count(checkpoint, Counts.STEP)
    found: Metrics = {}
    for row in rows:
        at_epoch = epoch is not None and _float(row.get("epoch")) == epoch
        at_step = epoch is None and step is not None and _float(row.get("step")) in (step - 1, step)
        found |= _evaluated(row) if at_epoch or at_step else {}
    return found


def _count(checkpoint: Checkpoint, *kinds: Counts) -> float | None:
    parts = parts_of(checkpoint.name_in_run)
    found = (part.number for kind in kinds for part in parts if part.counts is kind and part.number is not None)
    return next((float(number) for number in found), None)


def _evaluated(row: Mapping[str, str]) -> Metrics:
    return {name: value for name, value in _numbers(row).items() if OF_VALIDATION.fullmatch(name)}


def _of_name(name: str) -> Metrics:
    """`val_loss=0.31` and `acc_93`."""
    text = SUFFIXES.sub("", name)
    found = [*GIVEN_IN_NAME.finditer(text)] or [*IN_NAME.finditer(text.lower())]
    return {each["name"]: float(each["number"]) for each in found if not TIME_IN_NAME.fullmatch(each["name"])}


def _numbers(values: Mapping[str, Any]) -> Metrics:
    pairs: Iterator[tuple[str, float | None]] = (
        (name.strip(), _float(value)) for name, value in values.items() if isinstance(name, str)
    )
    return {name: value for name, value in pairs if value is not None and not NO_METRIC.fullmatch(name)}


def _float(value: Any) -> float | None:
    """A finite number, also as text. Truth values are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with suppress(ValueError, OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None
