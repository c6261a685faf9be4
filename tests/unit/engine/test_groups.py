"""Groups: which tensors share a coefficient."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig

from ladle_engine import MethodError
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import equal_parts, group, layers_of
from tests.unit.engine.toy import norm_net, write_checkpoints


def test_equal_parts_are_consecutive_and_about_equally_large(tmp_path: Path) -> None:
    def deep() -> torch.nn.Module:
        return torch.nn.Sequential(*[torch.nn.Linear(6, 6) for _ in range(9)])

    checkpoints = write_checkpoints(tmp_path, deep, count=2)
    binding = bind(deep(), checkpoints)
    for count in (1, 2, 3, 6, 18):
        groups = equal_parts(binding, count)
        assert groups.names == tuple(f"part-{number}" for number in range(1, count + 1))
        order = [groups.of[name] for name in binding.parameters]
        assert order == sorted(order)
        sizes = [0] * count
        for name, parameter in binding.parameters.items():
            sizes[groups.of[name]] += parameter.numel()
        assert max(sizes) <= 378 / count + 36


def test_patterns_group_by_their_first_match_and_the_rest_together(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net, count=2)
    binding = bind(norm_net(), checkpoints)
    groups = group(binding, [r"^0\.", "bias"])
    assert groups.names == (r"^0\.", "rest", "bias"), "in the order of the model"
    assert {name: groups.names[index] for name, index in groups.of.items()} == {
        "0.weight": r"^0\.",
        "0.bias": r"^0\.",
        "1.weight": "rest",
        "1.bias": "bias",
        "3.weight": "rest",
        "3.bias": "bias",
        "1.running_mean": "rest",
        "1.running_var": "rest",
    }


def test_a_pattern_called_rest_is_one_and_a_statistic_goes_with_its_module(tmp_path: Path) -> None:
    def named() -> torch.nn.Module:
        return torch.nn.ModuleDict({"rest": torch.nn.Linear(2, 2), "norm": torch.nn.BatchNorm1d(2)})

    binding = bind(named(), write_checkpoints(tmp_path, named, count=2))
    groups = group(binding, ["rest"])
    assert groups.names == ("rest", "the rest")
    groups = group(binding, ["norm.weight"])
    assert groups.names[groups.of["norm.running_mean"]] == "norm.weight"
    with pytest.raises(MethodError, match="match a parameter no earlier one does, but is `running`"):
        group(binding, ["running"])


LAYERS = {
    "vit.encoder.layer.3.mlp.fc1.weight": "vit.encoder.layer.3",
    "transformer.h.11.attn.c_attn.bias": "transformer.h.11",
    "encoder.block.0.layer.1.DenseReluDense.wi.weight": "encoder.block.0",
    "model.layers.3.block_sparse_moe.experts.0.w1.weight": "model.layers.3",
    "resnet.encoder.stages.1.layers.2.layer.0.convolution.weight": "resnet.encoder.stages.1.layers.2",
    "convnext.encoder.stages.1.downsampling_layer.0.weight": "convnext.encoder.stages.1",
    "swin.encoder.layers.0.blocks.1.attention.self.query.weight": "swin.encoder.layers.0.blocks.1",
    "blocks.3.4.conv_pw.weight": "blocks.3.4",
    "layer3.5.conv2.weight": "layer3.5",
    "features.0.0.weight": "features.0",
    "features.2.1.layer_scale": "features.2.1",
    "features.2.1.block.0.weight": "features.2.1",
    "classifier.weight": "classifier",
}


def test_layers_are_the_blocks_of_transformers_and_convolutional_networks() -> None:
    assert layers_of(LAYERS) == LAYERS


def test_a_number_that_all_names_begin_with_is_no_block() -> None:
    wrapped = {f"0.auto_model.{name}": f"0.auto_model.{layer}" for name, layer in LAYERS.items()}
    assert layers_of(wrapped) == wrapped
    assert layers_of(["0.weight", "0.bias"]) == {"0.weight": "0", "0.bias": "0"}


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (
            ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 3], num_labels=2, layer_type="basic"),
            {f"resnet.encoder.stages.{stage}.layers.{i}" for stage, depth in ((0, 2), (1, 3)) for i in range(depth)},
        ),
        (
            ViTConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, num_labels=2),
            {"vit.layers.0", "vit.layers.1", "vit.layers.2"},
        ),
    ],
    ids=["resnet", "vit"],
)
def test_layers_of_real_networks_are_their_blocks(config: Any, blocks: set[str]) -> None:
    model = AutoModelForImageClassification.from_config(config)
    found = set(layers_of([name for name, _ in model.named_parameters()]).values())
    assert {name for name in found if re.search(r"layers\.\d+$", name)} == blocks
