"""WeNet, which is in no package registry: what its training saves at the end of each epoch.

Follows wenet-e2e/wenet, wenet/utils/checkpoint.py (`save_checkpoint`, `load_checkpoint`) at commit 035469e7.
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from common import State, main, one_step, result_of, same, small_net


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    save(model, folder / "init.pt", {})
    for epoch in range(4):
        loss = one_step(model, optimizer)
        save(model, folder / f"epoch_{epoch}.pt", {"epoch": epoch, "lr": 0.05, "cv_loss": loss, "step": epoch})
    (folder / "final.pt").symlink_to("epoch_3.pt")
    (folder / "train.yaml").write_text(yaml.dump({"model": "small", "encoder_conf": {"output_size": 4}}))


def save(model: torch.nn.Module, path: Path, infos: dict[str, object]) -> None:
    torch.save(model.state_dict(), path)
    path.with_suffix(".yaml").write_text(yaml.dump({**infos, "save_time": "26/11/2026 12:00:00"}))


def states(folder: Path) -> list[State]:
    return [torch.load(folder / f"epoch_{epoch}.pt") for epoch in range(4)]


def use(folder: Path, result: Path) -> None:
    model = small_net()
    missing, unexpected = model.load_state_dict(result_of(result), strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
