"""Two ranks, of which the second one does not come to the last exchange: for `test_flight_recorder`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ladle_worker import flight_recorder, rank


def main(folder: Path) -> None:
    flight_recorder.prepare(folder)
    with rank._process_group() as number:
        for _ in range(3):
            dist.all_reduce(torch.ones(4))
        told = folder / "flight-recorder-0"
        deadline = time.monotonic() + 120
        if number == 1:
            while not told.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            return
        try:
            dist.all_reduce(torch.ones(7))
        except RuntimeError as error:
            if not flight_recorder.is_timeout(error):
                raise
            flight_recorder.tell(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
