"""What a rank hands to the collectives at each step is what the table in `placements` says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from torch import Tensor

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.training.train import train
from tests.distributed.placement_rank import SETTINGS
from tests.unit.engine.toy import plain_net, subspace_for, trainer_for, write_checkpoints

K = 5
D = 65
G = 2
Sent = list[tuple[str, int]]


class FirstOfTwo:
    """Rank 0 of two, the other of which has nothing but zeros; writes down what would cross."""

    rank = 0
    size = 2

    def __init__(self) -> None:
        self.sent: Sent = []

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self.sent.append(("sum", tensor.numel()))
        return tensor

    def all_gather(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        self.sent.append(("concatenate", shard.numel()))
        return shard.new_zeros((sum(lengths), *shard.shape[1:]))

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        self.sent.append(("scatter_sum", tensor.numel()))
        return tensor[: len(tensor) // self.size]

    def all_gather_into(self, whole: Tensor, shard: Tensor) -> None:
        self.sent.append(("gather_into", whole.numel()))
        whole[: len(shard)] = shard

    def differentiable_all_reduce(self, tensor: Tensor) -> Tensor:
        raise AssertionError("no placement needs it")

    def split_by_node(self) -> Collectives:
        raise AssertionError("there is one node")

    def broadcast(self, content: bytes) -> bytes:
        raise AssertionError("no placement needs it")

    def translate_collective_errors(self) -> AbstractContextManager[None]:
        return nullcontext()


def sent_by(placement: str, folder: Path) -> Sent:
    """What crosses in all steps of one training run, after the directions are open."""
    checkpoints = write_checkpoints(folder, plain_net, count=K)
    world = FirstOfTwo()
    trainer = trainer_for(checkpoints, plain_net, "layers", placement=placement, collectives=world)
    assert len(trainer.groups) == G
    subspace = subspace_for(checkpoints, trainer)
    world.sent.clear()
    train(trainer, subspace, SETTINGS)
    return world.sent


def test_replicated_sends_one_sum_of_the_coefficients_and_the_loss_a_step_and_nothing_else(tmp_path: Path) -> None:
    assert sent_by("replicated", tmp_path) == [("sum", K * G + 1)] * SETTINGS.steps


@pytest.mark.parametrize(
    ("placement", "step"),
    [
        # A bucket a layer, of 56 and 9 numbers, padded to a multiple of two; the last layer's gradient comes first. At
        # the end of the first pass the ranks agree on that order, a number a bucket.
        (
            "by-parameter",
            [("gather_into", 56), ("gather_into", 10), ("scatter_sum", 10), ("scatter_sum", 56), ("sum", K * G + 1)],
        ),
        # Rank 0 has three of the five checkpoints.
        ("by-checkpoint", [("sum", 56), ("sum", 9), ("sum", 9), ("sum", 56), ("concatenate", 3 * G), ("sum", 1)]),
    ],
)
def test_the_other_placements_send_what_the_table_says(tmp_path: Path, placement: str, step: Sent) -> None:
    assert sum(numbers for _, numbers in step) >= 2 * D, "two vectors of the model's size"
    sent = sent_by(placement, tmp_path)
    assert sent.pop(4) == ("sum", 2), "the order, once both buckets have been placed and handed over"
    assert sent == step * SETTINGS.steps
