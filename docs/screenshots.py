"""Draws the pictures of the command in the docs: `python docs/screenshots.py`. Needs the extra worker."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from ladle.cli.inspection_view import inspection_view, short_form
from ladle_contracts import Inspection
from ladle_engine import inspect
from ladle_worker.convert import inspection

IMAGES = Path(__file__).parent / "images"
FOLDER = "runs/vit"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / FOLDER
        train(folder)
        good = look(folder, temporary)
        draw("inspect", f"ladle inspect {FOLDER}", inspection_view(good))
        draw("inspect-short", f"ladle run {FOLDER} val", short_form(good))
        spoil(folder)
        draw("inspect-problems", f"ladle inspect {FOLDER}", inspection_view(look(folder, temporary)))


def train(folder: Path) -> None:
    """What transformers' Trainer leaves of a small ViT."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32)
    model = ViTForImageClassification(config)
    for step in range(200, 1001, 200):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        model.save_pretrained(folder / f"checkpoint-{step}")
        history = [{"step": each, "eval_loss": 0.4 + 40 / each} for each in range(200, step + 1, 200)]
        state = {"global_step": step, "log_history": history, "best_model_checkpoint": f"checkpoint-{step}"}
        (folder / f"checkpoint-{step}/trainer_state.json").write_text(json.dumps(state))
    model.save_pretrained(folder)


def spoil(folder: Path) -> None:
    weights = folder / "checkpoint-400/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    state = load_file(folder / "checkpoint-600/model.safetensors")
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(10, 32), torch.zeros(10)
    save_file(state, folder / "checkpoint-600/model.safetensors", {"format": "pt"})
    shutil.rmtree(folder / "checkpoint-800")
    (folder / "checkpoint-800").mkdir()
    (folder / "checkpoint-800/optimizer.pt").write_bytes(b"")
    (folder / "flax_model.msgpack").write_bytes(b"x")


def look(folder: Path, temporary: str) -> Inspection:
    """With paths as they would be on somebody's machine."""
    text = inspection(inspect(folder)).model_dump_json().replace(f"{temporary}/", "")
    return Inspection.model_validate_json(text)


def draw(name: str, title: str, view: object) -> None:
    console = Console(record=True, width=150, highlight=False, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(view)
    # Without a fixed id, every picture changes each time.
    console.save_svg(str(IMAGES / f"{name}.svg"), title=title, unique_id=name)


if __name__ == "__main__":
    main()
