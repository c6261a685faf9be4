"""Small tokenizers and models of texts, made and saved by the real tools."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "hello world, again and again!",
    "a film that i loved, every minute of it",
    "a terrible, boring film: i fell asleep",
    "she sells sea shells by the sea shore",
)


def bert_tokenizer(folder: Path, texts: Iterable[str] = TEXTS) -> Any:
    """WordPiece."""
    import tokenizers
    import transformers

    trained = tokenizers.BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=150, show_progress=False)
    trained.save_model(str(_made(folder)))
    return transformers.BertTokenizer(vocab=str(folder / "vocab.txt"))


def roberta_tokenizer(folder: Path, texts: Iterable[str] = TEXTS) -> Any:
    """Byte-level BPE."""
    import transformers

    _byte_level_bpe(folder, texts)
    return transformers.RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def gpt2_tokenizer(folder: Path, texts: Iterable[str] = TEXTS) -> Any:
    """The same without special tokens around a text, and without one for padding."""
    import transformers

    _byte_level_bpe(folder, texts)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), **names)


def unigram_tokenizer(texts: Iterable[str] = TEXTS) -> Any:
    """The generic class of transformers around a tokenizer of the user's own."""
    import tokenizers
    import transformers

    own = tokenizers.Tokenizer(tokenizers.models.Unigram())
    own.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    own.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", unk_token="<unk>")


def sentencepiece_model(texts: Iterable[str] = TEXTS, **settings: Any) -> bytes:
    """What `spm_train` writes."""
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, hard_vocab_limit=False, minloglevel=2,
        **{"vocab_size": 70, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **settings},
    )  # fmt: skip
    return file.getvalue()


def saved(folder: Path, make: Callable[[], Any], tokenizer: Any = None, *, steps: int = 3) -> CheckpointSet:
    """`checkpoint-10`, `checkpoint-20` ... as a Trainer leaves them, each a little further."""
    torch.manual_seed(0)
    model = make()
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        home = folder / f"checkpoint-{10 * step}"
        model.save_pretrained(home)
        if tokenizer is not None:
            tokenizer.save_pretrained(home)
    return discover(folder)


def bert_classifier(vocab_size: int = 200, **settings: Any) -> Any:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=vocab_size, **{**sizes, "max_position_embeddings": 64, **settings})
    return transformers.BertForSequenceClassification(config)


def _byte_level_bpe(folder: Path, texts: Iterable[str]) -> None:
    import tokenizers

    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(texts, vocab_size=330, special_tokens=special, show_progress=False)
    trained.save_model(str(_made(folder)))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def t5_tokenizer(folder: Path, texts: Iterable[str] = TEXTS) -> Any:
    """sentencepiece's own model, as transformers converts it."""
    import transformers

    (_made(folder) / "spiece.model").write_bytes(sentencepiece_model(texts))
    return transformers.T5Tokenizer.from_pretrained(folder, extra_ids=3)


def rows_file(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
