"""A dual encoder of transformers, such as CLIP: features of images and of texts in one space, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.transformers_names import stored_names

ARCHITECTURES = frozenset(
    {
        *("CLIPModel", "MetaClip2Model", "ChineseCLIPModel", "AltCLIPModel", "AlignModel", "SiglipModel"),
        "VisionTextDualEncoderModel",
    }
)
CHUNK = 64
"""Images, or texts, that are encoded together. With more of them, gradients are made by encoding each chunk again."""
INSIDE = "model."
"""Where the model of transformers is in `DualEncoder`."""


class DualEncoder(nn.Module):
    """Around a model of transformers, so that every use of its parameters is one of `forward`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of `pixel_values` or of `input_ids`: normalised features, float32 [N, D], and the scale of the logits."""
        model: Any = self.model
        encode = model.get_image_features if "pixel_values" in inputs else model.get_text_features
        answer = encode(**inputs)
        features = answer if isinstance(answer, Tensor) else answer.pooler_output
        return F.normalize(features.to(torch.float32), dim=-1), self._scale()

    def _scale(self) -> Tensor:
        model: Any = self.model
        by_scale = hasattr(model, "logit_scale")
        stored: Tensor = model.logit_scale if by_scale else model.temperature
        value = stored.to(torch.float32).reshape(())
        return value.exp() if by_scale else 1 / value


def similarities(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """[..., N, D] and [..., M, D] -> scaled products, [..., N, M]: float32 also where the model computes in halves."""
    with torch.autocast(images.device.type, enabled=False):
        return scale.to(torch.float32) * images.to(torch.float32) @ texts.to(torch.float32).transpose(-1, -2)


def build_dual_encoder(checkpoints: CheckpointSet, task: str) -> DualEncoder:
    """No download, no code from the folder, and whatever weights. Raises `TaskError` (model-mismatch)."""
    architectures = (checkpoints.config or {}).get("architectures")
    model = model_config.build(checkpoints, model_config.parse_config(checkpoints), "AutoModel")
    encodes = all(hasattr(model, f"get_{kind}_features") for kind in ("image", "text"))
    if not encodes or not (hasattr(model, "logit_scale") or hasattr(model, "temperature")):
        raise TaskError(
            "model-mismatch",
            f"Task `{task}` must have a dual encoder of images and texts, such as CLIPModel or SiglipModel, but "
            f"`config.json` names {architectures or type(model).__name__}.",
        )
    return DualEncoder(model)


def dual_encoder_names(model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
    """As `Task.stored_names`."""
    inner: Any = model.model
    names = stored_names(inner, checkpoints)
    own = inner.state_dict()
    return {f"{INSIDE}{name}" if name in own else name: stored for name, stored in names.items()}


def encoded(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """`DualEncoder.forward` chunk by chunk; what a chunk needs for gradients is made again when they are computed.

    Raises `TaskError` (model-mismatch) for images or texts that the model does not take.
    """
    count = len(next(iter(inputs.values())))
    chunks = [{name: each[start : start + CHUNK] for name, each in inputs.items()} for start in range(0, count, CHUNK)]
    try:
        if len(chunks) > 1 and torch.is_grad_enabled():
            found = [checkpoint(model, chunk, use_reentrant=False) for chunk in chunks]
        else:
            found = [model(chunk) for chunk in chunks]
    except Exception as error:
        if is_machine_fault(error):
            raise
        shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in chunks[0].items())
        raise TaskError(
            "model-mismatch",
            f"The model must take a batch of the shapes {shapes}, but says: {type(error).__name__}: {str(error)[:500]}",
        ) from error
    return torch.cat([features for features, _ in found]), found[0][1]
