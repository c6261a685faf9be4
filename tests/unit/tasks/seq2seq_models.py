"""A toy language and small encoder-decoders that translate it: digits one way, their names the other way round."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
WORDS = (*SPECIAL, *(str(digit) for digit in range(10)), *NAMES, *"abcdefgh")
PAD, END = 0, 1

Pair = tuple[str, str]


def pairs(count: int, seed: int = 0) -> list[Pair]:
    """`3 1 4` -> `four one three`."""
    chance = random.Random(seed)
    numbers = [[chance.randrange(10) for _ in range(chance.randint(2, 7))] for _ in range(count)]
    return [(" ".join(map(str, each)), " ".join(NAMES[digit] for digit in reversed(each))) for each in numbers]


def write_jsonl(path: Path, rows: Iterable[Pair], names: tuple[str, str] = ("source", "target")) -> Path:
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def word_tokenizer() -> Any:
    """A word is a token; `</s>` ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


@cache
def sentencepiece_model() -> bytes:
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{source} {target}" for source, target in pairs(400, seed=7)]),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()


def marian_tokenizer(folder: Path) -> Any:
    """As OPUS's models have it: two sentencepiece models and one vocabulary, `</s>` first and `<pad>` last."""
    import sentencepiece
    from transformers import MarianTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    model = sentencepiece_model()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    vocabulary = ["</s>", "<unk>", *(piece for piece in found if piece not in ("<s>", "</s>", "<unk>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocabulary)}))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    with warnings.catch_warnings():
        # It recommends a library that it makes no use of here.
        warnings.simplefilter("ignore")
        return MarianTokenizer(
            *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")),
            source_lang="dig",
            target_lang="name",
        )


SMALL = {"d_model": 32, "dropout": 0.0, "init_std": 0.1}
LAYERS = {
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")},
}


def marian(vocabulary: int, end: int = 0, padding: int | None = None, **more: Any) -> Any:
    from transformers import MarianConfig, MarianMTModel

    padding = vocabulary - 1 if padding is None else padding
    return MarianMTModel(
        MarianConfig(
            vocab_size=vocabulary,
            max_position_embeddings=64,
            pad_token_id=padding,
            eos_token_id=end,
            bos_token_id=None,
            decoder_start_token_id=padding,
            forced_eos_token_id=end,
            scale_embedding=True,
            **{**SMALL, **LAYERS, **more},
        )
    )


def t5(vocabulary: int = len(WORDS), **more: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0, **more}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=vocabulary, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD, **settings)
    )


def bart(vocabulary: int = len(WORDS), **more: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocabulary,
            max_position_embeddings=64,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=3,
            decoder_start_token_id=END,
            forced_eos_token_id=END,
            **{**SMALL, **LAYERS, **more},
        )
    )


def train(
    model: Any, tokenizer: Any, at: Sequence[int], save: Callable[[int], None], *, rows: list[Pair] | None = None
) -> None:
    """Teaches the language for as many steps as the last of `at`, and calls `save` at each of them."""
    rows = pairs(2000, seed=1) if rows is None else rows
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, max(at) + 1):
        chosen = [rows[number] for number in torch.randint(len(rows), (32,), generator=generator).tolist()]
        batch = tokenizer([source for source, _ in chosen], padding=True, return_tensors="pt")
        labels = tokenizer(text_target=[target for _, target in chosen], padding=True, return_tensors="pt")
        ids = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step in at:
            save(step)
    model.eval()


def save_untrained(folder: Path, make: Callable[[], Any], tokenizer: Any, count: int = 2) -> CheckpointSet:
    """`count` checkpoints with different random weights, as `save_pretrained` writes them."""
    for step in range(1, count + 1):
        torch.manual_seed(step)
        save(folder, step, make(), tokenizer)
    return discover(folder)


def save(folder: Path, step: int, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder / f"checkpoint-{step}")
    tokenizer.save_pretrained(folder / f"checkpoint-{step}")


def other(name: str, vocabulary: int = len(WORDS), **more: Any) -> Any:
    """A model of Bart's family, by the beginning of its classes' names."""
    import transformers

    tokens = {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": END, "forced_eos_token_id": END}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, max_position_embeddings=64, **{**SMALL, **LAYERS, **tokens, **more}
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def encoder_decoder() -> Any:
    """A BERT that reads and a BERT that writes, as `EncoderDecoderModel` ties them."""
    from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    one = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, pad_token_id=PAD, **shape)
    two = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, pad_token_id=PAD, **shape)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        one, two, decoder_start_token_id=END, pad_token_id=PAD, eos_token_id=END
    )
    return EncoderDecoderModel(config)


def multilingual_tokenizer(kind: str, folder: Path) -> Any:
    """A tokenizer with languages, by the name of its class; every character is a token. Files of its own go below
    `folder`.
    """
    import transformers

    if kind == "M2M100Tokenizer":
        marian_tokenizer(folder)
        words = ["<s>", "<pad>", "</s>", "<unk>", *json.loads((folder / "vocab.json").read_text())]
        vocabulary: Any = {word: number for number, word in enumerate(dict.fromkeys(words))}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "source.spm"))
    letters = sorted({letter for source, target in pairs(50) for letter in source + target if letter != " "})
    pieces = ["▁", *letters]
    if kind == "NllbTokenizer":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        vocabulary = {piece: number for number, piece in enumerate([*special, *pieces])}
        return getattr(transformers, kind)(vocab=vocabulary, merges=[])
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)]
    codes = [(code, 0.0) for code in ("en_XX", "de_DE", "<mask>")]
    return getattr(transformers, kind)(vocab=[*vocabulary, *codes])
