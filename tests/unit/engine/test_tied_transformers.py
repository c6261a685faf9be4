"""Language models of transformers: tied tensors stored once, tensors that the model makes itself, wrapped names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import EngineError, average, candidate_state, discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.model.binding import bind
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.transformers_names import stored_names

transformers = pytest.importorskip("transformers")

TOKENS = 40
SMALL = {"vocab_size": TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {
    **{
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 0},
}
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def gpt2() -> Any:
    return transformers.AutoModelForCausalLM.from_config(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SMALL)
    )


def llama() -> Any:
    return transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**BERT, num_key_value_heads=1, tie_word_embeddings=True, **SMALL)
    )


def t5() -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_config(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0, **SMALL)
    )


def bart() -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_config(transformers.BartConfig(**SEQ2SEQ, **SMALL))


def marian() -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_config(transformers.MarianConfig(**SEQ2SEQ, **SMALL))


def bert() -> Any:
    return transformers.AutoModelForMaskedLM.from_config(transformers.BertConfig(**BERT, **SMALL))


def bert_classifier() -> Any:
    return transformers.AutoModelForSequenceClassification.from_config(transformers.BertConfig(**BERT, **SMALL))


MODELS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "gpt2": (gpt2, {"lm_head.weight"}),
    "llama": (llama, {"lm_head.weight"}),
    "t5": (t5, {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}),
    "bert": (bert, {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}),
    "marian": (
        marian,
        {"lm_head.weight", "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"},
    ),
    "bart": (bart, {"lm_head.weight", "model.encoder.embed_tokens.weight"}),
}
"""With names that the model has and its files have not."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    batch_size: int = 8


class Texts:
    """Sequences of random words."""

    def __init__(self, count: int) -> None:
        self.words = torch.randint(3, TOKENS, (count, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.words)

    def batch(self, indices: Tensor) -> Batch:
        return {"words": self.words[indices]}


class LanguageModel:
    """Every word is to be predicted, whatever the model sees of it: enough for a loss."""

    name: ClassVar[str] = "test-language-model"
    summary: ClassVar[str] = "For tests."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = NoOptions
    batch_size = 8

    def __init__(self, build: Callable[[], Any]) -> None:
        self.build = build

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> LanguageModel:
        return cls(gpt2)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        model: nn.Module = self.build()
        return model

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Texts:
        return Texts(48)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.evaluate(model, batch)["loss"].mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        words = batch["words"]
        more = {"decoder_input_ids": words} if model.config.is_encoder_decoder else {}
        logits = model(input_ids=words, **more).logits
        return {"loss": nn.functional.cross_entropy(logits.transpose(1, 2), words, reduction="none").mean(dim=1)}


def trained(folder: Path, build: Callable[[], Any], count: int = 3) -> Path:
    """As a Trainer leaves them."""
    torch.manual_seed(0)
    model = build()
    for step in range(1, count + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / f"checkpoint-{step}")
    return folder


def changed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    for path in folder.rglob("model.safetensors"):
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("build", "absent"), MODELS.values(), ids=MODELS)
def test_a_language_model_with_tied_tensors_is_averaged_and_loads_again(
    tmp_path: Path, build: Callable[[], Any], absent: set[str]
) -> None:
    folder = trained(tmp_path / "run", build)
    files = [load_file(folder / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    assert absent <= build().state_dict().keys() - files[0].keys(), "otherwise this shows nothing"
    task = LanguageModel(build)
    outcome = average(folder, folder, output=tmp_path / "out", task=task, method="twa", method_options={"steps": 4})
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == files[0].keys()
    assert candidate_state(tmp_path / "out", folder, "best").keys() == files[0].keys()
    model, info = type(build()).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    _, select = split(48, 0.5, 0)
    with torch.no_grad():
        loss = float(task.evaluate(model.eval(), Texts(48).batch(select))["loss"].mean())
    score = next(score for score in outcome.candidates if score.method == outcome.method)
    assert loss == pytest.approx(score.select["loss"], abs=1e-5)


@pytest.mark.parametrize(("build", "absent"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("prefix", ["module.", "model.", "model._orig_mod."])
def test_wrapped_files_of_a_language_model_bind_too(
    tmp_path: Path, build: Callable[[], Any], absent: set[str], prefix: str
) -> None:
    folder = changed(trained(tmp_path, build, count=2), lambda state: {prefix + name: state[name] for name in state})
    checkpoints = discover(folder)
    model = build()
    binding = bind(model, checkpoints, stored_names(model, checkpoints))
    bound = {*binding.parameters, *binding.statistics, *binding.counters}
    assert bound == set(checkpoints.tensors)
    binding.load(checkpoints.checkpoints[0])
    state = model.state_dict()
    for name, tensor in load_file(folder / "checkpoint-1" / "model.safetensors").items():
        if name.removeprefix(prefix) in state:
            assert torch.equal(state[name.removeprefix(prefix)], tensor), name


def test_buffers_that_older_versions_saved_are_passed_over_and_written_again(tmp_path: Path) -> None:
    ids = torch.arange(512)[None]
    folder = changed(
        trained(tmp_path / "run", bert_classifier, count=2),
        lambda state: {**state, "bert.embeddings.position_ids": ids},
    )
    checkpoints = discover(folder)
    model = bert_classifier()
    binding = bind(model, checkpoints, stored_names(model, checkpoints))
    assert binding.unused == ("bert.embeddings.position_ids",)
    rotary = changed(
        trained(tmp_path / "rotary", llama, count=2),
        lambda state: {**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    )
    checkpoints = discover(rotary)
    model = llama()
    binding = bind(model, checkpoints, stored_names(model, checkpoints))
    assert binding.unused == ("model.layers.0.self_attn.rotary_emb.inv_freq",)


def test_equal_copies_of_a_tied_tensor_in_the_files_are_an_alias(tmp_path: Path) -> None:
    folder = changed(
        trained(tmp_path / "run", gpt2, count=2),
        lambda state: {**state, "lm_head.weight": state["transformer.wte.weight"].clone()},
    )
    checkpoints = discover(folder)
    model = gpt2()
    names = set(checkpoints.tensors)
    binding = bind(model, checkpoints, stored_names(model, checkpoints))
    assert len(binding.aliases) == 1
    assert {*binding.parameters, *binding.aliases} == names


@pytest.mark.parametrize(
    ("build", "change", "words"),
    [
        (bert_classifier, lambda state: without(state, "classifier.weight"), r"`classifier\.weight` of shape"),
        (gpt2, lambda state: without(state, "transformer.wte.weight"), r"has the tensor `"),
        (gpt2, lambda state: {**state, "value_head.weight": torch.ones(1, 16)}, r"no tensor `value_head\.weight`"),
        (marian, lambda state: {**state, "model.shared.weight": torch.ones(8, 16)}, r"shape"),
    ],
)
def test_what_transformers_would_make_up_is_refused(
    tmp_path: Path,
    build: Callable[[], Any],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    words: str,
) -> None:
    checkpoints = discover(changed(trained(tmp_path, build, count=2), change))
    model = build()
    with pytest.raises(EngineError, match=words) as caught:
        bind(model, checkpoints, stored_names(model, checkpoints))
    assert caught.value.code == "model-mismatch"


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {each: tensor for each, tensor in state.items() if each != name}
