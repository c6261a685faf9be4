"""One of the ranks of `test_copies`: each works on a copy of the files, with a resume state of its own.

torchrun ... -m tests.distributed.copies_rank <folder> <name of the result> <step after which rank 0 dies, 0 for none>
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine import average
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Batch
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask, plain_net

STEPS = 12


class CountingTask(ToyTask):
    """Counts the batches that it trains on."""

    batches = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches += 1
        return super().loss(model, batch)


def die_after(step: int) -> None:
    """Saves at every step, and ends this process once so many are saved."""
    save = ResumeState.save

    def and_die(self: ResumeState, key: str, value: Mapping[str, Any]) -> None:
        save(self, key, value)
        if key == "train-twa" and len(value["losses"]) == step:
            os._exit(9)

    ResumeState.is_due = lambda self: self._folder is not None  # type: ignore[method-assign]
    ResumeState.save = and_die  # type: ignore[method-assign]


def main(folder: Path, name: str, last_step: int) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=15))
    rank = dist.get_rank()
    if last_step:
        die_after(last_step)
    own, task = folder / f"rank-{rank}", CountingTask(plain_net)
    average(
        own / "checkpoints",
        own / "val",
        output=folder / name,
        task=task,
        method="twa",
        method_options={"steps": STEPS, "rescale": False},
        state_dir=own / f"state-{name}",
    )
    (folder / f"{name}-{rank}.batches").write_text(str(task.batches))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
