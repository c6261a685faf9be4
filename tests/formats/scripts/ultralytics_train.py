"""ultralytics: a detector trained for four epochs by its own trainer, on images that are made here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
import yaml
from common import State, main, result_of, same
from PIL import Image

os.environ["YOLO_CONFIG_DIR"] = os.environ.get("TMPDIR", "/tmp")
os.environ["YOLO_OFFLINE"] = "true"
import torchvision
import ultralytics
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from ultralytics.utils.nms import TorchNMS

# torchvision's own is compiled for another torch.
torchvision.ops.nms = TorchNMS.nms

KIND = os.environ.get("KIND", "model")


def images(folder: Path) -> Path:
    for number in range(4):
        for kind in ("images", "labels"):
            (folder / kind / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (40 * number, 80, 120)).save(folder / "images" / "train" / f"{number}.png")
        (folder / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    description = folder / "data.yaml"
    description.write_text(f"path: {folder}\ntrain: images/train\nval: images/train\nnames: [thing]\n")
    return description


def tiny() -> str:
    """The model's own description, at an eighth of its narrowest width."""
    described = yaml.safe_load((Path(ultralytics.__file__).parent / "cfg/models/11/yolo11.yaml").read_text())
    described["scales"] = {"n": [0.33, 0.03125, 64]}
    path = Path(tempfile.mkdtemp()) / "yolo11n.yaml"
    path.write_text(yaml.safe_dump(described))
    return str(path)


def write(folder: Path) -> None:
    data = images(folder.parent / f"{folder.name}-images")
    YOLO(tiny()).train(
        data=str(data),
        epochs=4,
        imgsz=64,
        batch=4,
        device="cpu",
        workers=0,
        save_period=1,
        project=str(folder),
        name="train",
        plots=False,
        val=False,
        amp=False,
        exist_ok=True,
        verbose=False,
        nbs=4,
        lr0=0.1,
        warmup_epochs=0,
        optimizer="SGD",
    )


def states(folder: Path) -> list[State]:
    found = []
    for name in [f"epoch{number}.pt" for number in range(4)]:
        model, _ = load_checkpoint(folder / "train" / "weights" / name)
        found.append(model.state_dict())
    return found


def use(folder: Path, result: Path) -> None:
    model = DetectionModel(tiny(), nc=1, verbose=False)
    model.load_state_dict(result_of(result))
    model.eval()(torch.zeros(1, 3, 64, 64))
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
