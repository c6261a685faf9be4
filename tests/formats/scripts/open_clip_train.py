"""open_clip: what `open_clip_train/main.py` saves at the end of each epoch, `epoch_latest.pt` included."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from common import State, main, result_of, same

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def clip() -> torch.nn.Module:
    config = Path(__file__).parent
    del config
    return open_clip.CLIP(**CONFIG)


def write(folder: Path) -> None:
    model = clip()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    for completed_epoch in (1, 2, 3, 4):
        images, texts = torch.randn(4, 3, 32, 32), torch.randint(1, 64, (4, 8))
        image_features, text_features, scale = model(images, texts)[:3]
        loss = open_clip.ClipLoss()(image_features, text_features, scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # open_clip_train/main.py, "Saving checkpoints."
        checkpoint_dict = {
            "epoch": completed_epoch,
            "name": "run",
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(checkpoint_dict, checkpoints / f"epoch_{completed_epoch}.pt")
        torch.save(checkpoint_dict, checkpoints / "epoch_latest.pt")


def states(folder: Path) -> list[State]:
    found = []
    for epoch in (1, 2, 3, 4):
        model = clip()
        open_clip.load_checkpoint(model, str(folder / "checkpoints" / f"epoch_{epoch}.pt"))
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def use(folder: Path, result: Path) -> None:
    model = clip()
    open_clip.load_checkpoint(model, str(result / "model.safetensors"))
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
