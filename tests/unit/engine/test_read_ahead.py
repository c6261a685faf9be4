"""What is read ahead: in order, no further than it may be, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.storage.read_ahead import AHEAD_BYTES, read_ahead
from tests.polling import until

BLOCK = 10
MOST = 3
"""Blocks in front, with the blocks of so many bytes."""
BLOCK_BYTES = AHEAD_BYTES // MOST


def blocks_of(tensor: Tensor) -> Iterator[Tensor]:
    yield from tensor.split(BLOCK)


def test_it_stays_in_front_and_never_further_than_it_may() -> None:
    tensors = [torch.ones(size) for size in (45, 3, 10, 11, 100)]
    asked: list[int] = []

    def sources() -> Iterator[list[Tensor]]:
        for number, tensor in enumerate(tensors):
            asked.append(number)
            yield [tensor, tensor]

    with read_ahead(sources(), BLOCK, BLOCK_BYTES) as ahead:
        # Nobody follows yet: three of the first one's five blocks.
        until(lambda: ahead._read == MOST, what="three blocks")
        assert asked == [0]
        taken = 0
        for tensor in tensors:
            for block in ahead.follow(blocks_of(tensor)):
                assert torch.equal(block, torch.ones(len(block)))
                assert ahead._read > taken, "what a block is made from has been read"
                assert ahead._read <= taken + MOST
                taken += 1
    assert asked == [0, 1, 2, 3, 4]
    assert taken == 5 + 1 + 1 + 2 + 10


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: torch.ones(20)[::2].expand(4, 10).t(), id="not contiguous"),
        pytest.param(lambda: torch.ones(0), id="empty"),
        pytest.param(lambda: torch.ones(()), id="a number"),
        pytest.param(lambda: torch.ones(7, dtype=torch.bool), id="boolean"),
        pytest.param(lambda: torch.ones(7).to(torch.float8_e4m3fn), id="float8"),
    ],
)
def test_tensors_of_every_kind_are_followed(source: Callable[[], Tensor]) -> None:
    tensor = source()
    with read_ahead(iter([[tensor], [torch.ones(25)]]), BLOCK, BLOCK_BYTES) as ahead:
        flat = tensor.reshape(-1)
        parts = [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]
        assert len(list(ahead.follow(parts))) == len(parts)
        assert len(list(ahead.follow(blocks_of(torch.ones(25))))) == 3


def test_who_goes_through_more_than_was_announced_is_not_stopped() -> None:
    with read_ahead(iter([]), BLOCK, BLOCK_BYTES) as ahead:
        assert len(list(ahead.follow(blocks_of(torch.ones(100))))) == 10


def test_a_tensor_that_is_made_from_nothing_is_followed_too() -> None:
    with read_ahead(iter([[], [torch.ones(25)]]), BLOCK, BLOCK_BYTES) as ahead:
        assert len(list(ahead.follow(blocks_of(torch.zeros(100))))) == 10
        assert len(list(ahead.follow(blocks_of(torch.ones(25))))) == 3


def test_who_leaves_early_ends_it() -> None:
    threads = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        read_ahead(iter([[torch.ones(1000)]]), BLOCK, BLOCK_BYTES) as ahead,
    ):
        next(ahead.follow(blocks_of(torch.ones(1000))))
        raise KeyboardInterrupt
    assert ahead._read < 100
    assert threading.active_count() == threads


def test_what_reading_raised_is_raised_at_the_end_and_nobody_waits() -> None:
    def sources() -> Iterator[list[Tensor]]:
        yield [torch.ones(5)]
        raise ValueError("the file is gone")

    with pytest.raises(ValueError, match="the file is gone"), read_ahead(sources(), BLOCK, BLOCK_BYTES) as ahead:
        for _ in range(3):
            assert len(list(ahead.follow(blocks_of(torch.ones(5))))) == 1


def test_two_threads_may_read_one_checkpoint(tmp_path: Path) -> None:
    state = {f"layer.{number}": torch.full((50,), float(number)) for number in range(20)}
    for step in (1, 2):
        save_file(state, tmp_path / f"step-{step}.safetensors")
    names = sorted(state)
    with open_all(discover(tmp_path)) as readers:
        sources = ([reader.read(name) for reader in readers] for name in names)
        with read_ahead(sources, BLOCK, BLOCK_BYTES) as ahead:
            for name in names:
                read = torch.cat(list(ahead.follow(blocks_of(readers[0].read(name)))))
                assert torch.equal(read, state[name])
