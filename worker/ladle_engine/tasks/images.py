"""Image data sets: a folder of class folders, an `.npz`, or a safetensors file of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.class_folders import find_labels, find_images
from ladle_engine.tasks.image_arrays import as_images, as_labels, read_arrays
from ladle_engine.tasks.image_files import MODES, decode, image_size
from ladle_engine.tasks.preprocessing import PlainPreprocessing, Preprocessing

MAX_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What the model takes."""

    channels: int
    num_classes: int
    class_ids: Mapping[str, int] | None
    """Class name -> label, where the model's config says."""
