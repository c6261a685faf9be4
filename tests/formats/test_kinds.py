"""Folders as real tools leave them: found in order and once, averaged exactly, and used in the tool again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from ladle_engine import combine_checkpoints, inspect
from ladle_engine.progress import CheckpointsFound, ProgressEvent
from tests.formats.kinds import KINDS, Kind
from tests.formats.tool import Tool, writing


@dataclass(frozen=True)
class Combined:
    kind: Kind
    folder: Path
    mean: Path
    result: Path
    tool: Tool
    events: list[ProgressEvent]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def combined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Combined]:
    """The folder that the tool wrote, and what Ladle makes of it without a word on its layout."""
    kind: Kind = request.param
    home = tmp_path_factory.mktemp(kind.name)
    with writing(kind, home / "run", home / "mean.safetensors") as tool:
        events: list[ProgressEvent] = []
        result = combine_checkpoints(
            home / "run" / kind.folder, output=home / "result", progress=events.append, **kind.arguments
        )
        yield Combined(kind, home / "run", home / "mean.safetensors", result, tool, events)


def test_the_checkpoints_are_found_each_once_and_in_order(combined: Combined) -> None:
    found = next(event for event in combined.events if isinstance(event, CheckpointsFound))
    assert (found.names, found.order) == (combined.kind.found, combined.kind.order)


def test_inspecting_lists_them_and_finds_nothing_wrong(combined: Combined) -> None:
    kind = combined.kind
    seen = inspect(combined.folder / kind.folder, **kind.choosing)
    assert tuple(checkpoint.name for checkpoint in seen.checkpoints) == kind.found
    # Some of these models need a task of one's own, which is said.
    assert {problem.code for problem in seen.problems} <= {"unknown-task"}


def test_the_mean_is_that_of_what_the_tool_loads(combined: Combined) -> None:
    mean = load_file(combined.mean)
    result = tensors(combined.result)
    assert result.keys() == mean.keys()
    unequal = [name for name, value in mean.items() if not torch.equal(result[name], value)]
    assert unequal == []


def tensors(result: Path) -> dict[str, Tensor]:
    if any(result.rglob("*.distcp")):
        converted = result.parent / "converted.pt"
        dcp_to_torch_save(next(result.rglob(".metadata")).parent, converted)
        loaded = torch.load(converted, weights_only=False)
        return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name: value for file in result.glob("*.safetensors") for name, value in load_file(file).items()}


def test_the_result_loads_in_the_tool(combined: Combined) -> None:
    combined.tool.use(combined.result)
