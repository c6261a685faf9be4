"""Made sentences with a meaning that a small model can learn, and models that are trained on them by a plain loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tasks.doors import Result

GOOD = ("lovely", "brilliant", "moving", "funny", "great")
BAD = ("boring", "terrible", "dull", "weak", "awful")
THINGS = ("film", "story", "actor", "ending", "music")
PEOPLE = ("anna", "omar", "li", "marie", "john smith", "ada lovelace")
PLACES = ("paris", "new york", "rome", "the hague")
VERBS = ("visits", "leaves", "likes", "remembers")


def reviews(count: int, seed: int, *, noise: float = 0.1) -> list[dict[str, Any]]:
    """Two words of judgement each: both good 2, both bad 0, else 1. Some labels are wrong."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [chance.choice(GOOD if chance.random() < 0.5 else BAD) for _ in range(2)]
        things = chance.sample(THINGS, 2)
        text = " and ".join(f"a {word} {thing}" for word, thing in zip(words, things, strict=True))
        label = sum(word in GOOD for word in words)
        label = chance.randrange(3) if chance.random() < noise else label
        rows.append({"text": f"{text} {'really ' * chance.randrange(4)}".strip(), "label": label})
    return rows


def reports(count: int, seed: int) -> list[dict[str, Any]]:
    """Who does what, and where; tags in IOB2."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for kind, names in (("PER", PEOPLE), ("", VERBS), ("LOC", PLACES)):
            name = chance.choice(names).split()
            words += name
            tags += [f"{'I' if number else 'B'}-{kind}" if kind else "O" for number in range(len(name))]
        if chance.random() < 0.5:
            words.append("today")
            tags.append("O")
        if chance.random() < 0.1:
            tags[0] = "O"
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def uniform_of(result: Result) -> Mapping[str, float]:
    """The scores of a candidate whose coefficients no training made."""
    found: Mapping[str, float] = next(
        row["select"] for row in result.report["candidates"] if row["method"] == "uniform"
    )
    return found


def train(folder: Path, model: Any, tokenizer: Any, batches: Sequence[Any], loss_of: Callable[[Any, Any], Any]) -> None:
    """`checkpoint-5` to `checkpoint-8` of the model, with the tokenizer, as a Trainer leaves them."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, 9):
        for batch in batches:
            loss = loss_of(model, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch > 4:
            model.save_pretrained(folder / f"checkpoint-{epoch}")
            tokenizer.save_pretrained(folder / f"checkpoint-{epoch}")
