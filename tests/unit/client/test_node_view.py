"""What an operator reads about the worker machines."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ladle.cli.node_view import change_text, nodes_view, note_of, vetting_text
from ladle_contracts import NodeRecord, Vetting
from ladle_contracts.api import NodeChange
from ladle_contracts.nodes import GpuState

NOW = datetime.now(UTC)


def node(**fields: Any) -> NodeRecord:
    known = {"id": "n1", "host": "h", "ranks": 1, "version": "1", "torch_version": "2", "alive": True}
    return NodeRecord(**{**known, "started_at": NOW, "heartbeat_at": NOW, **fields})


def vetting(**fields: Any) -> Vetting:
    return Vetting(at=NOW, took_s=1.0, **fields)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "ready"),
        ({"job_id": "j"}, "busy"),
        ({"job_ids": ("j",), "dispatches": True}, "busy"),
        ({"cordoned": "why"}, "cordoned"),
        ({"cordoned": "why", "job_id": "j"}, "cordoned"),
        ({"cordoned": "why", "draining": True, "job_id": "j"}, "draining"),
        ({"cordoned": "why", "draining": True, "job_ids": ("j",)}, "draining"),
        ({"cordoned": "why", "draining": True}, "drained"),
        ({"alive": False, "cordoned": "why"}, "gone"),
    ],
)
def test_a_node_has_one_state(fields: dict[str, Any], state: str) -> None:
    assert node(**fields).state == state


def test_the_table_says_why_a_node_takes_no_jobs_and_what_failed_there() -> None:
    broken = node(id="n2", cordoned="3 failures in a row", failures_in_row=3, last_failure="The GPU is broken.")
    console = Console(file=StringIO(), width=200)
    console.print(nodes_view([node(), broken]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert (
        "n2 takes no jobs: 3 failures in a row. It has failed 3 times in a row. The last time: The GPU is broken."
        in text
    )
    assert "n1 takes" not in text


def test_nothing_is_noted_of_a_node_that_is_well() -> None:
    assert note_of(node(vetting=vetting())) == ""
    assert note_of(node(failures_in_row=1)) == "n1 has failed once."
    assert note_of(node(vetting=vetting(problem="No GPU."))).startswith("n1 did not pass its vetting ")


def test_a_vetting_is_told_in_a_few_words() -> None:
    gpus = tuple(GpuState(name="H100", free_bytes=free << 30, total_bytes=80 << 30) for free in (70, 3))
    assert vetting_text(None) == "-"
    assert vetting_text(vetting()) == "ok"
    assert vetting_text(vetting(problem="x")) == "failed"
    assert vetting_text(vetting(gpus=gpus, read_bytes_per_s=1.24e9)) == "3 of 80 GiB free, reads 1.2 GB/s"
    assert vetting_text(vetting(read_bytes_per_s=5e9, read_from_cache=True)) == "reads 5.0 GB/s (cached)"


@pytest.mark.parametrize(
    ("verb", "changed", "fields", "text"),
    [
        ("cordon", True, {"cordoned": "why"}, "Node n1 is cordoned and takes no more jobs."),
        (
            "cordon",
            True,
            {"cordoned": "why", "job_id": "j"},
            "Node n1 is cordoned and takes no more jobs. It still runs j.",
        ),
        ("cordon", False, {"cordoned": "cordoned by ann"}, "Node n1 was cordoned already: cordoned by ann."),
        (
            "drain",
            True,
            {"cordoned": "why", "draining": True, "job_id": "j"},
            "Node n1 is draining and takes no more jobs. It still runs j.",
        ),
        ("drain", True, {"cordoned": "why", "draining": True}, "Node n1 is drained and takes no more jobs."),
        (
            "drain",
            False,
            {"cordoned": "drained by ann", "draining": True},
            "Node n1 was drained already: drained by ann.",
        ),
        ("uncordon", True, {}, "Node n1 takes jobs again."),
        ("uncordon", False, {}, "Node n1 was not cordoned."),
    ],
)
def test_an_operator_is_told_what_changed(verb: str, changed: bool, fields: dict[str, Any], text: str) -> None:
    assert change_text(NodeChange(node=node(**fields), changed=changed), verb) == text
