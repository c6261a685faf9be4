"""One of the ranks of `test_dcp_of_ranks`: saves DCP checkpoints of several kinds, and a file of its own.

torchrun ... -m tests.distributed.dcp_rank <folder>
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.distributed.start import end_rank

NOT_IN_SAFETENSORS = ("complex", "turned", "channels_last")
"""What its writer refuses."""


class Block(nn.Module):
    """Odd sizes: rows that ranks share unevenly, and fewer of them than ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.down = nn.Linear(8, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.down(self.norm(self.up(x)).relu()))
        return out


def trained(step: int, mesh: DeviceMesh, *, parallel: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """After one step, on FSDP2 or on tensor parallelism with FSDP2."""
    torch.manual_seed(step)
    model = Block()
    if parallel:
        parallelize_module(model, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        mesh = mesh["dp"]
    if not parallel:
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        return model, optimizer
    fully_shard(model.up, mesh=mesh)
    fully_shard(model.down, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters())


def kinds_of_tensors(mesh: DeviceMesh) -> dict[str, Any]:
    """Types, orders of numbers and ways to share that a model may have."""
    torch.manual_seed(7)
    whole = {
        "float8": torch.randn(7, 5).to(torch.float8_e4m3fn),
        "bfloat16": torch.randn(9, 4, dtype=torch.bfloat16),
        "complex": torch.randn(5, 3, dtype=torch.complex64),
        "int": torch.arange(33).view(3, 11),
        "bool": torch.tensor([True, False, True]),
        "turned": torch.randn(6, 10).t(),
        "three": torch.randn(3, 5, 7),
        "empty": torch.empty(0, 4),
    }
    state: dict[str, Any] = {f"{name}.rows": shared(each, mesh, 0) for name, each in whole.items()}
    state |= {f"{name}.columns": shared(each, mesh, 1) for name, each in whole.items() if each.ndim > 1}
    state |= {f"{name}.replicated": shared(each, mesh, None) for name, each in whole.items()}
    state["channels_last"] = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state["scalar"] = torch.tensor(2.5)
    return state


def shared(whole: Tensor, mesh: DeviceMesh, dim: int | None) -> DTensor:
    """As `distribute_tensor`, which gloo can not do for all types."""
    placement, local = Replicate() if dim is None else Shard(dim), whole
    if dim is not None:
        parts = whole.chunk(mesh.size(), dim)
        none = whole.narrow(dim, 0, 0)
        local = parts[mesh.get_rank()] if mesh.get_rank() < len(parts) else none
    return DTensor.from_local(local, mesh, [placement], run_check=False, shape=whole.shape, stride=whole.stride())


def save(state: dict[str, Any], folder: Path, **options: Any) -> None:
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, **options))


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    size, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (size,))
    grid = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("dp", "tp"))
    for step in (1, 2):
        model, optimizer = trained(step, mesh, parallel=False)
        weights, moments = get_state_dict(model, optimizer)
        # As torchtitan saves: the model's names beside the rest.
        save({**weights, "optimizer": moments, "train_state": {"step": torch.tensor(step)}}, folder / f"step-{step}")
        torch.save(model.state_dict(), folder / f"step{step}_rank{rank}.pt")
    model, _ = trained(3, grid, parallel=True)
    save({"model": model.state_dict(), "step": 3}, folder / "grid", thread_count=2)
    state = kinds_of_tensors(mesh)
    save(state, folder / "kinds", single_file_per_rank=False)
    dcp.save(state, checkpoint_id=folder / "alone", use_collectives=False)
    plain = {name: each for name, each in state.items() if not name.startswith(NOT_IN_SAFETENSORS)}
    dcp.save(plain, storage_writer=HuggingFaceStorageWriter(str(folder / "safetensors"), save_distributed=True))
    dist.barrier()
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
