"""Nodes that meet before the ranks start, or do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from ladle_contracts import JobSpec, Reason
from ladle_contracts.roots import PathNotAllowed
from ladle_worker.gang import CannotMeet, Gang, Place
from ladle_worker.gathering import Gathering
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.settings import Settings
from ladle_worker.watch import Watch

Met = tuple[str, tuple[str, ...]]


def gathering(path: Path, meet: Callable[[str], Met], *, ready_s: float = 1000.0, ran_s: float = 0.0) -> Gathering:
    """Of the first node of two. `meet` gets its place, and answers as Redis would."""
    folder = AttemptFolder(path / "attempt-1")
    folder.make()
    settings = Settings(
        node_id="n1", roots=(path,), results_dir=path, address="127.0.0.1", ready_s=ready_s, poll_s=0.001
    )
    claim: Any = SimpleNamespace(
        meet=meet,
        speaks=True,
        node_rank=0,
        ran_s=ran_s,
        spec=JobSpec.model_validate({"ckpt_dir": "/c", "val_set": "/v", "resources": {"timeout_s": 1000}}),
        report=lambda *_: None,
    )
    state_copy: Any = SimpleNamespace(send_if_due=lambda: None)
    watch = Watch(settings, claim, folder, state_copy)
    return Gathering(settings=settings, claim=claim, folder=folder, watch=watch, gpus=0, ranks=4)


def both(place: str, **others: Any) -> tuple[str, str]:
    """This node's place, and that of a second one of the same host."""
    here = Place.of_json(place)
    return place, Place(**(vars(here) | {"node": "n2", "refused": ""} | others)).to_json()


def meets(found: Gathering) -> Any:
    return found._meet(found._place({}, None))


def test_nodes_that_are_ready_are_a_gang_with_the_ranks_of_the_smallest(tmp_path: Path) -> None:
    answers: list[Met | Exception] = [ConnectionError("away"), ("wait", ()), ("wait", ("n2",))]

    def meet(place: str) -> Met:
        if not answers:
            return "ok", both(place, ranks=2)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    gang = meets(gathering(tmp_path, meet))
    assert isinstance(gang, Gang)
    assert (gang.num_nodes, gang.node_rank, gang.ranks_per_node, gang.head.node) == (2, 0, 2, "n1")


def test_nodes_that_are_late_are_named_and_at_fault(tmp_path: Path) -> None:
    ended = meets(gathering(tmp_path, lambda place: ("wait", ("n2",)), ready_s=0.01))
    assert (ended.outcome, ended.reason, ended.nodes) == ("node-failed", Reason.NODE_LOST, ("n2",))
    assert "`n2` was not" in ended.message


@pytest.mark.parametrize(
    ("answer", "ran_s", "reason"),
    [("cancel", 0.0, Reason.CANCELLED), ("release", 0.0, Reason.NODE_LOST), ("wait", 1000.0, Reason.TIMED_OUT)],
)
def test_an_attempt_may_end_before_all_are_ready(answer: str, ran_s: float, reason: Reason, tmp_path: Path) -> None:
    assert meets(gathering(tmp_path, lambda place: (answer, ()), ran_s=ran_s)).reason is reason


def test_a_node_that_does_not_see_the_inputs_is_named(tmp_path: Path) -> None:
    found = gathering(tmp_path, lambda place: ("ok", both(place)))
    with pytest.raises(CannotMeet, match="node `n1` does not see those of node `n2`") as raised:
        found.tell_what_is_missing(PathNotAllowed("no such folder"))
    assert (raised.value.reason, raised.value.node) == (Reason.INPUTS_DIFFER, "n1")
