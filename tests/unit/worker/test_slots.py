"""A machine divided into several nodes: who gets what, and what happens when one of them ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ladle_worker.settings import Settings
from ladle_worker.slots import CANNOT_START, Slot, Slots, WrongSlots, divide, parts

GIB = 1 << 30


def settings(**values: Any) -> Settings:
    return Settings(node_id="box", roots=(Path("/data"),), results_dir=Path("/results"), **values)


def described(gpus: int = 0) -> dict[str, Any]:
    return {"gpus": ["H100"] * gpus, "host_bytes": 64 * GIB}


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_cores_memory_and_ports_are_divided() -> None:
    first, second = divide(settings(slots=2, ports="29400-29499"), described(gpus=8))
    assert first.variables == {
        "LADLE_SLOTS": "1",
        "LADLE_NODE_ID": "box-1",
        "LADLE_HOST_BYTES": str(32 * GIB),
        "LADLE_PORTS": "29400-29449",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }
    assert (second.variables["LADLE_NODE_ID"], second.variables["CUDA_VISIBLE_DEVICES"]) == ("box-2", "4,5,6,7")
    assert (first.cores, second.cores) == ({0, 1, 2, 3}, {4, 5, 6, 7})


def test_gpus_that_the_operator_has_chosen_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, GPU-bb,GPU-cc")
    groups = [slot.variables["CUDA_VISIBLE_DEVICES"] for slot in divide(settings(slots=2), described(gpus=3))]
    assert groups == ["GPU-aa,GPU-bb", "GPU-cc"]


def test_without_gpus_no_slot_gets_any() -> None:
    assert all("CUDA_VISIBLE_DEVICES" not in slot.variables for slot in divide(settings(slots=3), described()))


def test_few_cores_are_shared_by_many_gpus() -> None:
    assert {slot.cores for slot in divide(settings(slots=16), described(gpus=16))} == {frozenset(range(8))}


def test_a_share_that_the_operator_has_set_is_divided_too() -> None:
    slots = divide(settings(slots=2, host_bytes=10 * GIB), described())
    assert [slot.variables["LADLE_HOST_BYTES"] for slot in slots] == [str(5 * GIB)] * 2


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (2, "`LADLE_SLOTS` must be at most 2, because this machine has 2 GPUs, but is 9."),
        (0, "`LADLE_SLOTS` must be at most 8, because this machine has 8 cores and no GPU, but is 9."),
    ],
)
def test_more_slots_than_there_is_to_divide_are_refused(gpus: int, words: str) -> None:
    with pytest.raises(WrongSlots) as caught:
        divide(settings(slots=9), described(gpus))
    assert str(caught.value) == words


@pytest.mark.parametrize("slots", [0, -1, 65])
def test_a_number_that_makes_no_sense_is_refused(slots: int) -> None:
    with pytest.raises(ValueError, match="slots"):
        settings(slots=slots)


def test_parts_are_neighbours_and_as_equal_as_they_can_be() -> None:
    assert parts([1, 2, 3, 4, 5], 3) == [[1, 2], [3, 4], [5]]
    assert parts([1], 2) == [[1], []]


class Worker:
    """In a process' place."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.got: list[signal.Signals] = []
        self.pid = 1

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: signal.Signals) -> None:
        self.got.append(number)


class Machine:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.started: dict[int, list[Worker]] = {1: [], 2: []}
        made = [Slot(number=number, variables={}, cores=frozenset()) for number in self.started]
        self.slots = Slots(made, start=self.start, now=lambda: self.seconds)  # type: ignore[arg-type]
        for slot in made:
            self.slots._begin(slot)

    def start(self, slot: Slot) -> Worker:
        self.started[slot.number].append(Worker())
        return self.started[slot.number][-1]

    def pass_time(self, seconds: float) -> None:
        self.slots.look()
        self.seconds += seconds
        self.slots.look()


def test_a_worker_that_was_killed_is_started_again_and_the_others_are_left_alone() -> None:
    machine = Machine()
    machine.started[1][0].status = -9
    machine.pass_time(0.9)
    assert len(machine.started[1]) == 1
    machine.pass_time(0.2)
    assert (len(machine.started[1]), len(machine.started[2])) == (2, 1)
    machine.started[1][1].status = -9
    machine.pass_time(1.5)
    assert len(machine.started[1]) == 2, "the second pause is longer"
    machine.pass_time(1.0)
    assert len(machine.started[1]) == 3


def test_all_are_asked_to_stop_and_none_is_started_again() -> None:
    machine = Machine()
    machine.slots.stop(signal.SIGTERM, 0)
    workers = [machine.started[number][0] for number in (1, 2)]
    assert [worker.got for worker in workers] == [[signal.SIGTERM]] * 2
    for worker in workers:
        worker.status = 0
    machine.pass_time(100.0)
    assert all(len(started) == 1 for started in machine.started.values())


def test_a_worker_that_cannot_start_ends_all() -> None:
    machine = Machine()
    machine.started[1][0].status = CANNOT_START
    machine.pass_time(100.0)
    assert machine.started[2][0].got == [signal.SIGTERM]
    assert machine.slots._status == CANNOT_START
