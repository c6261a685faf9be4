"""One of the ranks of `test_reading_on_ranks`, each on a copy of the files.

torchrun ... -m tests.distributed.reading_rank <folder> <name of the result> <rank whose copy changes, -1 for none>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine import EngineError, average
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.tasks.base import Batch
from tests.distributed.start import end_rank
from tests.unit.engine.test_reading import QUICK, wide_net
from tests.unit.engine.toy import ToyTask


class ChangingTask(ToyTask):
    """Changes a file once training has begun."""

    _changes: Path | None = None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if self._changes is not None and self.losses_taken == 4:
            self._changes.write_bytes(self._changes.with_name("step-0.safetensors").read_bytes())
        return super().loss(model, batch)


def main(folder: Path, name: str, changing: int) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    own, task = folder / f"rank-{rank}", ChangingTask(wide_net)
    if rank == changing:
        task._changes = own / "step-2.safetensors"
    said = {}
    try:
        average(own, own, output=folder / name, task=task, method_options={"options": QUICK})
    except EngineError as error:
        said = {"code": error.code, "message": error.message}
    files = sorted(own.glob("*.safetensors"))
    said["readings"] = sum(COUNTS.bytes[file] for file in files) / sum(file.stat().st_size for file in files)
    said["openings"] = max(COUNTS.opens[file] for file in files)
    (folder / f"{name}-{rank}.json").write_text(json.dumps(said))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
