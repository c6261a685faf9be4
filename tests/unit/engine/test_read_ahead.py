"""What is read ahead: in order, no further than it may be, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.storage.read_ahead import read_ahead
from tests.polling import until


def test_items_come_in_order_and_no_more_wait_than_may() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with read_ahead(items(), most=3) as ready:
        # Nobody takes one yet.
        until(lambda: len(made) == 3, what="three items")
        for taken, number in enumerate(ready):
            assert number == taken
            assert len(made) <= taken + 1 + 3
    assert made == list(range(20))


def test_nothing_to_read_ends_at_once() -> None:
    with read_ahead(iter([])) as ready:
        assert list(ready) == []


def test_who_leaves_early_ends_it() -> None:
    threads = threading.active_count()
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt), read_ahead((made.append(each) for each in range(1000)), most=2) as ready:
        next(ready)
        raise KeyboardInterrupt
    assert len(made) < 10
    assert threading.active_count() == threads


def test_what_making_an_item_raised_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the file is gone")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the file is gone"), read_ahead(items(), most=3) as ready:
        taken.extend(iter(ready))
    with read_ahead(items(), most=3) as ready:
        assert [next(ready), next(ready)] == [1, 2], "what came before is not lost"


def test_two_threads_may_read_one_checkpoint(tmp_path: Path) -> None:
    state = {f"layer.{number}": torch.full((50,), float(number)) for number in range(20)}
    for step in (1, 2):
        save_file(state, tmp_path / f"step-{step}.safetensors")
    with open_all(discover(tmp_path)) as readers:
        tensors = ((name, readers[1].read(name)) for name in state)
        with read_ahead(tensors) as ready:
            for name, tensor in ready:
                assert torch.equal(tensor, state[name])
                assert torch.equal(readers[0].read(name), state[name])
