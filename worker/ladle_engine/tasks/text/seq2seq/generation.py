"""Texts that an encoder-decoder generates, by greedy or beam search: the same whatever the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.distributed.sharded import is_fsdp_module
from ladle_engine.errors import TaskError
from ladle_engine.progress import pulse, warn
from ladle_engine.tasks.text.seq2seq.generation_settings import GenerationSettings

MOST_NUMBERS = 1 << 28
"""In the caches of the examples that are generated together on a CPU: 1 GiB of float32."""


class Generator:
    """Calls `generate` of transformers for as many examples at a time as memory allows."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        self._values = settings.values
        self._remarks = list(settings.remarks)
        self._most_rows: int | None = None
        """What a GPU had memory for; None as long as it had enough."""

    def generate(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """One row of tokens for each example, int64 on the CPU, with special tokens and padding.

        Collective for a sharded model, of which every rank must call it equally often; then all examples are generated
        together, because the ranks must also call the model equally often.

        Raises `TaskError` (model-mismatch) where the settings and the model do not fit, and `torch.OutOfMemoryError`
        where there is no memory for a single example.
        """
        while self._remarks:
            # Now, because a job that is judged by the loss generates nothing.
            warn(self._remarks.pop(0))
        if is_fsdp_module(model):
            return list(self._sharded(model, input_ids, attention_mask))
        rows: list[Tensor] = []
        while len(rows) < len(input_ids):
            part = slice(len(rows), len(rows) + self._rows_at_once(model, input_ids))
            try:
                tokens = self._call(model, input_ids[part], attention_mask[part])
            except torch.OutOfMemoryError:
                if not self._halve(len(input_ids[part])):
                    raise
                # Beyond this block, where the failed call holds its tensors no more.
                tokens = None
            if tokens is None:
                torch.cuda.empty_cache()
            else:
                rows += tokens.cpu()
            pulse()
        return rows

    def _rows_at_once(self, model: nn.Module, input_ids: Tensor) -> int:
        if self._most_rows is not None:
            return self._most_rows
        if input_ids.device.type != "cpu":
            # It says itself when it has too little, where a CPU ends the process.
            return len(input_ids)
        return max(1, MOST_NUMBERS // max(1, self._numbers_per_example(model, input_ids.shape[1])))

    def _numbers_per_example(self, model: nn.Module, source_length: int) -> int:
        """Keys and values of the decoder's layers, and scores of all tokens of the vocabulary."""
        config: Any = getattr(model, "config", None)
        layers, width, vocabulary = (
            _first(config, names)
            for names in (
                ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
                ("d_model", "hidden_size"),
                ("vocab_size",),
            )
        )
        length = source_length + int(self._values["max_new_tokens"])
        return self._settings.num_beams * (2 * layers * width * length + 4 * vocabulary)

    def _halve(self, rows: int) -> bool:
        """Whether there was anything to halve."""
        if rows < 2:
            return False
        if self._most_rows is None:
            warn(
                f"The GPU ran out of memory while texts were generated for {rows} examples at a time: it goes on with "
                f"fewer. Scores stay the same. A smaller `batch_size` or fewer `num_beams` save the attempts."
            )
        self._most_rows = rows // 2
        return True

    def _sharded(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if not getattr(model, "_gathers_to_generate", False):
            # `generate` calls the encoder alone, which without this would find parameters of the whole model in shards.
            from torch.distributed.fsdp import register_fsdp_forward_method

            register_fsdp_forward_method(model, "generate")
            model._gathers_to_generate = True  # type: ignore[assignment]
        return self._call(model, input_ids, attention_mask, synced_gpus=True).cpu()

    def _call(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, synced_gpus: bool = False) -> Tensor:
        from transformers import GenerationConfig, LogitsProcessorList

        network: Any = model
        try:
            with torch.no_grad():
                tokens: Tensor = network.generate(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    generation_config=GenerationConfig(**self._values, do_sample=False, use_cache=True),
                    synced_gpus=synced_gpus,
                    # For every token, because a batch may take long.
                    logits_processor=LogitsProcessorList([_beat]),
                )
        except Exception as error:
            if isinstance(error, TaskError) or is_machine_fault(error):
                raise
            raise TaskError(
                "model-mismatch",
                f"The model must generate texts with the settings of `generation_config.json`, but says: "
                f"{type(error).__name__}: {str(error)[:500]}",
            ) from error
        return tokens


def _first(config: Any, names: tuple[str, ...]) -> int:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), 1)


def _beat(tokens: Tensor, scores: Tensor) -> Tensor:
    pulse()
    return scores
