"""diffusers: `checkpoint-N/unet` and `unet_ema`, as its training scripts save them, and the pipeline at the top."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from common import State, main, result_of, same
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

COMPONENT = os.environ.get("COMPONENT", "unet")
CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


def write(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = UNet2DModel(**CONFIG)
    ema = EMAModel(model.parameters(), decay=0.5, model_cls=UNet2DModel, model_config=model.config)
    scheduler = DDPMScheduler(num_train_timesteps=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    # examples/unconditional_image_generation/train_unconditional.py, `save_model_hook`.
    def save_model_hook(models: list[UNet2DModel], weights: list[State], output_dir: str) -> None:
        ema.save_pretrained(str(Path(output_dir) / "unet_ema"))
        for each in models:
            each.save_pretrained(str(Path(output_dir) / "unet"))
            weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)
    model, optimizer = accelerator.prepare(model, optimizer)
    for step in range(1, 9):
        images, noise = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
        times = torch.randint(0, 10, (2,))
        loss = torch.nn.functional.mse_loss(model(scheduler.add_noise(images, noise, times), times).sample, noise)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        if step % 2 == 0:
            accelerator.save_state(str(folder / f"checkpoint-{step}"))
    DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(folder)


def states(folder: Path) -> list[State]:
    return [
        UNet2DModel.from_pretrained(folder / f"checkpoint-{step}", subfolder=COMPONENT).state_dict()
        for step in (2, 4, 6, 8)
    ]


def use(folder: Path, result: Path) -> None:
    home = result / COMPONENT if (result / COMPONENT).is_dir() else result
    unet = UNet2DModel.from_pretrained(home)
    same(unet.state_dict(), result_of(home))
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=2))(num_inference_steps=2)


if __name__ == "__main__":
    main(write, states, use)
