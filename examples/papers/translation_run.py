"""Trains a small Marian on Debian's descriptions, English to Italian, and leaves checkpoints of the first half."""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from debian import parallel
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`d_model`, layers and feed-forward width give 2.6 million parameters with 8,000 pieces."""

    words: tuple[int, int] = (4, 20)
    """Of the English side."""
    most_pieces: int = 48
    pieces: int = 8_000
    d_model: int = 160
    layers: int = 2
    ffn: int = 480
    batch: int = 64
    steps: int = 3_000
    warmup: int = 300
    rate: float = 2e-3
    checkpoints: int = 50
    held_out: int = 1_200
    """Pairs of validation, and of test."""
    train: int | None = None
    """All."""

    @property
    def every(self) -> int:
        """Checkpoints of the first half of the steps."""
        return self.steps // 2 // self.checkpoints


QUICK = Settings(pieces=600, d_model=32, layers=1, ffn=64, steps=40, warmup=5, checkpoints=5, held_out=64, train=2_000)


def make_run(folder: Path, seed: int, settings: Settings) -> None:
    """Fills `folder`: train, val and test.jsonl; checkpoints/; end/, the checkpoint at the end of the schedule."""
    train, val, test = divided(seed, settings)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        lines = (json.dumps({"source": source, "target": target}, ensure_ascii=False) for source, target in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    tokenizer = _tokenizer(folder / "tokenizer", train, settings)
    torch.manual_seed(seed)
    model = MarianMTModel(_config(len(tokenizer), settings))
    print(f"{len(train):,} pairs, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    batches = _batches(tokenizer, train, settings, seed)
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    model.train()
    for step in range(1, settings.steps + 1):
        loss = _step(model, next(batches), optimiser, _rate(step, settings))
        if step % settings.every == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)
        if step % settings.every == 0 and step <= settings.every * settings.checkpoints:
            _save(folder / "checkpoints" / f"checkpoint-{step}", model, tokenizer)
    _save(folder / "end" / f"checkpoint-{settings.steps}", model, tokenizer)


def divided(seed: int, settings: Settings) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Training, validation and test: whole descriptions, so that none stands in two of them."""
    low, high = settings.words
    by_key = parallel("en", "it")
    keys = sorted(by_key)
    random.Random(seed).shuffle(keys)
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for key in keys:
        fitting = [pair for pair in by_key[key] if low <= len(pair[0].split()) <= high]
        _, val, test = parts
        part = test if len(test) < settings.held_out else val if len(val) < settings.held_out else parts[0]
        part.extend(fitting)
    train, val, test = parts
    return train[: settings.train], val[: settings.held_out], test[: settings.held_out]


def _tokenizer(folder: Path, train: Sequence[Pair], settings: Settings) -> Any:
    """One vocabulary for both languages, of the training part alone, in OPUS's layout."""
    folder.mkdir()
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([side for pair in train for side in pair]),
        model_writer=written,
        vocab_size=settings.pieces,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    found = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    vocabulary = ["</s>", "<unk>", *(piece for piece in found if piece not in ("<s>", "</s>", "<unk>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocabulary)}))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(written.getvalue())
    with warnings.catch_warnings():
        # It recommends a library that it makes no use of here.
        warnings.simplefilter("ignore")
        names = ("source.spm", "target.spm", "vocab.json")
        return MarianTokenizer(*(str(folder / name) for name in names), source_lang="en", target_lang="it")


def _config(vocabulary: int, settings: Settings) -> MarianConfig:
    sides = {"layers": settings.layers, "attention_heads": 4, "ffn_dim": settings.ffn}
    return MarianConfig(
        vocab_size=vocabulary,
        d_model=settings.d_model,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
        max_position_embeddings=128,
        pad_token_id=vocabulary - 1,
        decoder_start_token_id=vocabulary - 1,
        eos_token_id=0,
        forced_eos_token_id=0,
        bos_token_id=None,
        scale_embedding=True,
        activation_function="relu",
        dropout=0.1,
    )


def _batches(tokenizer: Any, train: Sequence[Pair], settings: Settings, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Of pairs of about one length, so that little is padding; shuffled anew in each epoch."""
    sources = tokenizer([source for source, _ in train], truncation=True, max_length=settings.most_pieces)["input_ids"]
    targets = tokenizer(text_target=[target for _, target in train], truncation=True, max_length=settings.most_pieces)
    rows = list(zip(sources, targets["input_ids"], strict=True))
    order, pool = random.Random(seed), 20 * settings.batch
    while True:
        order.shuffle(rows)
        for start in range(0, len(rows), pool):
            alike = sorted(rows[start : start + pool], key=lambda row: (len(row[1]), len(row[0])))
            batches = [alike[first : first + settings.batch] for first in range(0, len(alike), settings.batch)]
            order.shuffle(batches)
            for batch in batches:
                yield _batch(batch, tokenizer.pad_token_id)


def _batch(rows: Sequence[tuple[list[int], list[int]]], padding: int) -> dict[str, torch.Tensor]:
    def padded(side: int, value: int) -> torch.Tensor:
        sequences = [torch.tensor(row[side]) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)

    ids = padded(0, padding)
    return {"input_ids": ids, "attention_mask": (ids != padding).long(), "labels": padded(1, -100)}


def _step(model: Any, batch: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer, rate: float) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch).logits
    labels = batch["labels"]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=0.1)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def _rate(step: int, settings: Settings) -> float:
    """A linear warm-up, then the inverse square root of the step, as is usual for transformers."""
    return settings.rate * min(step / settings.warmup, (settings.warmup / step) ** 0.5)


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
