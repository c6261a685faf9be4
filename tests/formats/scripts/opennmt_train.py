"""OpenNMT-py: its `ModelSaver` with the parts of an `NMTModel`."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import absent
import torch
from common import State, main, result_of

absent.stand_in("spacy", "ahocorasick", "fasttext", "flask", "waitress", "ctranslate2", "rapidfuzz")

from onmt.models.model_saver import ModelSaver, load_checkpoint  # noqa: E402
from torch import nn  # noqa: E402

STEPS = (10, 20, 30, 40)


class Translator(nn.Module):
    """As `NMTModel` has it: the generator is a module of its own, which the saver takes out of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        self.generator = nn.Linear(8, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.generator(self.decoder(self.encoder(tokens)))


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = Translator()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    options = argparse.Namespace(encoder_type="transformer", lora_layers=[], lora_embedding=False, hidden_size=8)
    saver = ModelSaver(str(folder / "model"), model, options, vocabs(), optimizer, keep_checkpoint=-1)
    for step in range(1, 41):
        tokens = torch.randint(0, 16, (4, 3))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            saver.save(step)


def vocabs() -> dict[str, Any]:
    import pyonmttok

    words = pyonmttok.build_vocab_from_tokens([f"w{number}" for number in range(12)])
    return {"src": words, "tgt": words, "data_task": "seq2seq", "decoder_start_token": "<s>"}


def states(folder: Path) -> list[State]:
    # OpenNMT-py is of the time when `torch.load` ran what a file asks for by default.
    torch.load = functools.partial(torch.load, weights_only=False)
    # As onmt/model_builder.py puts the two into the model.
    loaded = [load_checkpoint(str(folder / f"model_step_{step}.pt")) for step in STEPS]
    return [{**each["model"], **{f"generator.{n}": v for n, v in each["generator"].items()}} for each in loaded]


def use(folder: Path, result: Path) -> None:
    Translator().load_state_dict(result_of(result), strict=True)


if __name__ == "__main__":
    main(write, states, use)
