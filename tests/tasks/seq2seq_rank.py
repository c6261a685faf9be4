"""One rank of `test_seq2seq_on_ranks`: jobs that are judged by the BLEU of generated texts.

torchrun ... -m tests.tasks.seq2seq_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from ladle_engine import average
from ladle_engine.placements.base import REPLICATED, SHARDED_MODEL
from ladle_engine.tasks.seq2seq import Seq2Seq
from tests.distributed.start import end_rank

JOBS = (("marian", REPLICATED), ("bart", SHARDED_MODEL), ("t5", SHARDED_MODEL))
"""Marian makes its positions itself, which no shard holds."""
OPTIONS = {"max_new_tokens": 12, "num_beams": 2, "batch_size": 7}
METHODS = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 4}}}


def run(folder: Path, model: str, placement: str, ranks: int) -> dict[str, dict[str, float]]:
    """Collective: method -> its metrics on the select split."""
    outcome = average(
        folder / model,
        folder / "val.jsonl",
        output=folder / f"{model} {placement} {ranks}",
        task=Seq2Seq,
        task_options=OPTIONS,
        metric="bleu",
        method_options=METHODS,
        placement=placement,
    )
    return {score.method: score.select for score in outcome.candidates}


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    ranks = dist.get_world_size()
    found = {model: run(folder, model, placement, ranks) for model, placement in JOBS}
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
