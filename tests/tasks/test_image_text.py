"""A small CLIP, trained on coloured pictures and saved by transformers, through every door: by classes, by captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from ladle_engine.tasks.examples import split
from ladle_engine.tasks.vision.pairs import groups_of
from tests.tasks.doors import Doors, Result
from tests.unit.tasks.clip_models import (
    COLOURS,
    caption_of,
    clip_config,
    clip_tokenizer,
    colour_folders,
    image_of,
    pairs_jsonl,
    save_beside,
)

NAMES = sorted(COLOURS, key=lambda name: name.replace(" ", "_"))
EACH, PAIRS = 8, 96


def train(folder: Path) -> None:
    """Four checkpoints of a contrastive training on pictures with captions."""
    torch.manual_seed(0)
    model, tokenizer = CLIPModel(clip_config()), clip_tokenizer()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    names = list(COLOURS)
    for step in range(1, 5):
        for batch in range(12):
            number = step * 100 + batch
            texts = [f"a photo of a {name}." if batch % 2 else f"{name} number {number}" for name in names]
            inputs = tokenizer(texts, padding=True, return_tensors="pt")
            pixels = processor(images=[image_of(name, 1000 + number) for name in names], return_tensors="pt")
            loss = model(**inputs, **pixels, return_loss=True).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.save_pretrained(folder / f"checkpoint-{step}")
        save_beside(folder / f"checkpoint-{step}")


@pytest.fixture(scope="module")
def clip(doors: Doors) -> Path:
    train(doors.data / "clip")
    return doors.data / "clip"


def loaded(result: Result) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessorPil]:
    """What is in the result's folder, with nothing from elsewhere."""
    return (
        CLIPModel.from_pretrained(result.folder).requires_grad_(False).eval(),
        CLIPTokenizer.from_pretrained(result.folder),
        CLIPImageProcessorPil.from_pretrained(result.folder),
    )


def test_zero_shot_classes_load_back_and_score_what_the_report_says(doors: Doors, clip: Path) -> None:
    data = colour_folders(doors.data / "colours", each=EACH)
    results = doors.through_all(clip, data, task="image-text", task_options={"batch_size": 7})
    labels = torch.arange(len(NAMES)).repeat_interleave(EACH)
    _, select = split(len(labels), 0.5, 0)
    for result in results:
        model, tokenizer, processor = loaded(result)
        images = [image_of(name, number) for name in NAMES for number in range(EACH)]
        inputs = tokenizer([f"a photo of a {name}." for name in NAMES], padding=True, return_tensors="pt")
        logits = model(**inputs, **processor(images=images, return_tensors="pt")).logits_per_image[select]
        assert result.winner["loss"] == pytest.approx(float(F.cross_entropy(logits, labels[select])), abs=1e-4)
        assert result.winner["accuracy"] == pytest.approx(right(logits, labels[select]), abs=1e-4)
        assert result.winner["accuracy"] > 0.5


def test_captions_load_back_and_score_what_the_report_says(doors: Doors, clip: Path) -> None:
    data = pairs_jsonl(doors.data / "captions", PAIRS)
    groups = groups_of(PAIRS, 6)
    # The doors name their results by the folder.
    again = shutil.copytree(clip, doors.data / "clip-again")
    results = doors.through_all(again, data, task="image-text", task_options={"candidates": 6, "batch_size": 3})
    _, select = split(len(groups), 0.5, 0)
    own = torch.arange(6)
    for result in results:
        model, tokenizer, processor = loaded(result)
        losses, by_image, by_text = [], [], []
        for group in groups[select].tolist():
            inputs = tokenizer([caption_of(number) for number in group], padding=True, return_tensors="pt")
            images = [image_of(list(COLOURS)[number % len(COLOURS)], number) for number in group]
            answer = model(**inputs, **processor(images=images, return_tensors="pt"), return_loss=True)
            losses.append(float(answer.loss))
            by_image.append(right(answer.logits_per_image, own))
            by_text.append(right(answer.logits_per_text, own))
        assert result.winner["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        assert result.winner["accuracy"] == pytest.approx(sum(by_image) / len(by_image), abs=1e-4)
        assert result.winner["text-recall-1"] == pytest.approx(sum(by_text) / len(by_text), abs=1e-4)


def right(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())


def test_the_service_lists_the_task(doors: Doors) -> None:
    with doors.stack.client() as client:
        assert "image-text" in json.dumps([str(task) for task in client.tasks()])
