"""CLIP's vision transformer with a classification head, under the names that OpenAI and open_clip give them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_WIDTH = 64
"""Of one attention head, in every vision transformer of CLIP's."""


class QuickGelu(nn.Module):
    """The activation of OpenAI's models."""

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


ACTIVATIONS: Mapping[str, type[nn.Module]] = {"quick_gelu": QuickGelu, "gelu": nn.GELU}


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        layers = {
            "c_fc": nn.Linear(width, hidden),
            "gelu": ACTIVATIONS[activation](),
            "c_proj": nn.Linear(hidden, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.ln_1(tokens)
        tokens = tokens + self.attn(inner, inner, inner, need_weights=False)[0]
        mixed: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return mixed


class Blocks(nn.Module):
    def __init__(self, depth: int, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, hidden, activation) for _ in range(depth))


class ClipVit(nn.Module):
    """[B, 3, H, W] -> [B, features]"""

    def __init__(
        self, *, patch: int, tokens: int, width: int, depth: int, hidden: int, features: int, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Blocks(depth, width, hidden, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, features))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            tokens = block(tokens)
        features: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return features


class SoupClassifier(nn.Module):
    """A linear layer on normalised features, as model soups fine-tune it. [B, 3, H, W] -> [B, classes]"""

    def __init__(self, visual: ClipVit, features: int, classes: int, bias: bool) -> None:
        super().__init__()
        self.visual = visual
        self.classification_head = nn.Linear(features, classes, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classification_head(F.normalize(self.visual(images), dim=-1))
        return logits
