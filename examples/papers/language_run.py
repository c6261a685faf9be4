"""A small GPT-2: trained on descriptions of packages and on programs, fine-tuned on Python's documentation."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import places  # noqa: F401  # finds the benchmarks
import torch
from debian import descriptions
from sources import python_documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
MOST_CHARACTERS = 20_000
"""Of a document; what follows is left out, so that no long page outweighs the others."""

DESCRIPTIONS = 12_000
"""About as much text as the library's sources."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """2.6 million parameters."""

    vocabulary: int = 4_096
    block: int = 128
    width: int = 192
    layers: int = 4
    batch: int = 16
    first_steps: int = 1_200
    first_rate: float = 1.5e-3
    steps: int = 400
    rate: float = 5e-4
    checkpoints: int = 10
    val_documents: int = 40
    test_documents: int = 80
    train_documents: int = 300


QUICK = Settings(
    vocabulary=300, block=32, width=32, layers=1, batch=4, first_steps=5, steps=20, checkpoints=5, val_documents=2,
    test_documents=2, train_documents=4,
)  # fmt: skip


def make_base(folder: Path, settings: Settings) -> None:
    """Fills `folder` with the first model and its tokenizer, as transformers saves them."""
    texts = _first_texts()
    tokenizer = _tokenizer(texts, settings)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(_config(tokenizer, settings))
    print(f"{sum(each.numel() for each in model.parameters()):,} parameters", flush=True)
    train(model, tokens_of(tokenizer, texts), settings, settings.first_steps, settings.first_rate, seed=0)
    _save(folder, model, tokenizer)


def make_run(folder: Path, base: Path, seed: int, settings: Settings) -> None:
    """Fills `folder`: val and test.jsonl, whole documents, and checkpoints/ of the fine-tuning on others."""
    documents = [page.decode()[:MOST_CHARACTERS] for page in python_documents()]
    random.Random(seed).shuffle(documents)
    first = settings.val_documents + settings.test_documents
    val, test = documents[: settings.val_documents], documents[settings.val_documents : first]
    for name, part in (("val", val), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part) + "\n")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = GPT2LMHeadModel.from_pretrained(base)
    tokens = tokens_of(tokenizer, documents[first : first + settings.train_documents])
    every = settings.steps // settings.checkpoints

    def keep(step: int) -> None:
        if step % every == 0:
            _save(folder / "checkpoints" / f"checkpoint-{step}", model, tokenizer)

    train(model, tokens, settings, settings.steps, settings.rate, seed=seed, after=keep)


def train(
    model: Any, tokens: torch.Tensor, settings: Settings, steps: int, rate: float, *, seed: int, after: Any = None
) -> None:
    """AdamW on random blocks, with a short warm-up and a linear schedule."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warmup = max(1, steps // 20)
    model.train()
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(step / warmup, (steps - step + 1) / (steps - warmup + 1))
        starts = torch.randint(len(tokens) - settings.block, (settings.batch, 1), generator=generator)
        blocks = tokens[starts + torch.arange(settings.block)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=blocks, labels=blocks).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
        if after is not None:
            after(step)


def _first_texts() -> list[str]:
    """Other texts than the documentation: descriptions of Debian's packages, and programs."""
    prose = ["\n".join(paragraphs) for _, paragraphs in sorted(descriptions("en").items())][:DESCRIPTIONS]
    library = Path(sysconfig.get_paths()["stdlib"])
    return [*prose, *(path.read_text(errors="replace") for path in sorted(library.glob("*.py")))]


def _tokenizer(texts: Sequence[str], settings: Settings) -> Any:
    """Byte-level, as GPT-2's, of the first texts alone."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, bos_token=END, unk_token=END)


def _config(tokenizer: Any, settings: Settings) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=settings.block,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """int64 [length]: the texts behind one another, each with its end."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
