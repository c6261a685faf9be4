"""The `.pt` files of model soups: CLIP's encoder and a head, from the names and shapes of the tensors alone."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.image_classification import ImageClassification, ImageOptions
from ladle_engine.testing import check_task

CLASSES = 3
PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def encoder(seed: int, activation: str = "quick_gelu") -> CLIPVisionModelWithProjection:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=96, projection_dim=24, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, hidden_act=activation,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def openai_names(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of transformers' vision tower under the names of OpenAI's CLIP."""
    state = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
    found = {
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "proj": state["visual_projection.weight"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        found |= {f"ln_pre.{kind}": state[f"pre_layrnorm.{kind}"], f"ln_post.{kind}": state[f"post_layernorm.{kind}"]}
        for layer in range(2):
            here, there = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            found[f"{there}.attn.in_proj_{kind}"] = torch.cat(
                [state[f"{here}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            found |= {f"{there}.{name}.{kind}": state[f"{here}.{part}.{kind}"] for part, name in PARTS.items()}
    return found


def soup(seed: int, prefix: str = "model.", activation: str = "quick_gelu") -> dict[str, Tensor]:
    """What `torch.save(model.module.state_dict(), ...)` of model soups' `ModelWrapper` writes."""
    torch.manual_seed(seed)
    left_over = {
        "positional_embedding": torch.randn(77, 24),
        "text_projection": torch.randn(24, 24),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.randn(50, 24),
        "ln_final.weight": torch.ones(24),
        "ln_final.bias": torch.zeros(24),
    }
    visual = {f"visual.{name}": tensor for name, tensor in openai_names(encoder(seed, activation)).items()}
    head = {"classification_head.weight": torch.randn(CLASSES, 24), "classification_head.bias": torch.randn(CLASSES)}
    return OrderedDict({f"{prefix}{name}": tensor for name, tensor in (left_over | visual).items()} | head)


def folder_of(root: Path, **changes: str) -> Path:
    root.mkdir(exist_ok=True)
    for number in range(3):
        torch.save(soup(number, **changes), root / f"model_{number}.pt")
    return root


def loaded(folder: Path, task: ImageClassification) -> nn.Module:
    checkpoints = discover(folder)
    model = task.build_model(checkpoints)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    binding.load(checkpoints.reference)
    return model.eval()


@pytest.fixture
def val(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "val" / str(number % CLASSES)
        folder.mkdir(exist_ok=True, parents=True)
        Image.fromarray(generator.integers(0, 256, (40, 37, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "val"


@pytest.mark.parametrize("prefix", ["model.", "image_encoder.model.", "module.model."])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_the_logits_are_those_of_transformers_clip_and_the_head(tmp_path: Path, prefix: str, activation: str) -> None:
    folder = folder_of(tmp_path / "soups", prefix=prefix, activation=activation)
    checkpoints = discover(folder)
    assert ImageClassification.recognises(checkpoints)
    assert ImageClassification().shape(checkpoints).num_classes == CLASSES
    model = loaded(folder, ImageClassification(ImageOptions(activation=activation)))
    images = torch.randn(5, 3, 32, 32)
    features = F.normalize(encoder(2, activation)(pixel_values=images).image_embeds, dim=-1)
    head = soup(2)
    expected = features @ head["classification_head.weight"].T + head["classification_head.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_images_are_prepared_as_clips_processor_does(tmp_path: Path, val: Path) -> None:
    task = ImageClassification()
    data = task.open_data(val, discover(folder_of(tmp_path / "soups")))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    files = sorted(val.rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    expected = processor(images=[Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(data.batch(torch.arange(len(files)))["pixel_values"], expected, rtol=0, atol=1e-6)


def test_a_folder_of_soups_is_averaged_and_keeps_what_is_left_of_the_text_part(tmp_path: Path, val: Path) -> None:
    folder = folder_of(tmp_path / "soups")
    check_task("image-classification", folder, val)
    average(folder, val, output=tmp_path / "out", method="uniform")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["task"] == "image-classification"
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == soup(0).keys()
    # No gradient reaches it in fine-tuning, so all files of one run have the same; here it is one of theirs.
    kept = written["model.token_embedding.weight"]
    assert any(torch.equal(kept, soup(number)["model.token_embedding.weight"]) for number in range(3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.visual.positional_embedding": torch.zeros(16, 128)}, "16 positions"),
        ({"model.visual.conv1.weight": torch.zeros(128, 3, 8, 7)}, "8 x 7 pixels"),
        ({"model.visual.conv1.weight": torch.zeros(100, 3, 8, 8)}, "a width of 100"),
        ({"classification_head.weight": torch.zeros(3, 7)}, "takes 7"),
        ({"classification_head.weight": torch.zeros(3)}, "of shape (3,)"),
        ({"model.visual.proj": torch.zeros(3)}, "as `model.visual.proj`"),
    ],
)
def test_what_is_no_vision_transformer_of_clips_is_refused(
    tmp_path: Path, changes: dict[str, Tensor], words: str
) -> None:
    for number in range(2):
        torch.save(soup(number) | changes, tmp_path / f"model_{number}.pt")
    with pytest.raises(EngineError) as raised:
        ImageClassification().build_model(discover(tmp_path))
    assert raised.value.code == "model-mismatch"
    assert words in raised.value.message


def test_a_block_that_is_missing_is_named(tmp_path: Path) -> None:
    for number in range(2):
        kept = {name: each for name, each in soup(number).items() if not name.endswith("resblocks.1.ln_1.bias")}
        torch.save(kept, tmp_path / f"model_{number}.pt")
    with pytest.raises(EngineError, match=r"resblocks\.1\.ln_1\.bias"):
        loaded(tmp_path, ImageClassification())
