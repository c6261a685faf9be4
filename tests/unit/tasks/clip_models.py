"""Small CLIP models with tokenizer and processor, made and saved by transformers, and sets of coloured images."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
    "dark grey": (60, 60, 60),
    "white": (245, 245, 245),
}
LENGTH = 32


def clip_tokenizer() -> CLIPTokenizer:
    """Of single letters."""
    letters = [*string.ascii_lowercase, *string.digits, *".,'"]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=LENGTH)


def clip_config() -> CLIPConfig:
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)


def save_beside(folder: Path) -> None:
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)


def clip_folder(folder: Path, count: int = 3) -> Path:
    """`checkpoint-1` ... as a Trainer leaves them, each from other random numbers near the first."""
    torch.manual_seed(0)
    model = CLIPModel(clip_config())
    for step in range(1, count + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        model.save_pretrained(folder / f"checkpoint-{step}")
        save_beside(folder / f"checkpoint-{step}")
    return folder


def image_of(colour: str, number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    noise = generator.integers(-25, 26, (20, 22, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def colour_folders(root: Path, each: int = 4, names: dict[str, str] | None = None) -> Path:
    """A class folder for each colour, under another name where `names` has one."""
    for colour in COLOURS:
        folder = root / (names or {}).get(colour, colour.replace(" ", "_"))
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            image_of(colour, number).save(folder / f"{number}.png")
    return root


def caption_of(number: int) -> str:
    colour = list(COLOURS)[number % len(COLOURS)]
    return f"{colour} number {number}"


def pair_rows(root: Path, count: int) -> list[dict[str, Any]]:
    """Images in `root`, and the rows of a table that names them."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        image_of(list(COLOURS)[number % len(COLOURS)], number).save(root / f"{number:04}.png")
        rows.append({"image": f"{number:04}.png", "caption": caption_of(number)})
    return rows


def pairs_jsonl(root: Path, count: int = 40) -> Path:
    rows = pair_rows(root, count)
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root
