"""One rank of `test_functions_on_ranks`: jobs of a notebook's own functions and data.

torchrun ... -m tests.distributed.functions_rank <folder>
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ladle_engine import EngineError, average
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyData, norm_net, plain_net
from tests.unit.tasks.test_function import mean_square, ragged, ragged_losses, squares

COUNT = 61


def toy() -> TensorDataset:
    data = ToyData(COUNT)
    return TensorDataset(data.x, data.y)


def dealt(rank: int, ranks: int) -> DataLoader[Any]:
    """As a trainer deals a data set to ranks."""
    return DataLoader(toy(), batch_size=8, sampler=DistributedSampler(toy(), num_replicas=ranks, rank=rank))


def accuracy(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    return {"close": ((model(batch[0]) - batch[1]).abs() < 0.5)[:, 0]}


def jobs(rank: int, ranks: int) -> dict[str, dict[str, Any]]:
    """Name -> arguments of `average`."""
    batches = list(DataLoader(toy(), batch_size=8))
    return {
        "values": {"model": plain_net, "loss": squares, "data": dealt(rank, ranks), "metrics": accuracy},
        "mean": {"model": plain_net, "loss": mean_square, "data": batches},
        "workers": {"model": plain_net, "loss": squares, "data": DataLoader(toy(), batch_size=8, num_workers=1)},
        "norm": {"model": norm_net, "loss": mean_square, "data": batches},
        "ragged": {"model": plain_net, "loss": ragged_losses, "data": ragged()},
        "ragged norm": {"model": norm_net, "loss": ragged_losses, "data": ragged()},
    }


def run(folder: Path, name: str, given: dict[str, Any], ranks: int) -> dict[str, dict[str, float]]:
    """Collective: method -> its scores on the select split."""
    outcome = average(
        folder / ("norm" if "norm" in name else "plain"),
        output=folder / f"{name} {ranks}",
        method_options={"methods": ["uniform", "twa"], "options": {"twa": {"steps": 6}}},
        **given,
    )
    return {score.method: dict(score.select) for score in outcome.candidates}


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except EngineError as error:
        return error.message
    return ""


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found: dict[str, Any] = {name: run(folder, name, given, ranks) for name, given in jobs(rank, ranks).items()}
    own = [(torch.full((4, 6), float(rank)), torch.ones(4, 1))] * 3
    other = {"model": plain_net, "loss": squares, "data": own}
    found["other data"] = refused(lambda: run(folder, "other", other, ranks))
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
