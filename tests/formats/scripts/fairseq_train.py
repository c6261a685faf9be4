"""fairseq: `fairseq-train` itself, on its dummy task. fairseq 0.12.2 from its source distribution, uncompiled."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import absent
from common import State, main, result_of, same

_dataclass = dataclasses.dataclass


def _as_before_python_311(cls: Any = None, **options: Any) -> Any:
    """fairseq and hydra of its day have defaults that Python 3.11 takes for mutable ones, unless they have a hash."""

    def one(cls: Any) -> Any:
        old = {"unsafe_hash": True} if cls.__module__.startswith(("fairseq", "hydra")) else {}
        return _dataclass(cls, **(old | options))

    return one if cls is None else one(cls)


dataclasses.dataclass = _as_before_python_311  # type: ignore[assignment]
absent.stand_in("sacrebleu", "bitarray")

from fairseq import checkpoint_utils, tasks  # noqa: E402
from fairseq.data import data_utils  # noqa: E402
from fairseq_cli import train  # noqa: E402

TASK = (
    "--task dummy_lm --arch transformer_lm --tokens-per-sample 8 --dataset-size 32 --dict-size 30 --batch-size 8 "
    "--decoder-embed-dim 16 --decoder-layers 1 --decoder-attention-heads 2 --decoder-ffn-embed-dim 16 "
    "--decoder-learned-pos"
)
RUN = "--cpu --max-epoch 4 --optimizer adam --lr 0.01 --log-format none --no-progress-bar --disable-validation"


def write(folder: Path) -> None:
    def batches(indices: Any, *_: Any, **__: Any) -> list[Any]:
        """Instead of fairseq's, which is compiled."""
        return [indices[start : start + 8] for start in range(0, len(indices), 8)]

    arguments = ["fairseq-train", *TASK.split(), *RUN.split(), "--save-dir", str(folder)]
    with mock.patch.object(sys, "argv", arguments), mock.patch.object(data_utils, "batch_by_size", batches):
        train.cli_main()


def states(folder: Path) -> list[State]:
    paths = [str(folder / f"checkpoint{epoch}.pt") for epoch in (1, 2, 3, 4)]
    return [checkpoint_utils.load_checkpoint_to_cpu(path)["model"] for path in paths]


def use(folder: Path, result: Path) -> None:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint4.pt"))
    task = tasks.setup_task(state["cfg"]["task"])
    model = task.build_model(state["cfg"]["model"])
    model.load_state_dict(result_of(result), strict=True)
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
