"""What a report says of a result that is an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.output.adapter_result import AdapterOutput, AsWritten


def adapters_json(
    checkpoints: CheckpointSet, written: AsWritten, base: CheckpointSet | None, digests: Mapping[Path, str]
) -> dict[str, Any]:
    """The entry `adapters` of a report; nothing for whole models."""
    adapters = checkpoints.adapters
    if adapters is None:
        return {}
    factored = written.factored
    files = [] if base is None else [path for each in base.checkpoints for path in each.files]
    return {
        "adapters": {
            "space": adapters.space,
            "base": adapters.base,
            "base_files": {path.name: digests[path] for path in files},
            "ranks": dict(zip(checkpoints.names, adapters.ranks, strict=True)),
            "rank": None if factored is None else factored.rank,
            "error": None if factored is None else factored.error,
            "error_of_rank": {} if factored is None else {str(rank): error for rank, error in factored.errors.items()},
        }
    }


def notes_on(report: Mapping[str, Any], winner: str, output: AdapterOutput | None) -> list[str]:
    """What the user should know of the rank."""
    if output is None:
        return []
    adapters, own = report["adapters"], max(report["adapters"]["ranks"].values())
    rank, error = adapters["rank"], adapters["error"]
    if rank is None:
        if output.rule.rank is None:
            return []
        return [
            f"`{winner}` is a single adapter, which is written with its own rank. Averages were judged with rank "
            f"{output.rule.rank}; a larger `adapter_rank=` cuts off less of them."
        ]
    if output.rule.rank is not None and error > output.rule.error:
        return [f"With rank {rank} {error:.0%} of the average is cut off. A larger `adapter_rank=` cuts off less."]
    if output.rule.rank is None and rank > own:
        return [
            f"The average is written with rank {rank}, so that no more than {output.rule.error:.0%} of it is cut off; "
            f"the adapters have rank {own}. `adapter_rank=` makes it smaller, and the report says what that cuts off."
        ]
    return []
