"""OLMo-core: its `Checkpointer` with a transformer's train module, on two ranks under FSDP."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from common import State, main, result_of
from olmo_core.config import DType
from olmo_core.distributed.checkpoint import load_model_and_optim_state
from olmo_core.distributed.parallel import DataParallelType
from olmo_core.nn.transformer import Transformer, TransformerConfig
from olmo_core.optim import AdamWConfig
from olmo_core.train.checkpoint import Checkpointer
from olmo_core.train.train_module import TransformerTrainModule
from olmo_core.train.train_module.transformer import TransformerDataParallelConfig
from ranks import on_ranks

STEPS = (2, 4, 6, 8)


def net() -> Transformer:
    config = TransformerConfig.llama_like(d_model=16, vocab_size=32, n_layers=2, n_heads=2, init_seed=0)
    return config.build(init_device="cpu")


def train(folder: Path) -> None:
    module = TransformerTrainModule(
        net(),
        AdamWConfig(lr=1e-2),
        rank_microbatch_size=16,
        max_sequence_length=8,
        dp_config=TransformerDataParallelConfig(name=DataParallelType.fsdp, param_dtype=DType.float32),
        device=torch.device("cpu"),
    )
    checkpointer = Checkpointer(work_dir=folder.parent / f"{folder.name}-work")
    for step in range(1, 9):
        tokens = torch.randint(0, 32, (2, 8))
        logits = module.model(tokens)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        module.optim.step()
        module.optim.zero_grad()
        if step in STEPS:
            state = {"global_step": step, "world_size": dist.get_world_size()}
            checkpointer.save(str(folder / f"step{step}"), module, state)


def write(folder: Path) -> None:
    on_ranks(train, folder)


def states(folder: Path) -> list[State]:
    found = []
    for step in STEPS:
        model = net()
        load_model_and_optim_state(folder / f"step{step}" / "model_and_optim", model)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def use(folder: Path, result: Path) -> None:
    model = net()
    model.load_state_dict({name.removeprefix("model."): value for name, value in result_of(result).items()})


if __name__ == "__main__":
    main(write, states, use)
