"""Translation, summaries and whatever else turns one text into another, with an encoder-decoder of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.options import option
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.metrics import loss_per, perplexity_per
from ladle_engine.tasks.tables import TableOptions
from ladle_engine.tasks.text.heads import HEADS, recognised
from ladle_engine.tasks.text.models import build_model, fits
from ladle_engine.tasks.text.padding import decoded_texts
from ladle_engine.tasks.text.seq2seq.corpus_scores import BLEU_TOKENIZERS
from ladle_engine.tasks.text.seq2seq.generated_metrics import GENERATED_METRICS, generated_statistics
from ladle_engine.tasks.text.seq2seq.open_pairs import open_pairs
from ladle_engine.tasks.text.seq2seq.pair_data import PairData
from ladle_engine.tasks.text.seq2seq.pair_losses import target_losses
from ladle_engine.tasks.text.seq2seq.seq2seq_folder import AUTO_CLASS, Seq2SeqFolder, TextOptions, open_folder
from ladle_engine.tasks.text.token_losses import IGNORED
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.with_options import WithOptions


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOptions(TextOptions, TableOptions):
    batch_size: int = option(32, "pairs per batch, to train, to evaluate and to generate", at_least=1)
    bleu_tokenizer: str = option("13a", "how sacrebleu cuts words", one_of=BLEU_TOKENIZERS)
    lowercase: bool = option(False, "whether BLEU and chrF pass over the case of letters")
    rouge_stemmer: bool = option(False, "whether ROUGE takes English words by their stems")


class Seq2Seq(WithOptions[Seq2SeqOptions]):
    name: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = "Translates, sums up or otherwise rewrites texts with an encoder-decoder of transformers."
    metrics: ClassVar[tuple[Metric, ...]] = (loss_per("tokens"), perplexity_per("tokens"), *GENERATED_METRICS)
    options_type: ClassVar[type] = Seq2SeqOptions

    def __init__(self, options: Seq2SeqOptions | None = None) -> None:
        super().__init__(options)
        self._folder: Seq2SeqFolder | None = None
        """None before `for_checkpoints`."""

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        # Models of images and sound have such names too.
        return recognised(checkpoints, HEADS[AUTO_CLASS].suffixes) and fits(checkpoints, AUTO_CLASS)

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Self:
        made = type(self)(self.options)
        made._folder = open_folder(checkpoints, self.options, self.name)
        return made

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        # transformers takes seconds to import.
        from transformers import GenerationConfig

        model: Any = build_model(checkpoints, AUTO_CLASS, self.name)
        # It may have taken settings from `config.json`, which would fill in what the folder's leave open.
        model.generation_config = GenerationConfig()
        made: nn.Module = model
        return made

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        folder = self._opened
        pairs = open_pairs(
            path,
            columns=self.options.columns,
            split=self.options.split,
            limit=self.options.limit,
            languages=folder.languages,
        )
        return PairData(pairs, folder.encoder, folder.padding)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Per token of the whole data set, so that it is a mean over examples."""
        return (target_losses(model, batch) * batch["scale"]).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"nll": target_losses(model, batch), "tokens": (batch["labels"] != IGNORED).sum(dim=1)}

    def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        tokens = self._opened.generator.generate(model, batch["input_ids"], batch["attention_mask"])
        texts = self._opened.texts_of(tokens)
        references = decoded_texts(batch["references"], batch["reference_bytes"])
        return generated_statistics(
            texts,
            references,
            bleu_tokenizer=self.options.bleu_tokenizer,
            lowercase=self.options.lowercase,
            stemmer=self.options.rouge_stemmer,
        )

    @property
    def _opened(self) -> Seq2SeqFolder:
        assert self._folder is not None, "a task is made for its checkpoints before anything else"
        return self._folder
