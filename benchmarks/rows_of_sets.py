"""A benchmark of one or more rows for each checkpoint set and seed, added to those in its results' file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from checkpoint_sets import SETS, PreparedSet, prepare
from measuring import results_path, save

from ladle_engine.versions import versions


def parser_of_sets(doc: str | None) -> argparse.ArgumentParser:
    """With `--sets`, `--seeds` and `--table`, which `add_rows` reads."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=SETS, nargs="+", default=[], metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="measure nothing")
    return parser


def add_rows(
    benchmark: str,
    arguments: argparse.Namespace,
    measured: Callable[[PreparedSet], Sequence[Mapping[str, Any]]],
    markdown: Callable[[list[dict[str, Any]]], str],
) -> None:
    """In place of the rows that were there of the same set and seed. Saves and prints after each set."""
    torch.set_num_threads(1)
    path = results_path(benchmark)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    wanted = [(name, seed) for seed in arguments.seeds for name in arguments.sets]
    for name, seed in wanted if not arguments.table else []:
        rows = [row for row in rows if (row["set"], row["seed"]) != (name, seed)]
        rows += map(dict, measured(prepare(name, seed)))
        print(save(benchmark, {"versions": versions(), "rows": rows}, markdown(rows)), flush=True)
    if arguments.table:
        print(save(benchmark, {"versions": versions(), "rows": rows}, markdown(rows)))
