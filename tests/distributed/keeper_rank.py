"""One of the ranks of `test_keeper_on_ranks`.

torchrun ... -m tests.distributed.keeper_rank <folder> <ddp, fsdp or trainer>
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ladle.callbacks import CheckpointKeeper, _averager, _run
from tests.distributed.start import end_rank

STEPS = 9


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))


def train(model: nn.Module, keeper: CheckpointKeeper, rank: int) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    for step in range(1, STEPS + 1):
        loss = model(torch.randn(4, 6, generator=generator)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        keeper.step(model, step)


def plain_loop(folder: Path, kind: str) -> None:
    rank = dist.get_rank()
    model = net()
    sharded: Any = fully_shard(model) if kind == "fsdp" else DistributedDataParallel(model)
    # Each rank has a folder of its own, so that a rank that writes by mistake is seen.
    with CheckpointKeeper(folder / f"rank-{rank}", every=3) as keeper:
        train(sharded, keeper, rank)
    states = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in model.state_dict().values()]
    if rank == 0:
        torch.save(dict(zip(model.state_dict(), states, strict=True)), folder / "last.pt")
    elif kind == "ddp":
        # As where another launcher than torchrun is used, and the group is gone.
        with mock.patch.dict(os.environ), mock.patch.object(dist, "is_initialized", return_value=False):
            del os.environ["RANK"]
            assert keeper.average("nowhere.npz") is None, "only rank 0 averages"


def trainer(folder: Path) -> None:
    from ladle.callbacks.transformers import LadleCallback
    from tests.unit.callbacks.services import Service
    from tests.unit.callbacks.test_transformers import trainer_of

    _run.PAUSE_S = 0.2
    service = Service(folder / "of-the-service")
    service.results.mkdir(exist_ok=True)
    _averager.client_for = service.client_for  # type: ignore[assignment]
    (folder / "val.jsonl").write_text('{"text": "a"}\n')
    made, recorder = trainer_of(folder / "run")
    made.add_callback(LadleCallback(made, folder / "val.jsonl", every=4))
    began = time.monotonic()
    slow = service.submit

    def submit(*given: Any, **options: Any) -> Any:
        time.sleep(1.5)
        return slow(*given, **options)

    service.submit = submit  # type: ignore[method-assign]
    made.train()
    rank = dist.get_rank()
    (folder / f"rank-{rank}.txt").write_text(
        f"{len(service.jobs)} {(folder / 'run/averaged').exists()} {time.monotonic() - began > 1.5}"
    )
    if rank == 0:
        torch.save(recorder.states[8], folder / "last.pt")


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    if kind == "trainer":
        trainer(folder)
    else:
        dist.init_process_group("gloo", timeout=timedelta(seconds=120))
        plain_loop(folder, kind)
    dist.barrier()
    end_rank()


if __name__ == "__main__":
    main()
