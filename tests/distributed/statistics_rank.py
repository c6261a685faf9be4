"""One rank of `test_statistics_on_ranks`: jobs on models with all kinds of running state.

torchrun ... -m tests.distributed.statistics_rank <folder>
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine import TaskError, average
from ladle_engine.placements.base import REPLICATED, SHARDED_MODEL
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask

BATCH_SIZE = 8
COUNT = 81
"""Neither the batches nor the splits divide by the number of ranks."""


class WithActivation(nn.BatchNorm1d):
    """As timm's: does more than to normalise."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class OnItsOwn(nn.BatchNorm1d):
    """Makes its statistics itself."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return (input - input.mean(dim=0)) / input.std(dim=0)


def around(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 1))


def with_instances() -> nn.Module:
    norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)
    return around(nn.Sequential(nn.Unflatten(1, (2, 4)), norm, nn.Flatten()))


def with_spectra() -> nn.Module:
    parametrized = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 8)), nn.BatchNorm1d(8), parametrized, nn.Linear(8, 1))


BUILDS: Mapping[str, Callable[[], nn.Module]] = {
    "plain": lambda: around(nn.BatchNorm1d(8)),
    "with activation": lambda: around(WithActivation(8)),
    "synchronised by torch": lambda: around(nn.SyncBatchNorm(8)),
    "instances": with_instances,
    "spectra": with_spectra,
}


def run(folder: Path, name: str, placement: str) -> None:
    average(
        folder / name, folder / name, output=folder / f"{name}, {placement}, {dist.get_world_size()}",
        task=ToyTask(BUILDS[name], count=COUNT, batch_size=BATCH_SIZE), method="twa-layerwise",
        method_options={"steps": 6}, placement=placement,
    )  # fmt: skip


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(minutes=2))
    for name in BUILDS:
        run(folder, name, REPLICATED)
    if dist.get_world_size() > 1:
        run(folder, "spectra", SHARDED_MODEL)
        try:
            average(
                folder / "plain", folder / "plain", output=folder / "refused", method="uniform",
                task=ToyTask(lambda: around(OnItsOwn(8)), count=COUNT, batch_size=BATCH_SIZE),
            )  # fmt: skip
        except TaskError as error:
            (folder / f"refused-{dist.get_rank()}").write_text(error.message)
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
