"""One rank of `test_language_on_ranks`: jobs on language models, in placements that lay the model out in other ways.

torchrun ... -m tests.distributed.language_rank <folder> <placement> ...
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from ladle_engine import average
from ladle_engine.tasks.causal_lm import CausalLm
from ladle_engine.tasks.text import token_losses
from tests.distributed.start import end_rank

KINDS = ("gpt2", "opt", "gemma2")
"""With tied weights; one whose documents need rows of their own, and one whose logits are capped."""


def main(folder: Path, placements: list[str]) -> None:
    dist.init_process_group("gloo", timeout=timedelta(minutes=2))
    # Several chunks for each batch.
    token_losses.CHUNK_NUMBERS = 330 * 50
    for kind in KINDS:
        for placement in placements:
            average(
                folder / kind, folder / "val.txt", output=folder / f"{kind}, {placement}, {dist.get_world_size()}",
                task=CausalLm, task_options={"documents": "line", "block_size": 40, "batch_size": 2},
                method="twa", method_options={"steps": 6}, placement=placement,
            )  # fmt: skip
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
