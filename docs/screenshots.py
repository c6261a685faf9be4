"""Draws the pictures of the command in the docs. From the repository, in the development environment:

python -m docs.screenshots          the pictures of docs/inspect.md
python -m docs.screenshots layouts  docs/layouts.md and its pictures, once `make test-formats` has installed the tools
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from ladle.cli.inspection_view import inspection_view, short_form
from ladle_contracts import Inspection
from ladle_engine import inspect
from ladle_worker.convert import inspection
from tests.formats.kinds import KINDS, Kind
from tests.formats.tool import writing

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
FOLDER = "runs/vit"


LAYOUTS = """# What `ladle inspect` shows of each tool's folder

Each picture is of a folder that the tool wrote, as [formats](formats.md) says, with the arguments in that table.
`python -m docs.screenshots layouts` draws them again.
"""


def main() -> None:
    if sys.argv[1:] == ["layouts"]:
        draw_layouts()
    else:
        draw_inspect()


def draw_layouts() -> None:
    """What the real tools leave, each inspected."""
    sections = [LAYOUTS]
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "runs" / kind.name
            with writing(kind, folder, Path(temporary) / "mean.safetensors"):
                seen = look(folder / kind.folder, temporary, **kind.choosing)
                draw(f"layouts/{kind.name}", command(kind), inspection_view(seen))
        sections.append(f"## {kind.name}\n![{command(kind)}](images/layouts/{kind.name}.svg)\n")
    (DOCS / "layouts.md").write_text("\n".join(sections))


def command(kind: Kind) -> str:
    """With the arguments in `kind` that say what to look at."""
    words = ["ladle inspect", (Path("runs") / kind.name / kind.folder).as_posix()]
    for name, value in kind.choosing.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        else:
            words.append(f"{option} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)


def draw_inspect() -> None:
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


def look(folder: Path, temporary: str, **arguments: Any) -> Inspection:
    """With paths as they would be on somebody's machine."""
    text = inspection(inspect(folder, **arguments)).model_dump_json().replace(f"{temporary}/", "")
    return Inspection.model_validate_json(text)


def draw(name: str, title: str, view: object) -> None:
    console = Console(record=True, width=150, highlight=False, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(view)
    path = IMAGES / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a fixed id, every picture changes each time.
    console.save_svg(str(path), title=title, unique_id=path.stem)


if __name__ == "__main__":
    main()
