"""A ViT of transformers, trained on digits and saved by transformers, through every door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTForImageClassification

from ladle_engine.tasks.examples import split
from tests.builders import digits
from tests.tasks.doors import Doors


def make_folder(folder: Path) -> None:
    """Four epochs of a small ViT."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=2,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    images, labels = digits()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(1, 5):
        for indices in torch.randperm(640).split(32):
            loss = F.cross_entropy(model(images[indices]).logits, labels[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.save_pretrained(folder / f"checkpoint-{epoch}")


def test_a_vit_loads_back_and_scores_what_the_report_says(doors: Doors) -> None:
    make_folder(doors.data / "vit")
    images, labels = digits()
    images, labels = images[700:1000], labels[700:1000]
    np.savez(doors.data / "vit.npz", images=images.numpy(), labels=labels.numpy())
    results = doors.through_all(doors.data / "vit", doors.data / "vit.npz", task="image-classification")
    _, select = split(300, 0.5, 0)
    for result in results:
        model = ViTForImageClassification.from_pretrained(result.folder).eval()
        with torch.no_grad():
            logits = model(images[select]).logits
        assert result.winner["loss"] == pytest.approx(float(F.cross_entropy(logits, labels[select])), abs=1e-4)
        accuracy = float((logits.argmax(dim=1) == labels[select]).float().mean())
        assert result.winner["accuracy"] == pytest.approx(accuracy, abs=1e-4)
