"""What is done at every training step waits for no device: tensors on `meta` have no values that could be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.model.batch_norm import synchronise
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import GROUPINGS
from ladle_engine.model.statistics import AveragedStatistics
from tests.unit.engine.toy import norm_net, write_checkpoints


@pytest.mark.parametrize("affine", [True, False])
def test_synchronised_batch_norm_reads_nothing_from_the_device(affine: bool) -> None:
    module = nn.BatchNorm2d(3, affine=affine, device="meta")
    synchronise([module], SingleProcess())
    x = torch.empty(4, 3, 5, 5, device="meta", requires_grad=True)
    out = module(x)
    out.sum().backward()
    assert out.shape == x.shape


def test_synchronised_batch_norm_is_torchs_on_one_process() -> None:
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    ours, torchs = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    synchronise([ours], SingleProcess())
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_averaged_statistics_are_filled_in_without_being_read_back(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net, count=3)
    binding = bind(norm_net(), checkpoints)
    groups = GROUPINGS["model"](binding)
    alpha_KG = torch.full((3, 1), 1 / 3, dtype=torch.float64)
    on_meta = {name: buffer.to("meta") for name, buffer in binding.statistics.items()}
    AveragedStatistics(checkpoints, replace(binding, statistics=on_meta)).load_weights(alpha_KG, groups)
    statistics = AveragedStatistics(checkpoints, binding)
    statistics.load_weights(alpha_KG, groups)
    placed = {name: buffer.clone() for name, buffer in binding.statistics.items()}
    assert placed.keys() == statistics.recompute(alpha_KG, groups).keys()
    for name, recomputed in statistics.recompute(alpha_KG, groups).items():
        assert torch.equal(recomputed, placed[name])
